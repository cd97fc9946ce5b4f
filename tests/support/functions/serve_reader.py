"""A handler that the tests serve in a process of its own: it needs the object store."""

from bucky.cloudevents import CloudEvent
from bucky.serve.handlers import Context
from bucky.store.objects import ObjectStore


def handle(_event: CloudEvent, _ctx: Context, objects: ObjectStore) -> None:
    """Read an object that is not there."""
    objects.get("missing")
