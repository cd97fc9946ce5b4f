"""Compare receivers under the same senders, on this machine: `python -m bench.ingest --help`."""

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench import network, page, plan, plot, report, targets
from bench.lab import Lab
from bench.natives import build
from bench.network import LOOPBACK, Link
from bench.plan import Cell
from bench.receivers import Missing, Receiver, found
from bench.results import Results, calm
from bench.senders import Senders, dcmtk_sender

MODULE = "bench.ingest"
REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "benchmarks.md"
PLOT = PAGE.with_name("ingest.png")


def main() -> int:
    """Measure, show and write; return 1 when a target was missed or a number is void."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 130)
    own_network = network.enter(MODULE, sys.argv[1:])
    natives = build(options.dir / "programs")
    receivers, missing = found(natives, own_network=own_network)
    if not dcmtk_sender("dcmsend"):
        missing.append(Missing("dcmsend, storescu", "DCMTK is not installed (make test-peers)"))
    with _links(missing, own_network=own_network) as links, _folder(options.dir) as folder:
        lab = Lab(folder / "received", Senders(natives, folder / "cargo"), links, options.patience)
        results = _measured(lab, options, {receiver.name: receiver for receiver in receivers}, console)
    verdicts = targets.verdicts(results)
    report.show_verdicts(console, verdicts)
    for note in report.NOTES:
        console.print(f"[dim]{note}")
    report.show_missing(console, missing, results)
    report.write_json(options.json, results, verdicts, missing, receivers)
    console.print(f"written: {options.json}")
    if options.publish:
        page.publish(PAGE, PLOT.name, results, verdicts, missing, report.machine())
        console.print(plot.draw(results, PLOT) or f"written: {PAGE}, {PLOT}")
    missed = any(verdict.found is not None and not verdict.met for verdict in verdicts)
    return 1 if missed or results.voids() else 0


def _measured(lab: Lab, options: argparse.Namespace, receivers: dict[str, Receiver], console: Console) -> Results:
    results = Results()
    promises = {receiver.name: receiver.promise for receiver in receivers.values()}
    deadline = time.monotonic() + 60 * (options.minutes or (2.7 if options.quick else 60))
    for cell in plan.quick() if options.quick else plan.full():
        chosen = cell.only(options.receiver)
        if options.load and not any(text in cell.load.key for text in options.load):
            continue
        if not lab.can_send(cell.load):
            continue
        if time.monotonic() > deadline:
            results.left_out.append(f"{cell.load.key}: no time was left")
            continue
        _measure_cell(lab, chosen, options, receivers, results, deadline)
        report.show_load(console, cell.load, results, promises)
    return results


def _measure_cell(
    lab: Lab,
    cell: Cell,
    options: argparse.Namespace,
    receivers: dict[str, Receiver],
    results: Results,
    deadline: float,
) -> None:
    """Run the rounds of one cell, each starting with another receiver; repeat what others disturbed."""
    names = [name for name in cell.receivers if name in receivers]
    for turn in range(options.rounds + options.repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)] if names else []:
            done = results.of(cell.load, name)
            enough = turn >= options.rounds and len(calm(done)) >= options.rounds
            if enough or (turn and time.monotonic() > deadline):
                continue
            results.add(cell.load, name, lab.measure(receivers[name], cell.load))


@contextlib.contextmanager
def _links(missing: list[Missing], *, own_network: bool) -> Iterator[dict[str, Link]]:
    links = {LOOPBACK.name: LOOPBACK}
    with network.veth() if own_network else contextlib.nullcontext() as veth:
        if veth is None:
            missing.append(Missing("veth pair", "needs root and iproute2"))
        else:
            links[veth.name] = veth
        yield links


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """Make a folder for cargo and for what is received, and delete it at the end, however that comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(dir=parent, prefix="run-", ignore_cleanup_errors=True) as name:
        (Path(name) / "received").mkdir()
        yield Path(name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what the main targets need, under 3 minutes")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each receiver under each load")
    parser.add_argument("--repeats", type=int, default=1, help="further rounds for runs that others disturbed")
    parser.add_argument("--patience", type=float, default=3, help="seconds to wait for calm before each run")
    parser.add_argument("--minutes", type=float, help="stop taking up new loads after this long")
    parser.add_argument("--receiver", action="append", default=[], help="only this receiver; may be repeated")
    parser.add_argument("--load", action="append", default=[], help="only loads whose name has this text")
    parser.add_argument("--dir", type=Path, default=REPOSITORY / ".cache" / "bench", help="where receivers store")
    parser.add_argument("--json", type=Path, default=REPOSITORY / ".cache" / "bench" / "ingest.json")
    parser.add_argument("--publish", action="store_true", help=f"rewrite {PAGE.name} and draw {PLOT.name}")
    options = parser.parse_args()
    options.dir = options.dir.absolute()
    return options


if __name__ == "__main__":
    sys.exit(main())
