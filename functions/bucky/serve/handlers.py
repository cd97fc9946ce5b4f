"""Function handlers: how they are found, what they are given, and what their exceptions mean.

`functions/<name>/handler.py` defines one plain function, sync or async:

    def handle(event: CloudEvent, ctx: Context, ...) -> Iterable[CloudEvent] | None
    def handle_batch(events: Sequence[CloudEvent], ctx: Context, ...) -> BatchResult
    def process(given: Given, ctx: Context, ...) -> Iterable[Made]      (never async; `bucky.serve.processing_input`)

Every further parameter is a dependency, such as `objects: ObjectStore` or `settings: Settings`: found by
its name, checked by its annotation, made once per process (`DEPENDENCIES`; `register` adds one).

What an exception means:

                  from handle(): this event        from handle_batch(): every event
    Permanent     failed, do not try again         a lone event failed; several are refused (422), so that
                                                   the caller can find the one that is wrong
    Retriable     failed, try again                failed, try again
    anything else failed, try again; it is logged  the call failed (500); it is logged
"""

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from structlog.typing import FilteringBoundLogger

from bucky.cloudevents import CloudEvent, Payload
from bucky.errors import Permanent, Retriable, SettingsError
from bucky.log import get_logger
from bucky.serve.contract import BatchResult, ItemFailure
from bucky.settings import Settings
from bucky.trace import child_of

Kind = Literal["handle", "handle_batch", "process"]


@dataclass(frozen=True)
class Context:
    """What every handler gets: the function's name and its logger."""

    function: str
    log: FilteringBoundLogger

    def event(self, payload: Payload, cause: CloudEvent) -> CloudEvent:
        """Wrap a payload as an event of this function, in the trace of the event that caused it."""
        return CloudEvent.of(
            payload, source=f"/bucky/function/{self.function}", traceparent=child_of(cause.traceparent)
        )


@dataclass(frozen=True)
class HandlerDependency:
    """Something a handler can ask for; `open` makes it, `check` raises unless it can be reached."""

    annotation: str
    open: Callable[[Settings], Any]
    check: Callable[[Any], None] | None = None
    close: Callable[[Any], None] | None = None


def _open_objects(settings: Settings) -> Any:
    from bucky.store.local_cache import cached_object_store

    return cached_object_store(settings)


def _open_index(settings: Settings) -> Any:
    # Imported here so that a function without an index needs no SQLAlchemy in its image.
    index = importlib.import_module("bucky.index").Index.open(settings.index_url.get_secret_value())
    index.migrate()
    return index


def _open_crosswalks(settings: Settings) -> Any:
    from bucky.routing.crosswalk import Crosswalks

    return Crosswalks(settings.crosswalk_dir)


def _open_destination_secrets(settings: Settings) -> Any:
    return importlib.import_module("bucky.forwarding").Secrets.of(settings)


def _open_destination_places(settings: Settings) -> Any:
    return importlib.import_module("bucky.forwarding").Places.of(settings)


def _open_senders(settings: Settings) -> Any:
    forwarding = importlib.import_module("bucky.forwarding")
    return forwarding.Senders(forwarding.Secrets.of(settings), forwarding.Places.of(settings))


def _open_barrier(settings: Settings) -> Any:
    from bucky.store.barrier import barrier_of

    return barrier_of(settings)


DEPENDENCIES: dict[str, HandlerDependency] = {
    "settings": HandlerDependency("bucky.settings.Settings", lambda settings: settings),
    "barrier": HandlerDependency("bucky.store.barrier.Barrier", _open_barrier),
    "objects": HandlerDependency("bucky.store.objects.ObjectStore", _open_objects, lambda objects: objects.check()),
    "index": HandlerDependency(
        "bucky.index.Index", _open_index, lambda index: index.check(), lambda index: index.close()
    ),
    "crosswalks": HandlerDependency(
        "bucky.routing.crosswalk.Crosswalks", _open_crosswalks, close=lambda crosswalks: crosswalks.close()
    ),
    "destination_secrets": HandlerDependency("bucky.forwarding.secrets.Secrets", _open_destination_secrets),
    "destination_places": HandlerDependency("bucky.forwarding.places.Places", _open_destination_places),
    "senders": HandlerDependency("bucky.forwarding.Senders", _open_senders, None, lambda senders: senders.close()),
}


