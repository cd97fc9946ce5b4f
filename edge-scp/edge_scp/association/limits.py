"""What one connection may cost: lengths in bytes, times in seconds."""

from dataclasses import dataclass
from typing import Self

from bucky.settings import Settings


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """The bounds of every connection of a listener."""

    max_pdu: int = 131072
    """P-DATA-TF length advertised, and enforced."""
    max_associate: int = 256 * 1024
    """A-ASSOCIATE-RQ length: 128 contexts of 30 transfer syntaxes each are 110 KiB."""
    max_command: int = 64 * 1024
    """Command set length; a C-STORE-RQ has some 250 bytes."""
    artim_seconds: float = 15.0
    idle_seconds: float = 60.0
    min_bytes_per_second: int = 1024
    sweep_seconds: float = 0.5
    """How often deadlines are looked at, and so how late they may be noticed."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits that the settings ask for."""
        return cls(
            max_pdu=settings.edge_max_pdu,
            artim_seconds=settings.edge_artim_seconds,
            idle_seconds=settings.edge_idle_seconds,
            min_bytes_per_second=settings.edge_min_bytes_per_second,
            # Short times, as in a demonstration, are kept as well as long ones.
            sweep_seconds=min(0.5, settings.edge_artim_seconds / 4, settings.edge_idle_seconds / 4),
        )
