"""Is every part up: asked at most once a second each, in parallel, with a time limit."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from pydantic import BaseModel

from admin_api.broker_link import BrokerConnection
from bucky.errors import BuckyError
from bucky.index import Index
from bucky.runtime.trouble import State, Troubles, worst
from bucky.settings import Settings
from bucky.store.objects import ObjectStore

CHECK_SECONDS = 3.0
FRESH_SECONDS = 1.0
WELL = {"ok", "up", "OK"}
EFFECTS = {
    "index": "Nothing new is indexed, routed or shown; it waits in the streams.",
    "store": "What is received stays in the edge's spool; nothing is read or delivered from the store.",
    "broker": "What is received stays in the edge's spool; nothing is indexed or delivered.",
    "functions": "Nothing is indexed, routed or delivered; it waits in the streams.",
    "connector": "Nothing is indexed, routed or delivered; it waits in the streams.",
    "keeper": "No study becomes stable, and what was lost in between is not found.",
    "edge": "Senders may be refused; what was answered with success is on the edge's disk.",
    "gateway": "Nobody reaches the API from outside; receiving and delivering go on.",
}

Check = Callable[[], Awaitable[dict[str, Any]]]


class PartHealth(BaseModel):
    """One part, why it is so, and what it says of itself; `degraded` is one that answers, and is not well."""

    status: State
    reason: str = ""
    milliseconds: float
    detail: dict[str, Any] = {}


class TroubleFound(BaseModel):
    """One thing that is not well: of which part, since when, what it means for the data, and what to run."""

    part: str
    state: State
    since: datetime
    reason: str
    effect: str
    command: str


class Health(BaseModel):
    """Every part; `status` is the worst of what each says of itself. The troubles begin with the longest."""

    status: State
    attention: int = 0
    """How many things need attention, parts that are down among them."""
    parts: dict[str, PartHealth]
    trouble: list[TroubleFound] = []


@dataclass
class _Part:
    check: Check
    known: PartHealth | None = None
    known_at: float = 0.0
    running: "asyncio.Task[PartHealth] | None" = None


class HealthBoard:
    """Checks the parts. However many ask, one check of a part runs at a time."""

    def __init__(self, checks: dict[str, Check]) -> None:
        self._parts = {name: _Part(check) for name, check in checks.items()}
        self._troubles = Troubles()

    async def report(self) -> Health:
        """Return the health of every part."""
        results = await asyncio.gather(*(self.part(name) for name in self._parts))
        parts = dict(zip(self._parts, results, strict=True))
        status = worst(*(part.status for part in results))
        return Health(status=status, parts=parts, trouble=self._found(parts))

    def _found(self, parts: dict[str, PartHealth]) -> list[TroubleFound]:
        """Return what is wrong: in the words of the part itself, or in ours where it says nothing."""
        told: list[TroubleFound] = []
        for name, part in parts.items():
            own = [TroubleFound.model_validate(one) for one in part.detail.get("trouble") or []]
            if part.status == "up" or own:
                self._troubles.clear(name)
            else:
                self._troubles.note(name, part.reason, EFFECTS.get(name, ""), "bucky doctor", part.status)
            told += own
        told += [TroubleFound.model_validate(one) for one in self._troubles.listed()]
        return sorted(told, key=lambda one: (one.since, one.part))

    async def part(self, name: str) -> PartHealth:
        """Return the health of one part, at most a second old."""
        part = self._parts[name]
        if part.known is not None and time.monotonic() - part.known_at < FRESH_SECONDS:
            return part.known
        if part.running is None or part.running.done():
            part.running = asyncio.create_task(_checked(part))
        done, _ = await asyncio.wait({part.running}, timeout=CHECK_SECONDS)
        if done:
            return part.running.result()
        return PartHealth(
            status="down",
            reason=f"It did not answer within {CHECK_SECONDS:.0f} s.",
            milliseconds=CHECK_SECONDS * 1000,
        )


async def _checked(part: _Part) -> PartHealth:
    began = time.monotonic()
    reason, detail = "", {}
    try:
        detail = await part.check()
    except BuckyError as error:
        reason = str(error)
    except httpx.HTTPError as error:
        reason = f"It cannot be reached: {type(error).__name__}."
    part.known_at = time.monotonic()
    part.known = PartHealth(
        status="down" if reason else said_of_itself(detail),
        reason=reason or "; ".join(f"{one['part']}: {one['reason']}" for one in detail.get("trouble") or []),
        milliseconds=round((part.known_at - began) * 1000, 1),
        detail=detail,
    )
    return part.known


def said_of_itself(page: dict[str, Any]) -> State:
    """Return the state that a process gives itself on its page; one that gives none is up."""
    return "up" if page.get("status", "ok") in WELL and not page.get("trouble") else "degraded"


class PartDown(BuckyError):
    """A part answered that it is not well."""


def checks_of(
    settings: Settings, index: Index, objects: ObjectStore, link: BrokerConnection, http: httpx.AsyncClient
) -> dict[str, Check]:
    """Return a check for every part of this installation."""

    async def index_check() -> dict[str, Any]:
        await asyncio.to_thread(index.check)
        return {}

    async def store_check() -> dict[str, Any]:
        await asyncio.to_thread(objects.check)
        return {}

    checks: dict[str, Check] = {
        "index": index_check,
        "store": store_check,
        "broker": broker_check(link, http, settings.nats_monitor_url),
        "functions": functions_check(http, settings),
        "connector": page_check(http, settings.connector_health_url),
        "keeper": page_check(http, settings.keeper_health_url),
    }
    if settings.edge_health_url:
        checks["edge"] = page_check(http, settings.edge_health_url)
    if settings.traefik_health_url:
        checks["gateway"] = page_check(http, settings.traefik_health_url)
    return checks


def functions_check(http: httpx.AsyncClient, settings: Settings) -> Check:
    """Return a check that asks the gateway whether it is up and, where it may, how each function is."""
    gateway, key = settings.gateway_url.rstrip("/"), settings.gateway_password.get_secret_value()
    alive = page_check(http, f"{gateway}/healthz")

    async def check() -> dict[str, Any]:
        await alive()
        auth = (settings.gateway_user, key) if key else None
        answer = await http.get(f"{gateway}/system/functions", auth=auth, timeout=CHECK_SECONDS)
        if not answer.is_success:
            return {}
        try:
            return {"functions": {str(one["name"]): _replicas(one) for one in answer.json()}}
        except (ValueError, TypeError, KeyError):
            raise PartDown("Its list of functions cannot be understood.") from None

    return check


def broker_check(link: BrokerConnection, http: httpx.AsyncClient, monitor_url: str) -> Check:
    """Return a check that asks the broker, and its monitoring page, which knows of streams that refuse writes."""

    async def check() -> dict[str, Any]:
        detail = await link.check()
        if monitor_url:
            said = await http.get(f"{monitor_url.rstrip('/')}/healthz", timeout=CHECK_SECONDS)
            if not said.is_success:
                raise PartDown(f"{said.text} When its disk has room, start nats-server again.")
        return detail

    return check


def _replicas(function: dict[str, Any]) -> dict[str, Any]:
    names = {"replicas": "replicas", "available": "availableReplicas", "restarts": "recentRestarts"}
    return {ours: function.get(theirs) for ours, theirs in names.items()}


def page_check(http: httpx.AsyncClient, url: str) -> Check:
    """Return a check that asks another process's health page."""

    async def check() -> dict[str, Any]:
        response = await http.get(url, timeout=CHECK_SECONDS)
        if not response.is_success:
            raise PartDown(f"It answers {response.status_code} on its health page.")
        if "json" not in response.headers.get("content-type", ""):
            return {}
        try:
            answer = response.json()
        except ValueError:
            raise PartDown("Its health page is not valid JSON.") from None
        return answer if isinstance(answer, dict) else {}

    return check
