"""How digests, UIDs and names are written in events, and ids that follow from what they name."""

import hashlib
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

Unit = Literal["instance", "series", "study"]
Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
Uid = Field(pattern=r"^[0-9.]{1,64}$")
DestinationName = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")


def delivery_id(sha256: str, destination: str, rule_version: int, morph_sha256: str | None = None) -> str:
    """Return the deterministic id of a delivery (SHA-256, hexadecimal); other changes make it another delivery."""
    parts = [sha256, destination, str(rule_version), *([morph_sha256] if morph_sha256 else [])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def unit_sha256(digests: Iterable[str]) -> str:
    """Return the digest of a set of instances: that of the only one, or of all their digests in order."""
    ordered = sorted(set(digests))
    return ordered[0] if len(ordered) == 1 else hashlib.sha256("\n".join(ordered).encode()).hexdigest()
