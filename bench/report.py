"""Shows results: a table for each load, the verdicts, and the JSON file that a plot can be made from."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.plan import LARGE_FILES
from bench.receivers import Missing, Receiver
from bench.results import DISTURBED, Results, Summary, summary
from bench.senders import Load
from bench.targets import Verdict

NOTES = (
    "Medians; runs of all receivers interleaved; senders and receivers share the cores. bucky: store and broker down, "
    "a legal state.",
    "DCMTK's and Orthanc's receivers run with TCP_NODELAY=1; all peers advertise 128 KB PDUs. RSS is summed over "
    "processes, shared pages counted for each.",
    f"~ marks medians taken while other programs used over {DISTURBED:.0%} of the cores.",
)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: _first_line(name, *arguments) for name, *arguments in _VERSIONS if shutil.which(name)},
        "load_average": os.getloadavg(),
        "when": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


_VERSIONS = (("storescp", "--version"), ("Orthanc", "--version"))


def _first_line(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return answer.partition("\n")[0].strip("$ ")


def show_load(console: Console, load: Load, results: Results, promises: dict[str, str]) -> None:
    """Print the table of one load."""
    idle = load.mode == "idle"
    table = Table(title=load.key, title_justify="left", title_style="bold", header_style="dim")
    for column in ("receiver", "before it answers"):
        table.add_column(column)
    for column in ("CPU %",) if idle else ("inst/s", "of sink", "MB/s", "CPU ms", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for column in ("RSS MB", "growth"):
        table.add_column(column, justify="right")
    receivers = results.runs.get(load, {})
    sink = summary(receivers["C sink"]).rate if receivers.get("C sink") else 0.0
    for name in sorted(receivers, key=lambda name: (*LARGE_FILES, name).index(name)):
        if not receivers[name]:
            continue
        found = summary(receivers[name])
        cells = [f"[red]void: {found.void}"] if found.void else _cells(found, sink, idle=idle)
        style = "bold" if name.startswith("bucky") else None
        table.add_row(name, promises.get(name, ""), *cells, style=style)
    console.print(table)


def _cells(found: Summary, sink: float, *, idle: bool) -> list[str]:
    memory = [f"{found.peak_bytes / 1e6:.0f}", f"{found.growth_bytes / 1e6:+.0f}"]
    if idle:
        return [f"{found.cpu_percent:.2f}", *memory]
    mark = "~" if found.others > DISTURBED else ""
    return [
        f"{mark}{found.rate:,.0f}" if found.rate >= 100 else f"{mark}{found.rate:.1f}",
        f"{found.rate / sink:.2f}" if sink else "",
        f"{found.megabytes:,.0f}",
        f"{found.cpu_ms:.2f}",
        f"{found.p50_ms:.1f}" if found.p50_ms else "",
        f"{found.p99_ms:.1f}" if found.p99_ms else "",
        *memory,
    ]


def show_verdicts(console: Console, found: list[Verdict]) -> None:
    """Print a line for each target."""
    table = Table(title="Targets", title_justify="left", title_style="bold", header_style="dim")
    for column in ("", "target", "wanted", "found"):
        table.add_column(column, justify="right" if column == "found" else "left")
    for verdict in found:
        sign = "[dim]not measured" if verdict.found is None else "[green]met" if verdict.met else "[red]MISSED"
        table.add_row(sign, verdict.name, verdict.wanted, "" if verdict.found is None else f"{verdict.found:.2f}")
    console.print(table)


def show_missing(console: Console, missing: list[Missing], results: Results) -> None:
    """Say loudly what was not measured, and whose numbers do not count."""
    for one in missing:
        console.print(f"[bold red]!!! MISSING: {one.name}: {one.reason}")
    for line in results.left_out:
        console.print(f"[bold red]!!! LEFT OUT: {line}")
    for line in results.voids():
        console.print(f"[bold red]!!! VOID: {line}")


def write_json(
    path: Path, results: Results, found: list[Verdict], missing: list[Missing], receivers: list[Receiver]
) -> None:
    """Write every run and every verdict."""
    content = {
        "machine": machine(),
        "command": " ".join(sys.argv[1:]),
        "receivers": {receiver.name: receiver.promise for receiver in receivers},
        "missing": [asdict(one) for one in missing],
        "left_out": results.left_out,
        "results": results.as_json(),
        "targets": [asdict(verdict) for verdict in found],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
