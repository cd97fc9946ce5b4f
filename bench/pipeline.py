"""Compare pipelines end to end, from C-STORE to a destination's success: `python -m bench.pipeline --help`."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from bench import network, pipeline_page, report
from bench.journeys import CT, Journeys, travel
from bench.natives import build
from bench.receivers import Missing, Receiver, found
from bench.senders import Load, Senders
from bench.ways import BuckyOnMinioWay, BuckyWay, OrthancWay, Way
from bucky import log
from local_stack.own_store import GATEWAY
from local_stack.servers import SYSTEM_PATH, built

MODULE = "bench.pipeline"
REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "benchmarks-pipeline.md"
NODES = ("C sink", "storescp --fork")


def main() -> int:
    """Measure, show and write; return 1 when a target was missed or a number is void."""
    options = _options()
    log.configure("error")
    console = Console(width=None if sys.stdout.isatty() else 130)
    own_network = network.enter(MODULE, sys.argv[1:])
    natives = build(options.dir / "programs")
    receivers, missing = found(natives, own_network=own_network)
    nodes = [one for one in receivers if one.name in (options.node or NODES[: 1 if options.quick else 2])]
    ways, away = _ways(own_network=own_network)
    missing = [one for one in missing if one.name in NODES] + away
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    journeys = Journeys()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="pipeline-", ignore_cleanup_errors=True) as name:
        senders = Senders(natives, Path(name) / "cargo")
        for turn in range(options.rounds):
            for way in (*ways, *ways)[turn % len(ways) :][: len(ways)]:
                if options.way and way not in options.way:
                    continue
                _measure(
                    ways[way], way, nodes, Path(name) / f"{turn}-{way.replace(', ', '-')}", senders, journeys, options
                )
                pipeline_page.show(console, journeys)
    verdicts = pipeline_page.verdicts(journeys)
    report.show_verdicts(console, verdicts)
    for one in missing:
        console.print(f"[bold red]!!! MISSING: {one.name}: {one.reason}")
    for line in journeys.voids():
        console.print(f"[bold red]!!! VOID: {line}")
    content = {
        "machine": report.machine(),
        "journeys": [
            {"load": load, "node": node, "way": way, "rounds": [one.as_json() for one in rounds]}
            for (load, node, way), rounds in journeys.rounds.items()
        ],
        "targets": [asdict(verdict) for verdict in verdicts],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.publish:
        pipeline_page.publish(PAGE, journeys, verdicts, missing, report.machine())
    return 1 if journeys.voids() or any(not one.met for one in verdicts if one.found is not None) else 0


def _measure(
    start: Callable[[Path], Way],
    name: str,
    nodes: list[Receiver],
    folder: Path,
    senders: Senders,
    journeys: Journeys,
    options: argparse.Namespace,
) -> None:
    """Start a pipeline, send it every load for every destination, and stop it."""
    way = start(folder)
    try:
        for number, node in enumerate(nodes):
            for label, load in _loads(options).items():
                place = folder.with_name(f"{folder.name}-{number}-{label}")
                place.mkdir()
                journeys.add(label, node.name, name, travel(way, node, load, senders, place, options.patience))
    finally:
        way.stop()
    shutil.rmtree(folder)


def _loads(options: argparse.Namespace) -> dict[str, Load]:
    seconds, burst = (8, 800) if options.quick else (10, 1000)
    loads = {
        "steady": Load(CT, 4, seconds=120, count=round(seconds * options.rate), rate=options.rate),
        "burst": Load(CT, 4, seconds=120, count=options.burst or burst),
    }
    return {name: load for name, load in loads.items() if options.load in ("", name)}


def _ways(*, own_network: bool) -> tuple[dict[str, Callable[[Path], Way]], list[Missing]]:
    ways: dict[str, Callable[[Path], Way]] = {"bucky, SeaweedFS": partial(BuckyWay, seaweedfs=True)}
    missing = [Missing("mercure", "neither PyPI nor Debian has it; its installer needs a registry of container images")]
    if built(GATEWAY) is None:
        missing.append(Missing("bucky", f"its object store is not built (tools/build {GATEWAY})"))
    else:
        ways = {"bucky": BuckyWay, **ways}
    minio = built("minio")
    if minio is None:
        missing.append(Missing("bucky, MinIO", "MinIO is not built (tools/build minio)"))
    else:
        ways["bucky, MinIO"] = partial(BuckyOnMinioWay, minio)
    orthanc = shutil.which("Orthanc", path=SYSTEM_PATH)
    if orthanc is None:
        missing.append(Missing("Orthanc", "it is not installed (make test-peers)"))
    elif not own_network:
        missing.append(Missing("Orthanc", "it listens on all addresses, so it needs a network namespace (root)"))
    else:
        ways["Orthanc, Lua"] = lambda folder: OrthancWay(orthanc, folder)
        ways["Orthanc, Lua, jobs not saved"] = lambda folder: OrthancWay(orthanc, folder, SaveJobs=False)
    return ways, missing


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one destination and short loads, under 3 minutes")
    parser.add_argument("--rounds", type=int, help="how often each pipeline is started and measured")
    parser.add_argument("--rate", type=float, default=100, help="instances per second of the steady load")
    parser.add_argument("--burst", type=int, help="instances sent as fast as they are taken")
    parser.add_argument("--load", default="", choices=["", "steady", "burst"], help="only this load")
    parser.add_argument("--way", action="append", help="only this pipeline; may be repeated")
    parser.add_argument("--node", action="append", help="only this destination; may be repeated")
    parser.add_argument("--patience", type=float, default=3, help="seconds to wait for calm before each load")
    parser.add_argument("--dir", type=Path, default=REPOSITORY / ".cache" / "bench", help="where everything is stored")
    parser.add_argument("--json", type=Path, default=REPOSITORY / ".cache" / "bench" / "pipeline.json")
    parser.add_argument("--publish", action="store_true", help=f"rewrite the figures in {PAGE.name}")
    options = parser.parse_args()
    options.dir = options.dir.absolute()
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    sys.exit(main())