def register(name: str, dependency: HandlerDependency) -> None:
    """Let handlers ask for a dependency by this parameter name."""
    DEPENDENCIES[name] = dependency


class RefusedBatch(Permanent):
    """A batch handler refused several events at once, and did not say which of them is wrong."""


@dataclass(frozen=True)
class Handler:
    """A checked handler: its function name, its shape, and the dependencies it declared."""

    function: str
    kind: Kind
    call: Callable[..., Any]
    dependencies: tuple[str, ...]

    async def run(self, events: Sequence[CloudEvent], context: Context, dependencies: Mapping[str, Any]) -> BatchResult:
        """Process a batch; sync handlers run in a thread, one event after the other."""
        if inspect.iscoroutinefunction(self.call):
            return await self._run_async(events, context, dependencies)
        return await asyncio.to_thread(self._run_sync, events, context, dependencies)

    async def _run_async(
        self, events: Sequence[CloudEvent], context: Context, dependencies: Mapping[str, Any]
    ) -> BatchResult:
        if self.kind == "handle_batch":
            with _WholeBatch(events) as batch:
                batch.result = await self.call(events, context, **dependencies)
            return batch.checked()
        outcomes = _Outcomes(context)
        for event in events:
            with outcomes.of(event):
                outcomes.add(await self.call(event, context, **dependencies))
        return outcomes.result()

    def _run_sync(self, events: Sequence[CloudEvent], context: Context, dependencies: Mapping[str, Any]) -> BatchResult:
        if self.kind == "handle_batch":
            with _WholeBatch(events) as batch:
                batch.result = self.call(events, context, **dependencies)
            return batch.checked()
        outcomes = _Outcomes(context)
        for event in events:
            with outcomes.of(event):
                outcomes.add(self.call(event, context, **dependencies))
        return outcomes.result()


