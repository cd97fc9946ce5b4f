"""Writes what was measured into docs/reference/benchmarks.md, below its marker; the text above it is people's."""

from pathlib import Path
from typing import Any

from bench.plan import LARGE_FILES
from bench.receivers import Missing
from bench.results import DISTURBED, Results, Summary, summary
from bench.senders import Load
from bench.targets import Verdict

MARKER = "<!-- below: written by `make bench-ingest` -->"


def publish(
    page: Path, plot: str, results: Results, found: list[Verdict], missing: list[Missing], machine: dict[str, Any]
) -> None:
    """Replace what is below the marker."""
    parts = [machine_line(machine), f"![Rates and costs]({plot})", targets_table(found)]
    parts += [_table(load, receivers) for load in results.runs if (receivers := _summaries(results, load))]
    left_out = [*(f"{one.name}: {one.reason}" for one in missing), *results.left_out, *results.voids()]
    if left_out:
        parts.append("## Not measured\n\n" + "\n".join(f"- {line}" for line in left_out))
    rewrite(page, MARKER, parts)


def rewrite(page: Path, marker: str, parts: list[str]) -> None:
    """Replace what is below a page's marker."""
    above = page.read_text().partition(marker)[0]
    page.write_text("\n\n".join([above + marker, *parts]) + "\n")


def machine_line(machine: dict[str, Any]) -> str:
    """Return the sentence that says what the numbers belong to."""
    peers = ", ".join(version for version in machine["versions"].values() if version)
    return (
        f"Measured {machine['when']}: {machine['cores']} cores ({machine['processor']}), Linux {machine['kernel']}, "
        f"Python {machine['python']}; {peers}."
    )


def targets_table(found: list[Verdict]) -> str:
    """Return the table of what was wanted and found."""
    rows = ["## Targets", "", "| | Target | Wanted | Found |", "|---|---|---|---|"]
    for verdict in found:
        sign = "not measured" if verdict.found is None else "met" if verdict.met else "**missed**"
        value = "" if verdict.found is None else f"{verdict.found:.2f}"
        rows.append(f"| {sign} | {verdict.name} | {verdict.wanted} | {value} |")
    return "\n".join(rows)


def _summaries(results: Results, load: Load) -> dict[str, Summary]:
    receivers = results.runs[load]
    names = sorted(receivers, key=lambda name: (*LARGE_FILES, name).index(name))
    found = {name: summary(receivers[name]) for name in names if receivers[name]}
    return {name: one for name, one in found.items() if not one.void}


def _table(load: Load, found: dict[str, Summary]) -> str:
    if load.mode == "idle":
        rows = ["| Receiver | CPU, % of a core | RSS, MB |", "|---|---|---|"]
        rows += [f"| {name} | {one.cpu_percent:.2f} | {one.peak_bytes / 1e6:.0f} |" for name, one in found.items()]
    else:
        rows = [
            "| Receiver | Instances/s (least to most) | MB/s | CPU, ms each | p50 / p99, ms | RSS, MB | Growth, MB |",
            "|---|---|---|---|---|---|---|",
        ]
        rows += [_row(name, one) for name, one in found.items()]
    return f"## {load.key}\n\n" + "\n".join(rows)


def _row(name: str, one: Summary) -> str:
    mark = "~" if one.others > DISTURBED else ""
    latency = f"{one.p50_ms:.1f} / {one.p99_ms:.1f}" if one.p50_ms else ""
    digits = 0 if one.rate >= 100 else 1
    rate = f"{mark}{one.rate:,.{digits}f} ({one.slowest:,.{digits}f} to {one.fastest:,.{digits}f})"
    cells = [name, rate, f"{one.megabytes:,.0f}", f"{one.cpu_ms:.2f}", latency]
    return "| " + " | ".join([*cells, f"{one.peak_bytes / 1e6:.0f}", f"{one.growth_bytes / 1e6:+.0f}"]) + " |"
