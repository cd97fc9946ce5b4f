"""Finding a handler, and saying in one sentence what is wrong with it."""

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from bucky.cloudevents import CloudEvent
from bucky.errors import SettingsError
from bucky.events import InstanceStored, payload_of
from bucky.log import get_logger
from bucky.serve.contract import BatchResult
from bucky.serve.handlers import DEPENDENCIES, Context, HandlerDependency, function_name, load_handler, register
from bucky.settings import Settings
from bucky.store.objects import ObjectStore


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make a handler module out of functions and return its name."""

    def make(**members: Any) -> str:
        made = ModuleType("some_function.handler")
        for name, member in members.items():
            setattr(made, name, member)
        monkeypatch.setitem(sys.modules, "some_function", ModuleType("some_function"))
        monkeypatch.setitem(sys.modules, "some_function.handler", made)
        return "some_function.handler"

    return make


def plain(_event: CloudEvent, _ctx: Context) -> None:
    """Need nothing."""


def with_dependencies(_event: CloudEvent, _ctx: Context, objects: ObjectStore, settings: Settings) -> None:
    """Need two things."""
    del objects, settings


def batch(_events: Sequence[CloudEvent], _ctx: Context) -> BatchResult:
    """Need nothing."""
    return BatchResult(failures=(), events=())


def unknown_dependency(_event: CloudEvent, _ctx: Context, database: object) -> None:
    """Need what nobody provides."""
    del database


def wrong_annotation(_event: CloudEvent, _ctx: Context, objects: Settings) -> None:
    """Need an object store, and call it settings."""
    del objects


def no_annotation(_event, _ctx, objects) -> None:  # type: ignore[no-untyped-def]
    """Need something unnamed."""
    del objects


def everything(_event: CloudEvent, _ctx: Context, **rest: Any) -> None:
    """Need whatever there is."""
    del rest


def too_short(_event: CloudEvent) -> None:
    """Forget the context."""


async def streaming(_event: CloudEvent, _ctx: Context) -> Any:
    """Yield asynchronously."""
    yield None


def test_a_handler_is_found_with_the_dependencies_it_declares(module: Callable[..., str]) -> None:
    """Protects the way a function asks for things: by naming them."""
    handler = load_handler(module(handle=with_dependencies))
    assert (handler.function, handler.kind) == ("some-function", "handle")
    assert handler.dependencies == ("objects", "settings")
    assert load_handler(module(handle_batch=batch)).kind == "handle_batch"


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({}, "defines none; define one of handle, handle_batch, process"),
        ({"handle": plain, "handle_batch": batch}, "defines handle and handle_batch; define one of"),
        ({"handle": unknown_dependency}, "asks for 'database', which nobody provides"),
        ({"handle": wrong_annotation}, "declares 'objects' as Settings; write `objects: ObjectStore`"),
        ({"handle": no_annotation}, "declares 'objects' as no type; write `objects: ObjectStore`"),
        ({"handle": everything}, "has a parameter without a name of its own"),
        ({"handle": too_short}, r"takes 1 parameter\(s\)"),
        ({"handle": streaming}, "is an async generator"),
    ],
)
def test_a_wrong_handler_is_refused_at_the_start(
    module: Callable[..., str], members: dict[str, Any], sentence: str
) -> None:
    """Protects against a function that starts and then fails every event."""
    with pytest.raises(SettingsError, match=sentence):
        load_handler(module(**members))


def test_a_missing_module_is_named() -> None:
    """Protects whoever mistypes a module from guessing which one was not found."""
    with pytest.raises(SettingsError, match="there is no module no_such_function"):
        load_handler("no_such_function.handler")
    with pytest.raises(SettingsError, match="set it, such as"):
        load_handler("")


def test_anyone_can_provide_a_further_dependency(module: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects extension: a site adds its own dependency without changing the library."""
    monkeypatch.setattr("bucky.serve.handlers.DEPENDENCIES", dict(DEPENDENCIES))
    register("database", HandlerDependency("builtins.object", lambda _settings: object()))
    assert load_handler(module(handle=unknown_dependency)).dependencies == ("database",)


def test_the_function_name_comes_from_the_folder() -> None:
    """Protects the one name a function has in the stack file, in logs and in event sources."""
    assert function_name("parse_instance.handler") == "parse-instance"
    assert function_name("site.models.chest_xray.handler") == "chest-xray"


def test_a_caused_event_stays_in_the_trace_of_its_cause() -> None:
    """Protects one trace from the association to the last delivery."""
    cause = CloudEvent(
        id="1", source="/edge", type="x", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    )
    instance = InstanceStored.model_validate(INSTANCE)
    made = Context("some-function", get_logger("test")).event(instance, cause)
    assert made.source == "/bucky/function/some-function"
    assert made.traceparent is not None
    assert cause.traceparent is not None
    assert made.traceparent.split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert made.traceparent != cause.traceparent
    assert payload_of(made) == instance


INSTANCE = {
    "study_instance_uid": "1.2",
    "series_instance_uid": "1.2.3",
    "sop_instance_uid": "1.2.3.4",
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
    "sha256": "0" * 64,
    "size": 10,
    "bucket": "bucky",
    "key": "k",
    "calling_aet": "A",
    "called_aet": "B",
    "source_address": "127.0.0.1",
    "association_id": "1",
    "received_at": "2026-01-01T00:00:00Z",
}
