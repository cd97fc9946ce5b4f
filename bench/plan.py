"""What is measured: each cell is one load and the receivers that are sent it, the most telling cells first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.senders import Load

CT = 512 * 1024
SMALL = 20_000
LARGE = 100_000_000
HUGE = 2_000_000_000

OURS = ("bucky", "bucky bare")
DCMTK = ("storescp", "storescp --fork")
SINKS = ("C sink", "C sink, sync each", "C sink, group sync")
ALL = (*OURS, *DCMTK, "Orthanc", "pynetdicom", *SINKS)
SIDE_BY_SIDE = tuple(name for name in ALL if name != "storescp")
# With +B as well, which pays for large instances; also the order in which receivers are shown.
LARGE_FILES = (*OURS, *DCMTK, "storescp +B", "storescp --fork +B", "Orthanc", "pynetdicom", *SINKS)
ASSOCIATIONS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Cell:
    """One load, and who is sent it in each round."""

    load: Load
    receivers: tuple[str, ...] = ALL

    def only(self, names: Sequence[str]) -> "Cell":
        """Return the cell with these receivers alone; an empty sequence means all."""
        kept = tuple(name for name in self.receivers if not names or name in names)
        return replace(self, receivers=kept)


def full() -> list[Cell]:
    """Return everything: three quarters of an hour with three rounds."""
    return [
        *(Cell(Load(CT, n)) for n in (4, 16, 64, 1)),
        Cell(Load(HUGE, 1, seconds=1), ("bucky", "C sink")),
        Cell(Load(LARGE, 4, seconds=2), LARGE_FILES),
        Cell(Load(SMALL, 4, mode="churn")),
        Cell(Load(SMALL, 64, mode="idle", seconds=5), ("bucky", "storescp --fork", "Orthanc", "pynetdicom")),
        Cell(Load(CT, 1, mode="dcmsend")),
        Cell(Load(CT, 1, mode="dcmsend", no_delay=True)),
        *(Cell(Load(SMALL, n)) for n in ASSOCIATIONS),
        *(Cell(Load(CT, n, pdu=16384)) for n in (4, 16)),
        *(Cell(Load(CT, n, link="veth"), SIDE_BY_SIDE) for n in (4, 16)),
        Cell(Load(CT, 1, mode="dcmsend", link="veth")),
        Cell(Load(CT, 4, mode="dcmsend"), SIDE_BY_SIDE),
        *(Cell(Load(CT, n, mode="storescu"), (*OURS, "storescp --fork", "Orthanc", "C sink")) for n in (1, 4)),
        Cell(Load(LARGE, 1, seconds=2), LARGE_FILES),
    ]


def quick() -> list[Cell]:
    """Return what the main targets need: under three minutes with three rounds."""
    return [
        *(Cell(Load(CT, n, seconds=0.7)) for n in (4, 16)),
        Cell(Load(CT, 64, seconds=0.7), OURS),
        Cell(Load(HUGE, 1, seconds=1), ("bucky",)),
        Cell(Load(SMALL, 4, mode="churn", seconds=0.7), ("bucky", "storescp --fork", "Orthanc")),
        Cell(Load(SMALL, 64, mode="idle", seconds=3), ("bucky",)),
        Cell(Load(CT, 1, mode="dcmsend"), ("bucky", "storescp")),
    ]
