"""Comparing two instances that are in the object store."""

import tempfile
from pathlib import Path

from bucky.differences.comparing import compared
from bucky.differences.model import Differences
from bucky.store.objects import ObjectStore


def compared_objects(objects: ObjectStore, first_key: str, second_key: str) -> Differences:
    """Return how a second object differs from a first; raise what the object store raises."""
    with tempfile.TemporaryDirectory(prefix="bucky-compare-") as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        objects.download(first_key, first)
        objects.download(second_key, second)
        return compared(first, second)
