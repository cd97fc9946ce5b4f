"""`bucky reindex` and `bucky reconcile`: they work on the store, the broker and the index directly."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bucky.cli.access import AsJson, Home
from bucky.cli.output import print_json
from bucky.index import Index
from bucky.objects import ObjectStore, S3ObjectStore
from bucky.stack_settings import stack_settings
from keeper.readers import ProcessReader
from keeper.reindex import Advance, Reindex, ReindexReport

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
    settings = stack_settings(os.environ, home)
    objects = S3ObjectStore(settings)
    objects.check()
    index = Index.open(settings.index_url.get_secret_value())
    try:
        index.migrate()
        with ProcessReader(settings) as reader, _progress("Reindexing", objects) as advance:
            work = Reindex(objects, index, settings.store_bucket, reader, restart=restart, prune=prune)
            report = work.run(advance)
    finally:
        index.close()
    if as_json:
        print_json(report.as_data())
    else:
        _show_reindex(report, Console())
    if report.unreadable or (report.missing and not prune):
        raise typer.Exit(INCOMPLETE)


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
    app.command()(reindex)