class _Outcomes:
    """Collects the outcomes of single events; the one place where a handler's exception is judged."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._event: CloudEvent | None = None
        self._failures: dict[str, ItemFailure] = {}
        self._events: list[CloudEvent] = []

    def of(self, event: CloudEvent) -> "_Outcomes":
        self._event = event
        return self

    def add(self, returned: Iterable[CloudEvent] | None) -> None:
        """Keep what the handler returned, once it has returned all of it."""
        events = list(returned or ())
        if not all(isinstance(event, CloudEvent) for event in events):
            raise TypeError("a handler returns CloudEvents")
        self._events.extend(events)

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if error is None or self._event is None:
            return False
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, Permanent | Retriable):
            self._context.log.error("handler.unexpected", event_id=self._event.id, exc_info=error)
        failure = failure_of(self._event.id, error)
        known = self._failures.get(failure.item_identifier)
        # Two events may share an id: trying again is always safe, giving up is not.
        if known is None or failure.retryable:
            self._failures[failure.item_identifier] = failure
        return True

    def result(self) -> BatchResult:
        return BatchResult(failures=tuple(self._failures.values()), events=tuple(self._events))


class _WholeBatch:
    """Judges what a batch handler returned, or raised for the batch as a whole."""

    def __init__(self, events: Sequence[CloudEvent]) -> None:
        self._events = events
        self.result: object = None

    def __enter__(self) -> "_WholeBatch":
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, Permanent) and len(self._events) > 1:
            raise RefusedBatch(str(error)) from error
        if isinstance(error, Permanent | Retriable):
            ids = dict.fromkeys(event.id for event in self._events)
            self.result = BatchResult(failures=tuple(failure_of(item, error) for item in ids), events=())
            return True
        return False

    def checked(self) -> BatchResult:
        """Return the result, or raise `TypeError` when it names what was not in the batch."""
        if not isinstance(self.result, BatchResult):
            raise TypeError(f"handle_batch returned {type(self.result).__name__}, not a BatchResult")
        known = {event.id for event in self._events}
        unknown = {failure.item_identifier for failure in self.result.failures} - known
        if unknown:
            raise TypeError(f"handle_batch named {len(unknown)} item(s) that were not in the batch")
        return self.result


def failure_of(identifier: str, error: Exception) -> ItemFailure:
    """Map an exception to the outcome of one event."""
    if isinstance(error, Permanent):
        return ItemFailure(item_identifier=identifier, retryable=False, reason=str(error))
    if isinstance(error, Retriable):
        return ItemFailure(item_identifier=identifier, retryable=True, retry_after=error.retry_after, reason=str(error))
    # The message of an unforeseen error may hold anything, patient values included; its name does not.
    return ItemFailure(item_identifier=identifier, retryable=True, reason=f"unexpected {type(error).__name__}")


def load_handler(module_name: str) -> Handler:
    """Import a handler module and check its signature; raise `SettingsError` in one sentence."""
    if not module_name:
        raise SettingsError("BUCKY_HANDLER names no module; set it, such as BUCKY_HANDLER=parse_instance.handler")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SettingsError(f"BUCKY_HANDLER={module_name}: there is no module {error.name}") from error
    defined = [name for name in get_args(Kind) if callable(getattr(module, name, None))]
    if len(defined) != 1:
        raise SettingsError(
            f"{module_name} defines {' and '.join(defined) or 'none'}; define one of {', '.join(get_args(Kind))}"
        )
    kind: Kind = defined[0]
    call = getattr(module, kind)
    if kind == "process" and inspect.iscoroutinefunction(call):
        raise SettingsError(f"{module_name}.process is async; it runs in a thread of its own, so write plain `def`")
    if inspect.isasyncgenfunction(call):
        raise SettingsError(f"{module_name}.{kind} is an async generator; return a list of events instead")
    return Handler(function_name(module_name), kind, call, _declared(call, f"{module_name}.{kind}"))


def function_name(module_name: str) -> str:
    """Return the OpenFaaS name of a handler module: `parse_instance.handler` is `parse-instance`."""
    return module_name.removesuffix(".handler").rsplit(".", 1)[-1].replace("_", "-")


def _declared(call: Callable[..., Any], where: str) -> tuple[str, ...]:
    parameters = list(inspect.signature(call).parameters.values())
    if len(parameters) < 2:
        raise SettingsError(f"{where} takes {len(parameters)} parameter(s); its first two are event(s) and ctx")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) for p in parameters[2:]):
        raise SettingsError(f"{where} has a parameter without a name of its own; name each dependency it needs")
    hints = get_type_hints(call)
    for parameter in parameters[2:]:
        _check_dependency(parameter.name, hints.get(parameter.name), where)
    return tuple(parameter.name for parameter in parameters[2:])


def _check_dependency(name: str, annotation: Any, where: str) -> None:
    dependency = DEPENDENCIES.get(name)
    if dependency is None:
        raise SettingsError(f"{where} asks for {name!r}, which nobody provides; there are {', '.join(DEPENDENCIES)}")
    module, _, attribute = dependency.annotation.rpartition(".")
    if annotation is not getattr(importlib.import_module(module), attribute):
        shown = getattr(annotation, "__name__", "no type")
        raise SettingsError(f"{where} declares {name!r} as {shown}; write `{name}: {attribute}`")


def make_context(handler: Handler) -> Context:
    """Return the context that every call of a handler shares."""
    return Context(handler.function, get_logger(handler.function))
