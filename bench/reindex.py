"""Measure `bucky reindex` on many objects: `python -m bench.reindex --help`.

Fills a fresh store with CT images (SeaweedFS from its wheel), each with UIDs of its own, in studies of 200, and
indexes them with the function that indexes what arrives. Then an empty index is rebuilt from the bucket alone,
compared row by row with that one, rebuilt once more while it is right, and compared again. The rate is for the
whole: the listing, the ranged reads, the parsing and the transactions. The store shares the machine.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import create_engine, select

from bucky import log
from bucky.index import Index
from bucky.index.schema import instances, series, studies
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from keeper.readers import PROCESSES, THREADS, DirectReader, ProcessReader, Reader
from keeper.reindex import Reindex, ReindexReport
from local_stack.process import stop
from local_stack.servers import postgresql
from tests.support.servers import OWN_STORE, make_store, run
from tests.support.services.keeper_world import ONLY_THE_INDEX_KNOWS, indexed, store_samples

STUDY_SIZE = 200
TOGETHER = 50


def main() -> None:
    """Measure and show."""
    options = _options()
    log.configure("error")
    console = Console(stderr=True, width=120)
    results = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, _filled(Path(folder), options, console) as settings:
        for kind in options.index:
            for reads in options.reads:
                with _index(kind, Path(folder)) as url:
                    results += _measured(kind, reads, url, settings, _parsed_url(Path(folder)))
                    _show(results[-2:], console)
    json.dump(results, sys.stdout, indent=2)
    print()  # noqa: T201 - the figures are this program's output


def _measured(kind: str, reads: str, url: str, settings: Settings, parsed: str) -> list[dict[str, object]]:
    index = Index.open(url)
    index.migrate()
    found = []
    with contextlib.closing(index):
        for what in ("an empty index", "an index that is right"):
            cpu = _cpu_seconds()
            with _reader(reads, settings) as reader:
                report = Reindex(S3ObjectStore(settings), index, settings.store_bucket, reader).run()
            figures = _figures(kind, what, reads, report, _cpu_seconds() - cpu)
            found.append({**figures, "identical_rows": _identical_rows(url, parsed)})
    return found


def _identical_rows(rebuilt: str, parsed: str) -> int:
    """Return how many rows the two indexes have, all of them alike; end the program at the first that differs."""
    count = 0
    with create_engine(rebuilt).connect() as one, create_engine(parsed).connect() as other:
        for table in (studies, series, instances):
            columns = [column for column in table.c if column.name not in ONLY_THE_INDEX_KNOWS]
            query = select(*columns).order_by(*table.primary_key)
            both = (each.execution_options(yield_per=1000).execute(query) for each in (one, other))
            for mine, theirs in zip_longest(*both):
                if mine is None or theirs is None or tuple(mine) != tuple(theirs):
                    sys.exit(f"after {count} rows that are alike, one of {table.name} differs from what parsing made")
                count += 1
    return count


def _reader(reads: str, settings: Settings) -> Reader:
    processes, threads = (int(number) for number in reads.split("x"))
    if not processes:
        return DirectReader(S3ObjectStore(settings), settings.store_bucket, threads)
    return ProcessReader(settings, processes, threads)


def _cpu_seconds() -> float:
    """Return what this process and the readers that have ended took."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _figures(kind: str, what: str, reads: str, report: ReindexReport, cpu: float) -> dict[str, object]:
    return {
        "index": kind,
        "rebuilding": what,
        "reads_at_once": reads,
        "objects": report.objects,
        "seconds": round(report.seconds, 1),
        "objects_per_second": round(report.rate),
        "cpu_ms_per_object": round(cpu * 1000 / max(report.objects, 1), 3),
    }


def _show(results: list[dict[str, object]], console: Console) -> None:
    table = Table(*results[0], box=None, header_style="bold")
    for one in results:
        table.add_row(*map(str, one.values()))
    console.print(table)


@contextlib.contextmanager
def _filled(folder: Path, options: argparse.Namespace, console: Console) -> Iterator[Settings]:
    """Run a store that holds the objects; the index that parsing made of them is a file in the folder."""
    server, settings = make_store(folder, OWN_STORE)
    try:
        S3ObjectStore(settings).ensure_bucket()
        index = Index.open(_parsed_url(folder))
        index.migrate()
        index.close()
        studies_wanted = [f"1.2.3.{number}" for number in range(-(-options.objects // STUDY_SIZE))]
        context = multiprocessing.get_context("spawn")
        fill = partial(_fill, settings, _parsed_url(folder))
        with Progress(console=console, transient=True) as progress, context.Pool(os.cpu_count()) as pool:
            task = progress.add_task("filling the store and the index", total=len(studies_wanted))
            for _ in pool.imap_unordered(fill, studies_wanted):
                progress.advance(task)
        yield settings
    finally:
        server.stop()


def _parsed_url(folder: Path) -> str:
    return f"sqlite:///{folder}/parsed.db"


def _fill(settings: Settings, index_url: str, study: str) -> None:
    """Store a study and index it as what arrives is indexed, in a process of its own."""
    log.configure("error")
    objects, index = _opened(settings, index_url)
    parts = range(0, STUDY_SIZE, TOGETHER)
    with ThreadPoolExecutor(len(parts)) as pool:
        bucket = settings.store_bucket
        for stored in pool.map(lambda first: store_samples(objects, study, TOGETHER, first, bucket), parts):
            indexed(objects, index, stored)


@cache
def _opened(settings: Settings, index_url: str) -> tuple[S3ObjectStore, Index]:
    return S3ObjectStore(settings), Index.open(index_url)


@contextlib.contextmanager
def _index(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(dir=folder) as own:
            yield f"sqlite:///{own}/index.db"
        return
    # PostgreSQL does not run as root, and must get as far as its folder.
    with tempfile.TemporaryDirectory(prefix="bucky-bench-") as own:
        Path(own).chmod(0o755)
        port, password = free_port(), "benchmark"
        server = run(postgresql(Path(own) / "data", port, password), Path(own))
        try:
            yield f"postgresql+psycopg://bucky:{password}@127.0.0.1:{port}/postgres"
        finally:
            stop(server.process, 10)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.reindex", description=__doc__)
    parser.add_argument("--objects", type=int, default=100_000, help="how many, in studies of 200")
    parser.add_argument(
        "--reads",
        nargs="+",
        default=[f"{PROCESSES}x{THREADS}"],
        help="PROCESSESxTHREADS; 0x8: 8 threads of this process",
    )
    parser.add_argument("--index", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, help="where the store keeps its bytes: 40 KB for each object")
    return parser.parse_args()


if __name__ == "__main__":
    main()
