"""What the receive path must reach, as ratios within one run; each is met, missed or not measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.plan import CT, HUGE, LARGE, SMALL
from bench.results import Results

SYNCED_SINKS = ("C sink, group sync", "C sink, sync each")


@dataclass(frozen=True)
class Verdict:
    """One target: what is asked, what was found (None: not measured)."""

    name: str
    wanted: str
    found: float | None
    met: bool


def verdicts(results: Results) -> list[Verdict]:
    """Return the verdict on every target."""
    return [*_rates(results), *_costs(results), *_special(results), *_senders(results)]


def _rates(results: Results) -> Iterator[Verdict]:
    ct: dict[str, object] = {"size": CT, "pdu": 131072, "mode": "stream", "link": "loopback"}
    for n in (4, 16):
        for peer, factor in (("storescp --fork", 1.3), ("Orthanc", 6), ("pynetdicom", 12), ("C sink", 0.85)):
            yield _ratio(results, "bucky bare", (peer,), factor, f"0.5 MB x{n}", ct | {"associations": n})
        yield _ratio(results, "bucky", SYNCED_SINKS, 0.85, f"0.5 MB x{n}", ct | {"associations": n})
        yield _ratio(results, "bucky", ("Orthanc",), 2.5, f"0.5 MB x{n}", ct | {"associations": n})
    yield _ratio(results, "bucky", ("storescp",), 1, "0.5 MB x16", ct | {"associations": 16})
    for ours in ("bucky", "bucky bare"):
        few = results.get(ours, **ct, associations=4)
        many = results.get(ours, **ct, associations=64)
        found = many.rate / few.rate if few and many else None
        yield _at_least(f"{ours}: 0.5 MB, rate at x64 of that at x4 (15 % is noise)", found, 0.85)


def _costs(results: Results) -> Iterator[Verdict]:
    for n in (4, 16):
        for ours, most in (("bucky bare", 0.35), ("bucky", 0.75)):
            got = results.get(ours, size=CT, pdu=131072, mode="stream", link="loopback", associations=n)
            yield _at_most(f"{ours}: CPU ms per 0.5 MB instance, x{n}", got.cpu_ms if got else None, most)
    huge = results.get("bucky", size=HUGE)
    yield _at_most("bucky: RSS growth in MB while receiving 2 GB", huge.growth_bytes / 1e6 if huge else None, 20)
    idle = results.get("bucky", mode="idle")
    yield _at_most("bucky: % of a core for 64 idle associations", idle.cpu_percent if idle else None, 2)


def _special(results: Results) -> Iterator[Verdict]:
    for ours in ("bucky bare", "bucky"):
        large: dict[str, object] = {"size": LARGE, "associations": 4}
        yield _ratio(results, ours, ("storescp --fork",), 2, "100 MB x4", large)
    churn: dict[str, object] = {"size": SMALL, "mode": "churn"}
    for peer in ("storescp --fork", "Orthanc"):
        yield _ratio(results, "bucky", (peer,), 1, "an association for each 20 KB", churn)


def _senders(results: Results) -> Iterator[Verdict]:
    one: dict[str, object] = {"size": CT, "associations": 1, "mode": "dcmsend", "link": "loopback", "no_delay": False}
    yield _ratio(results, "bucky", ("storescp",), 2, "one unmodified dcmsend", one)


def _ratio(
    results: Results, ours: str, peers: tuple[str, ...], factor: float, what: str, load: dict[str, object]
) -> Verdict:
    """Compare rates; where there are several peers, with the fastest."""
    mine = results.get(ours, **load)
    theirs = [peer for peer in (results.get(name, **load) for name in peers) if peer]
    found = mine.rate / max(peer.rate for peer in theirs) if mine and len(theirs) == len(peers) else None
    return _at_least(f"{what}: {ours} / {' or '.join(peers)}", found, factor)


def _at_least(name: str, found: float | None, least: float) -> Verdict:
    return Verdict(name, f"≥ {least:g}", found, found is not None and found >= least)


def _at_most(name: str, found: float | None, most: float) -> Verdict:
    return Verdict(name, f"≤ {most:g}", found, found is not None and found <= most)
