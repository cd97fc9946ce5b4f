"""Going past elements at a glance: the same as looking at everything, whatever the bytes are."""

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pydicom
import pytest

from bucky.dicom.element import Element
from bucky.dicom.elements import HeaderWalk
from bucky.dicom.header import encoding_of
from bucky.dicom.identity import DEFLATED
from bucky.dicom.part10 import split
from bucky.dicom.source import MalformedDataSet, Source, StreamSource
from bucky.errors import InvalidInstance

DATA = Path(pydicom.__file__).parent / "data"


class NothingAtHand(StreamSource):
    """Bytes that have to be fetched, each time: so that every element is looked at."""

    def at_hand(self, offset: int) -> bytes:
        """Return nothing."""
        return b""[offset:]


def _data_sets() -> Iterator[tuple[str, bytes, str]]:
    for path in sorted(DATA.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        try:
            meta, start = split(content[:5000])
        except InvalidInstance:
            continue
        if meta.transfer_syntax_uid not in DEFLATED:
            yield path.name, content[start:], meta.transfer_syntax_uid


def _walked(source: Source, syntax: str) -> tuple[list[Element], str, int]:
    """Return the elements, what stopped the walk, and where it has come to."""
    implicit, little = encoding_of(syntax)
    walk, found = HeaderWalk(source, 0, implicit=implicit, little=little), []
    try:
        for element in walk.elements():
            found.append(element)
    except MalformedDataSet as error:
        return found, str(error), walk.at
    return found, "", walk.at


def _both(content: bytes, syntax: str) -> list[tuple[list[Element], str, int]]:
    return [_walked(source(io.BytesIO(content)), syntax) for source in (StreamSource, NothingAtHand)]


@pytest.mark.parametrize(("content", "syntax"), [one[1:] for one in _data_sets()], ids=[one[0] for one in _data_sets()])
def test_a_glance_finds_what_looking_at_everything_finds(content: bytes, syntax: str) -> None:
    """Real files, whole, cut anywhere and damaged anywhere: the same elements, the same end, the same reason."""
    random = Random(len(content))
    glanced, looked = _both(content, syntax)
    assert glanced == looked
    for _ in range(40):
        damaged = bytearray(content[: min(len(content), 20_000)])
        for _ in range(random.randrange(1, 4)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        glanced, looked = _both(bytes(damaged[: random.randrange(1, len(damaged) + 1)]), syntax)
        assert glanced == looked
