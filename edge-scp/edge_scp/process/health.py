"""The edge's own page: `/health` for people and probes, `/metrics` for Prometheus."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bucky.runtime.trouble import Troubles
from edge_scp.metrics import ParentMetrics
from edge_scp.process.channel import Message
from edge_scp.process.port import Port
from edge_scp.process.supervisor import Worker
from edge_scp.spool.capacity import SharedCounters, SpoolLimits

EFFECTS = {
    "store": "What is received stays in the spool, on this machine's disk, until the store takes it.",
    "broker": "What is received and stored is neither indexed nor delivered until the broker takes its event.",
    "spool": "What was received has not reached the store; it is on this machine's disk.",
    "quarantine": "Those instances are kept on this machine's disk, and go nowhere until somebody looks at them.",
}
_SILENT: Message = {"ok": False, "error": "the uploader does not answer"}


class EdgeState:
    """What the parent knows of the edge, and what its children say when asked."""

    def __init__(
        self,
        ports: Sequence[Port],
        receivers: Sequence[Worker],
        uploader: Worker,
        committer: Worker,
        counters: SharedCounters,
        limits: SpoolLimits,
        normal_seconds: float = 600.0,
    ) -> None:
        self._ports, self._receivers, self._uploader = ports, receivers, uploader
        self._children = (*receivers, uploader, committer)
        self._counters, self._limits = counters, limits
        self._normal_seconds = normal_seconds
        self._troubles = Troubles()

    @property
    def accepting(self) -> bool:
        """Tell whether an instance would be accepted now."""
        ready = any(receiver.ready for receiver in self._receivers)
        return ready and self._limits.room() > 0 and all(port.accepting for port in self._ports)

    async def report(self) -> dict[str, Any]:
        """Return the edge's health; it is `accepting` even while store and broker are away."""
        counters, said = self._counters, await self._uploader.ask("report") or {}
        dependencies = {name: said.get(name, _SILENT) for name in ("store", "broker")}
        accepting = self.accepting
        well = (
            accepting
            and counters.quarantined == 0
            and all(dependency["ok"] for dependency in dependencies.values())
            and all(child.ready for child in self._children)
        )
        self._look(dependencies)
        troubles = self._troubles.listed()
        well = well and not troubles
        return {
            "status": "ok" if well else "degraded" if accepting else "refusing",
            "trouble": troubles,
            "accepting": accepting,
            "listeners": [
                {
                    "aet": port.listener.aet,
                    "port": port.port,
                    "accepting": port.accepting,
                    "associations": port.connections.serving,
                }
                for port in self._ports
            ],
            "spool": {
                "instances": counters.instances,
                "bytes": counters.held_bytes,
                "oldest_seconds": round(counters.oldest_seconds, 3),
                "quarantined": counters.quarantined,
            },
            "uploads": said.get("uploads"),
            **dependencies,
            "processes": [
                {"name": child.name, "pid": child.pid, "ready": child.ready, "restarts": child.restarts}
                for child in self._children
            ],
        }

    def _look(self, dependencies: Mapping[str, Message]) -> None:
        """Keep since when something is not well."""
        for name, state in dependencies.items():
            self._note(name, None if state["ok"] else str(state["error"]))
        oldest = self._counters.oldest_seconds
        stalled = f"its oldest instance has waited for {oldest:.0f} s" if oldest > self._normal_seconds else None
        self._note("spool", stalled)
        self._note("quarantine", f"{self._counters.quarantined} set aside" if self._counters.quarantined else None)

    def _note(self, part: str, reason: str | None) -> None:
        if reason is None:
            self._troubles.clear(part)
        else:
            self._troubles.note(part, reason, EFFECTS[part], "bucky status", "degraded")

    async def pages(self) -> dict[str, str]:
        """Return the metrics pages of the children that answer, by their names."""
        answers = await asyncio.gather(*(child.ask("report") for child in self._children))
        return {child.name: answer["page"] for child, answer in zip(self._children, answers, strict=True) if answer}


def health_app(state: EdgeState, metrics: ParentMetrics) -> Starlette:
    """Return the ASGI app; `/health` is 503 when no instance would be accepted."""

    async def health(_request: Request) -> JSONResponse:
        body = await state.report()
        return JSONResponse(body, 200 if body["accepting"] else 503)

    async def show_metrics(_request: Request) -> Response:
        merged = CollectorRegistry()
        merged.register(_Pages(await state.pages()))
        page = generate_latest(metrics.registry) + generate_latest(merged)
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/health", health), Route("/metrics", show_metrics)])


class _Pages(Collector):
    """The pages of several processes as one, each sample labelled with its process."""

    def __init__(self, pages: dict[str, str]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        """Merge families of the same name."""
        merged: dict[str, Metric] = {}
        for process, page in self._pages.items():
            families: Iterable[Metric] = text_string_to_metric_families(page)
            for family in families:
                target = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    target.add_sample(sample.name, {**sample.labels, "process": process}, sample.value)
        yield from merged.values()
