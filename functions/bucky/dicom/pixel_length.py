"""Which instances have pixels, and how many bytes of them their header calls for (PS3.3 §C.7.6.3, PS3.5 §8).

What the standard leaves free is no damage: the length of compressed pixels, padding behind them, pixels that are
elsewhere, and headers that do not say how many there are to be.
"""

import re
from typing import Protocol

from pydicom.config import IGNORE
from pydicom.datadict import keyword_for_tag
from pydicom.uid import UID

PIXEL_DATA = 0x7FE00010
FLOAT_PIXELS = {0x7FE00008: 32, 0x7FE00009: 64}
PIXEL_TAGS = frozenset({PIXEL_DATA, *FLOAT_PIXELS})
_PROVIDER_URL = 0x00287FE0
_SOP_CLASS, _FRAMES, _PHOTOMETRIC = 0x00080016, 0x00280008, 0x00280004
_SAMPLES, _ROWS, _COLUMNS, _BITS_ALLOCATED = 0x00280002, 0x00280010, 0x00280011, 0x00280100
_DESCRIBING = (_ROWS, _COLUMNS, _BITS_ALLOCATED)
# Samples for each pixel where colours are sampled for two or four pixels at once (PS3.3 §C.7.6.3.1.2).
_SUBSAMPLED = {"YBR_FULL_422": 2.0, "YBR_PARTIAL_422": 2.0, "YBR_PARTIAL_420": 1.5}
# They may say how many rows they have of something else.
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII)
_NO_IMAGES = frozenset({"Raw Data Storage", "MR Spectroscopy Storage"})


class Described(Protocol):
    """A header that can be asked for values by tag."""

    def number(self, tag: int) -> int | None:
        """Return a number of 16 bits (US), or None."""

    def text(self, tag: int) -> str:
        """Return a text without its padding, empty when it is not there."""

    def has(self, tag: int) -> bool:
        """Return whether an element is there."""


def named(tag: int) -> str:
    """Return an element's tag and, for a public one, its keyword."""
    keyword = keyword_for_tag(tag)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})" + (f" {keyword}" if keyword else "")


def frames(header: Described) -> int | None:
    """Return how many frames there are to be, one where nothing says so; None when what says so is no number (IS)."""
    text = header.text(_FRAMES)
    if not text:
        return 1
    return max(int(text), 1) if _INTEGER.fullmatch(text) else None


def unsaid(header: Described) -> str:
    """Return, in words, what a header does not say of how many pixels there are; nothing when it says all."""
    missing = [named(tag) for tag in _DESCRIBING if header.number(tag) is None]
    return ", ".join(missing if frames(header) is not None else [*missing, f"a number in {named(_FRAMES)}"])


def without_pixels(header: Described) -> str | None:
    """Return, in words, what is wrong with a data set that has no pixels; None when it needs none."""
    sop_class = UID(header.text(_SOP_CLASS), IGNORE)
    if header.has(_PROVIDER_URL) or sop_class.name in _NO_IMAGES:
        return None
    if " Image Storage" not in sop_class.name and ((sop_class and sop_class.is_private) or not _describes(header)):
        return None
    # What is no SOP class of the standard's may be anything, and is not repeated.
    known = f" ({sop_class.name})" if sop_class.name != sop_class else ""
    return f"it is an image{known} without {named(PIXEL_DATA)}"


def too_few(header: Described, tag: int, there: int, transfer_syntax_uid: str) -> str | None:
    """Return, in words, how many bytes are missing of pixels that are not in fragments; None when none are."""
    if unsaid(header) or UID(transfer_syntax_uid, IGNORE).is_private:
        return None  # how many there are to be, nobody knows
    expected = _pixel_bytes(header, tag)
    return f"{named(tag)} has {there} of the {expected} bytes that its header calls for" if there < expected else None


def _describes(header: Described) -> bool:
    return all(header.number(tag) for tag in _DESCRIBING)


def _pixel_bytes(header: Described, tag: int) -> int:
    rows, columns = header.number(_ROWS) or 0, header.number(_COLUMNS) or 0
    bits = FLOAT_PIXELS.get(tag) or header.number(_BITS_ALLOCATED) or 0
    samples = _SUBSAMPLED.get(header.text(_PHOTOMETRIC)) or header.number(_SAMPLES) or 1
    return -(-int(rows * columns * (frames(header) or 1) * samples * bits) // 8)
