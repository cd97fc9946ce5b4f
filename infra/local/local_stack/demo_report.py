"""What the demo found, held against what must be: a table for people, plain data for machines."""

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from bucky.cli.send_files import FileResult, SendReport, Sent
from bucky.dicom.part10 import split
from bucky.errors import NotFound
from bucky.store.keys import object_key
from bucky.store.objects import ObjectStore
from local_stack.demo_data import DemoFile, Expected

MOST_SHOWN = 20
RIGHT_OUTCOMES = {
    Expected.ACCEPTED: {Sent.SENT},
    Expected.REFUSED: {Sent.REFUSED},
    # A file without the DICM prefix may not be DICOM at all, and is passed over.
    Expected.UNSENDABLE: {Sent.FAILED, Sent.SKIPPED},
}


@dataclass(frozen=True)
class DemoResult:
    """The demo's figures; latencies are in seconds from stored at the edge to delivered; no problems, no loss."""

    files: int
    sent: int
    transfer_syntaxes: int
    refused: dict[str, str]
    unsendable: dict[str, str]
    stored: int
    indexed: int
    delivered: int
    identical: int
    latency_p50: float | None
    latency_p99: float | None
    instances_per_second: float
    problems: list[str]


def compare(
    files: Sequence[DemoFile],
    report: SendReport,
    deliveries: Sequence[Mapping[str, Any]],
    in_bucket: set[str],
    at_destination: set[str],
    began: datetime,
) -> DemoResult:
    """Hold what was found against what every file must have become."""
    results = {result.path: result for result in report.results}
    accepted = {file.sha256 for file in files if file.expected is Expected.ACCEPTED}
    sent = {r.sha256 for r in report.results if r.outcome is Sent.SENT}
    indexed = {row["sha256"] for row in deliveries}
    done = {row["sha256"] for row in deliveries if row["state"] == "delivered"}
    problems = [problem for file in files if (problem := _problem(file, results.get(file.path)))]
    for station, found in (
        ("the index", indexed),
        ("the bucket", in_bucket),
        ("the delivered", done),
        ("the destination", at_destination),
    ):
        problems += [f"{file.source} is missing from {station}" for file in files if file.sha256 in accepted - found]
    latencies = _latencies(deliveries, began)
    return DemoResult(
        files=len(files),
        sent=len(sent),
        transfer_syntaxes=len({r.transfer_syntax_uid for r in report.results if r.outcome is Sent.SENT}),
        refused=_reasons(files, results, Expected.REFUSED),
        unsendable=_reasons(files, results, Expected.UNSENDABLE),
        stored=len(sent & in_bucket),
        indexed=len(sent & indexed),
        delivered=len(sent & done),
        identical=len(sent & in_bucket & at_destination),
        latency_p50=_percentile(latencies, 50),
        latency_p99=_percentile(latencies, 99),
        instances_per_second=len(sent) / report.seconds if report.seconds else 0.0,
        problems=problems,
    )


def digests_in_bucket(store: ObjectStore, deliveries: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the SHA-256 of each data set, computed from the bucket's bytes."""

    def digest(key: str) -> str:
        try:
            content = store.get(key)
        except NotFound:
            return ""
        return hashlib.sha256(content[split(content)[1] :]).hexdigest()

    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(digest, {_key(row) for row in deliveries})) - {""}


def _key(row: Mapping[str, Any]) -> str:
    uids = (row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"])
    return object_key(*uids, row["sha256"])


def show(outcome: DemoResult, console: Console) -> None:
    """Print the table and, where there are any, the refusals and the problems."""
    table = Table("Station", "Instances", "", box=None, header_style="dim")
    table.add_row("sent", str(outcome.sent), f"in {outcome.transfer_syntaxes} transfer syntaxes, C-STORE success")
    table.add_row("stored", str(outcome.stored), "in the bucket, read back over HTTPS")
    table.add_row("indexed", str(outcome.indexed), "and routed by rule")
    table.add_row("delivered", str(outcome.delivered), "the destination itself answered success")
    table.add_row("byte-identical", str(outcome.identical), "SHA-256 at sender, bucket and destination")
    table.add_row("refused", str(len(outcome.refused)), "with a reason, as they must be")
    table.add_row("unsendable", str(len(outcome.unsendable)), "no sender could send them")
    if outcome.latency_p50 is not None and outcome.latency_p99 is not None:
        latency = f"p50 {outcome.latency_p50 * 1000:.0f} ms, p99 {outcome.latency_p99 * 1000:.0f} ms"
        table.add_row("latency", "", f"{latency}, received to delivered")
    else:
        table.add_row("latency", "", "all were delivered in an earlier run; re-sending changed nothing")
    console.print(table)
    reasons = Counter((outcome.refused | outcome.unsendable).values())
    for reason, count in reasons.most_common():
        console.print(f"  [dim]{count} x {reason}[/]", highlight=False)
    for problem in outcome.problems[:MOST_SHOWN]:
        console.print(f"[red]✗ {problem}[/]", highlight=False)
    if len(outcome.problems) > MOST_SHOWN:
        console.print(f"[red]… and {len(outcome.problems) - MOST_SHOWN} more[/]")
    if not outcome.problems:
        console.print("[green]✓ nothing is missing[/]")


def _problem(file: DemoFile, result: FileResult | None) -> str:
    """Return what is wrong with one file's answer, or nothing."""
    if result is None:
        return f"{file.source} was not sent"
    if result.outcome not in RIGHT_OUTCOMES[file.expected]:
        return f"{file.source} was to be {file.expected}, but: {result.outcome} {result.reason} {result.comment}"
    if file.expected is not Expected.ACCEPTED and not result.reason:
        return f"{file.source} was {result.outcome} without a reason"
    if result.outcome is Sent.SENT and result.sha256 != file.sha256:
        return f"{file.source} was sent with other bytes than it holds"
    return ""


def _reasons(files: Sequence[DemoFile], results: Mapping[Any, FileResult], expected: Expected) -> dict[str, str]:
    chosen = [(file, results[file.path]) for file in files if file.expected is expected and file.path in results]
    return {file.source: result.comment or result.reason for file, result in chosen}


def _latencies(deliveries: Iterable[Mapping[str, Any]], began: datetime) -> list[float]:
    """Return received-to-delivered times of what this run delivered, in seconds."""
    times = []
    for row in deliveries:
        if row["completed_at"] is None:
            continue
        completed = datetime.fromisoformat(row["completed_at"])
        if completed >= began:
            times.append((completed - datetime.fromisoformat(row["received_at"])).total_seconds())
    return times


def _percentile(values: Sequence[float], percent: int) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
