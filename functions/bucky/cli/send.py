"""`bucky send`: files to a DICOM node, with a progress bar, the throughput and each file's failure."""

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bucky.cli.access import Home
from bucky.cli.api_client import known_listener
from bucky.cli.output import print_rows
from bucky.cli.send_files import FileResult, SendReport, Sent, files_in, send
from bucky.dimse import Peer
from bucky.settings import Settings

USUAL = "BUCKY@127.0.0.1:11112"
MOST_SHOWN = 50
MEGABYTE = 1_000_000


def send_command(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files, or folders with them.", exists=True)],
    to: Annotated[
        str | None, typer.Option("--to", help=f"The node, as AET@host:port; default: the stack of --home, or {USUAL}.")
    ] = None,
    calling_aet: Annotated[str, typer.Option("--from", help="The AE title we call as.")] = "BUCKY-SEND",
    associations: Annotated[int, typer.Option(min=1, max=64, help="Associations at once.")] = 4,
    tls_ca: Annotated[Path | None, typer.Option("--tls-ca", help="Use TLS; trust this CA.", exists=True)] = None,
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send files by C-STORE, byte for byte; exit 1 when any instance was not stored, or there was none."""
    node = to or known_listener(home or Settings.load(os.environ).home) or USUAL
    peer = replace(Peer.parse(node, calling_aet=calling_aet), tls_ca_file=tls_ca)
    report = send_with_progress(paths, peer, associations, Console(stderr=True))
    if as_json:
        json.dump(as_data(report), sys.stdout, indent=2)
        typer.echo()
    else:
        show(report, Console())
        if any("Connection refused" in one.reason for one in report.results):
            typer.echo(f"nothing listens at {peer}: `bucky status` says where Bucky does; --to AET@host:port", err=True)
    if not report.complete:
        raise typer.Exit(1)


def send_with_progress(paths: list[Path], peer: Peer, associations: int, console: Console) -> SendReport:
    """Send with a progress bar on the console, when it is a terminal."""
    files = list(files_in(paths))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(f"Sending to {peer}", total=len(files))

        def advance(_result: FileResult) -> None:
            progress.advance(task)

        return send(files, peer, associations=associations, on_result=advance)


def show(report: SendReport, console: Console) -> None:
    """Print what was not stored and why, then one line of figures."""
    troubled = [result for result in report.results if result.outcome is not Sent.SENT]
    if troubled:
        rows = [
            {"file": one.path, "outcome": one.outcome.value, "reason": f"{one.reason} {one.comment}".strip()}
            for one in troubled[:MOST_SHOWN]
        ]
        print_rows(rows, {"file": "File", "outcome": "Outcome", "reason": "Reason"}, "", console)
        if len(troubled) > MOST_SHOWN:
            console.print(f"… and {len(troubled) - MOST_SHOWN} more; --json lists all")
    if report.counts.keys() <= {Sent.SKIPPED}:
        files = report.counts[Sent.SKIPPED]
        why = f"none of the {files} files is a DICOM instance" if files > 1 else "the one file is no DICOM instance"
        console.print(f"nothing was sent: {why if files else 'there are no files'}", highlight=False)
        return
    counts = ", ".join(f"{report.counts[outcome]} {outcome.value}" for outcome in Sent if report.counts[outcome])
    rate = report.counts[Sent.SENT] / report.seconds if report.seconds else 0.0
    console.print(
        f"{counts}: {report.bytes_sent / MEGABYTE:.1f} MB in {report.seconds:.2f} s, "
        f"{rate:.0f} instances/s, {report.bytes_sent / MEGABYTE / max(report.seconds, 1e-9):.1f} MB/s",
        highlight=False,
    )


def as_data(report: SendReport) -> dict[str, Any]:
    """Return the report as plain data for `--json`."""
    return {
        "seconds": report.seconds,
        "bytes_sent": report.bytes_sent,
        "counts": dict(Counter(result.outcome.value for result in report.results)),
        "files": [
            {
                "path": str(result.path),
                "outcome": result.outcome.value,
                "reason": result.reason,
                "comment": result.comment,
                "status": result.status,
                "sop_instance_uid": result.sop_instance_uid,
                "transfer_syntax_uid": result.transfer_syntax_uid,
                "sha256": result.sha256,
                "size": result.size,
            }
            for result in report.results
        ],
    }
