"""`bucky reindex` and `bucky reconcile`: they work on the store, the broker and the index directly."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bucky.broker.connection import connect, disconnect, jetstream
from bucky.cli.access import AsJson, Home
from bucky.cli.output import print_json, print_rows
from bucky.cli.stack_settings import stack_settings
from bucky.index import Index
from bucky.settings import Settings
from bucky.store.objects import ObjectStore, S3ObjectStore
from keeper.findings import MEANING, ReconcileReport
from keeper.readers import ProcessReader
from keeper.reconcile import Reconcile
from keeper.reindex import Advance, Reindex, ReindexReport
from keeper.republisher import Republisher

MOST_SHOWN = 20
INCOMPLETE = 2
"""Exit code: the work was done, and something was found that nobody could put right."""


def reindex(
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, also when an earlier run was stopped.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove rows whose object is not in the bucket.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the whole index from the bucket alone; it can be used meanwhile, and goes on where it was stopped."""
    with (
        _opened(home) as (settings, objects, index),
        ProcessReader(settings) as reader,
        _progress("Reindexing", objects) as advance,
    ):
        work = Reindex(objects, index, settings.store_bucket, reader, restart=restart, prune=prune)
        report = work.run(advance)
    if as_json:
        print_json(report.as_data())
    else:
        _show_reindex(report, Console())
    if report.unreadable or (report.missing and not prune):
        raise typer.Exit(INCOMPLETE)


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare bucket, index, streams and deliveries, and repair what can be; exit code 2 when something stays wrong."""
    with _opened(home) as (settings, objects, index):
        report = asyncio.run(_reconciled(settings, objects, index, dry_run=dry_run))
    if as_json:
        print_json(report.as_data())
    else:
        _show_reconcile(report)
    if report.wrong:
        raise typer.Exit(INCOMPLETE)


@contextmanager
def _opened(home: Path | None) -> Iterator[tuple[Settings, ObjectStore, Index]]:
    """Open what the commands work on, and see that it is there before anything is begun."""
    settings = stack_settings(os.environ, home)
    objects = S3ObjectStore(settings)
    objects.check()
    index = Index.open(settings.index_url.get_secret_value())
    try:
        index.migrate()
        yield settings, objects, index
    finally:
        index.close()


async def _reconciled(settings: Settings, objects: ObjectStore, index: Index, *, dry_run: bool) -> ReconcileReport:
    client = await connect(settings, "reconcile")
    try:
        publisher = Republisher(jetstream(client))
        grace = settings.reconcile_grace_seconds
        return await Reconcile(objects, index, publisher, settings.store_bucket, grace, dry_run).run()
    finally:
        await disconnect(client)


def _show_reconcile(report: ReconcileReport) -> None:
    rows = [
        {
            "found": kind.value,
            "count": found.count,
            "done": ", ".join(f"{number} {'to be ' * report.dry_run}{did}" for did, number in found.done.items()),
            "meaning": MEANING[kind],
            "first": found.first[:3],
        }
        for kind, found in report.found.items()
    ]
    columns = {"found": "Found", "count": "Count", "done": "Done", "meaning": "Meaning", "first": "The first"}
    if rows:
        print_rows(rows, columns, "")
    typer.echo(
        f"{report.objects} objects, {report.instances} instances, {report.deliveries} open deliveries in "
        f"{report.seconds:.1f} s: {_verdict(report)}"
    )


def _verdict(report: ReconcileReport) -> str:
    """Say in a few words how it stands: nothing is called right that could not be judged yet."""
    trouble = f"{len(report.found)} kinds of trouble" if report.found else ""
    if not report.too_recent.count:
        return trouble or "nothing wrong"
    recent = f"{report.too_recent.count} differences too recent to judge, run it again later"
    first = ", ".join(report.too_recent.first[:3])
    return f"{trouble + '; ' if trouble else ''}{recent} (the first: {first})"


def _show_reindex(report: ReindexReport, console: Console) -> None:
    for title, found in (
        ("rows without an object: kept; --prune removes them" if not report.pruned else "rows removed", report.missing),
        ("objects that are no DICOM file: not indexed", report.unreadable),
        ("objects that are not Bucky's: left alone", report.foreign),
    ):
        if found:
            console.print(f"{len(found)} {title}", highlight=False)
            for one in found[:MOST_SHOWN]:
                console.print(f"  {one}", highlight=False, markup=False)
    resumed = f", {report.resumed} done by an earlier run" if report.resumed else ""
    console.print(
        f"{report.objects} objects: {report.new} new, {report.changed} corrected, {report.same} as they were{resumed}; "
        f"{report.seconds:.1f} s, {report.rate:.0f} objects/s",
        highlight=False,
    )


@contextmanager
def _progress(title: str, objects: ObjectStore) -> Iterator[Advance]:
    """Show a progress bar when stderr is a terminal; what there is to do is counted meanwhile."""
    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(title, total=None)
        if console.is_terminal:
            counting = threading.Thread(
                target=lambda: progress.update(task, total=sum(1 for _ in objects.listing())), daemon=True
            )
            counting.start()
        yield lambda count: progress.advance(task, count)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (reindex, reconcile):
        app.command()(command)
