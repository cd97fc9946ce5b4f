"""A data set's bytes with changed elements in place of the old ones; all else goes out byte for byte as it came."""

import io
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple, cast

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from bucky.dicom.character_sets import SPECIFIC_CHARACTER_SET, character_set_in, character_set_of
from bucky.dicom.deflated import inflated
from bucky.dicom.element import Element, Span
from bucky.dicom.elements import MAX_VALUE_BYTES, HeaderWalk
from bucky.dicom.header import data_set_of, encoding_of
from bucky.dicom.identity import DEFLATED
from bucky.dicom.json_model import UNDECODABLE, quietly
from bucky.dicom.source import MalformedDataSet, StreamSource
from bucky.dicom.whole import whole
from bucky.errors import Permanent
from bucky.morph.change import AttributeChange, Changing
from bucky.morph.encoding import Encoding
from bucky.morph.original import ORIGINAL_ATTRIBUTES, Modification, record
from bucky.morph.values import Unchangeable, is_plain
from bucky.routing.attributes import attribute_path
from bucky.routing.changes import Action
from bucky.routing.crosswalk import LookUp

MAX_TOUCHED_BYTES = 16 * 1024 * 1024
MAX_INFLATED_BYTES = 4 * 1024**3
_COPIED_BYTES = 1024 * 1024
_NO_TEXT = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_ALWAYS_READ = frozenset({SPECIFIC_CHARACTER_SET, ORIGINAL_ATTRIBUTES, BaseTag(0x00100021)})


class WantedChanges(NamedTuple):
    """What a rule wants changed, what looks values up for it, and what is recorded of it, if anything."""

    actions: tuple[Action, ...]
    look_up: LookUp
    modification: Modification | None


class Morphed(NamedTuple):
    """The data set to send, from the stream's beginning; no changes means that it is the one that was given."""

    content: BinaryIO
    changes: tuple[AttributeChange, ...]


def change(dataset: Dataset, wanted: WantedChanges) -> Changing:
    """Carry out the changes on a header and record what was there before."""
    before = dict(dataset.items())
    changing = Changing(dataset, wanted.look_up)
    try:
        changing.carry_out(wanted.actions)
        if changing.tags - {ORIGINAL_ATTRIBUTES} and wanted.modification is not None:
            with quietly():
                record(dataset, before, changing.tags, wanted.modification)
            changing.tags.add(ORIGINAL_ATTRIBUTES)
    except UNDECODABLE as error:
        why = f"an element that is needed for it cannot be decoded ({type(error).__name__})"
        raise Unchangeable("the instance", why) from None
    return changing


def morphed(content: BinaryIO, transfer_syntax_uid: str, wanted: WantedChanges) -> Morphed:
    """Return the data set that stands at the stream's position, changed; closing the result closes the stream.

    Raises `Permanent` when it cannot be changed so, and what a crosswalk raises.
    """
    try:
        if transfer_syntax_uid not in DEFLATED:
            return _spliced(content, transfer_syntax_uid, wanted)
        plain_content = inflated(content, MAX_INFLATED_BYTES)
    except MalformedDataSet as damage:
        raise _unchangeable(damage) from damage
    try:
        result = _spliced(plain_content, transfer_syntax_uid, wanted)
        if not result.changes:
            plain_content.close()
            return Morphed(content, ())
        with result.content as plain:
            deflated = _deflated(plain)
    except MalformedDataSet as damage:
        plain_content.close()
        raise _unchangeable(damage) from damage
    except BaseException:
        plain_content.close()
        raise
    content.close()
    return Morphed(deflated, result.changes)


def _unchangeable(damage: MalformedDataSet) -> Permanent:
    """Return why nothing is made of a damaged data set: what is to be changed may be in what is missing."""
    return Permanent(
        f"its rule changes it, and it is damaged: {damage}; it was not sent: have the instance made again, or send it "
        "as it is by a rule that changes nothing"
    )


def _spliced(content: BinaryIO, transfer_syntax_uid: str, wanted: WantedChanges) -> Morphed:
    start = content.tell()
    source = StreamSource(content)
    whole(source, start, transfer_syntax_uid)
    implicit, little = encoding_of(transfer_syntax_uid)
    walk = HeaderWalk(source, start, implicit=implicit, little=little)
    spans = list(walk.spans())
    dataset = data_set_of(_elements(spans, source, wanted), implicit=walk.implicit, little=little)
    changing = change(dataset, wanted)
    if not changing.changes:
        content.seek(start)
        return Morphed(content, ())
    for span in spans:
        if span.tag in changing.tags and span.implicit != walk.implicit:
            raise Unchangeable(f"({span.tag >> 16:04X},{span.tag & 0xFFFF:04X})", "it is encoded unlike the rest")
    if SPECIFIC_CHARACTER_SET in changing.tags:
        _check_plain(spans, source, dataset, little=little)
    encode = _encoder(dataset, Encoding(walk.implicit, little))
    pieces = _pieces(spans, changing.tags, encode, (start, source.size()))
    return Morphed(io.BufferedReader(_Spliced(content, pieces), _COPIED_BYTES), tuple(changing.changes))


def _elements(spans: Iterable[Span], source: StreamSource, wanted: WantedChanges) -> Iterator[Element]:
    """Yield the elements that are small, or that the changes need."""
    needed = set(_ALWAYS_READ)
    for action in wanted.actions:
        for name in ("set", "delete", "prepend", "suffix", "regex_replace", "copy_", "move", "crosswalk", "to"):
            if attribute := getattr(action, name, None):
                needed.add(BaseTag(int(attribute_path(attribute)[0].tag, 16)))
    for span in spans:
        size = span.value_end - span.value_at
        if size > MAX_TOUCHED_BYTES and span.tag in needed:
            raise Permanent(
                f"({span.tag >> 16:04X},{span.tag & 0xFFFF:04X}) is too large for a rule to change it: the instance "
                "was not sent; leave it out of the rule, then replay it"
            )
        if size <= MAX_VALUE_BYTES or span.tag in needed:
            yield Element(span.tag, span.vr, source.at(span.value_at, size), span.implicit)


def _check_plain(spans: Iterable[Span], source: StreamSource, dataset: Dataset, *, little: bool) -> None:
    """Raise `Unchangeable` when what was too large to be read has text that a new character set would change."""
    for span in spans:
        size = span.value_end - span.value_at
        if span.tag in dataset or span.vr in _NO_TEXT:
            continue
        if size > MAX_TOUCHED_BYTES:
            raise Unchangeable("SpecificCharacterSet", "an element is too large to look for text in it")
        element = Element(span.tag, span.vr, source.at(span.value_at, size), span.implicit)
        if not is_plain(data_set_of([element], implicit=span.implicit, little=little)):
            raise Unchangeable("SpecificCharacterSet", "the instance has text in a character set that it does not name")


def _encoder(dataset: Dataset, encoding: Encoding) -> Callable[[int], bytes]:
    character_set = character_set_in(dataset, character_set_of(None))

    def encode(tag: int) -> bytes:
        """Return a changed element's bytes; none when it was left out."""
        if tag not in dataset:
            return b""
        try:
            with quietly():
                return encoding.element(dataset, BaseTag(tag), character_set)
        except UNDECODABLE as error:
            raise Unchangeable(
                f"({tag >> 16:04X},{tag & 0xFFFF:04X})", f"it cannot be encoded ({type(error).__name__})"
            ) from None

    return encode


class Piece(NamedTuple):
    """Bytes of the new data set: given, or a range of the old one."""

    given: bytes
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.given) or self.end - self.start


def _pieces(
    spans: list[Span], tags: set[BaseTag], encode: Callable[[int], bytes], whole: tuple[int, int]
) -> Iterator[Piece]:
    """Yield the new data set in order: what was kept as ranges, what was changed in its place."""
    waiting = sorted(tags, reverse=True)
    groups = {tag >> 16 for tag in tags}
    kept_from = kept_to = whole[0]
    for span in spans:
        written = b""
        while waiting and waiting[-1] <= span.tag:
            written += encode(waiting.pop())
        # A group's length (PS3.5 §7.2, retired) is wrong once the group has changed, and nobody needs it.
        replaced = span.tag in tags or (span.tag & 0xFFFF == 0 and span.tag >> 16 in groups)
        if written or replaced:
            yield Piece(b"", kept_from, kept_to)
            yield Piece(written, 0, 0)
            kept_from = span.end if replaced else span.start
        kept_to = span.end
    yield Piece(b"", kept_from, kept_to)
    yield Piece(b"".join(encode(tag) for tag in reversed(waiting)), 0, 0)
    yield Piece(b"", kept_to, whole[1])


class _Spliced(io.RawIOBase):
    """The pieces as one stream, which can be rewound; it owns the stream of the old data set."""

    def __init__(self, content: BinaryIO, pieces: Iterable[Piece]) -> None:
        self._content = content
        self._pieces: list[tuple[int, Piece]] = []
        end = 0
        for piece in pieces:
            if piece.size > 0:
                self._pieces.append((end, piece))
                end += piece.size
        self._end = end
        self._at = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be rewound."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read from the piece at the position."""
        for begin, piece in reversed(self._pieces):
            if begin <= self._at < begin + piece.size:
                return self._read(piece, self._at - begin, buffer)
        return 0

    def _read(self, piece: Piece, skip: int, buffer: memoryview) -> int:
        size = min(len(buffer), piece.size - skip)
        if piece.given:
            buffer[:size] = piece.given[skip : skip + size]
        else:
            self._content.seek(piece.start + skip)
            chunk = self._content.read(size)
            size = len(chunk)
            buffer[:size] = chunk
        self._at += size
        return size

    def close(self) -> None:
        """Close the old data set's stream too."""
        if not self.closed:
            self._content.close()
        super().close()


def _deflated(content: BinaryIO) -> BinaryIO:
    """Return a temporary file with a data set deflated; with a byte more where the length would be odd."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)

    def pieces() -> Iterator[bytes]:
        size = 0
        while chunk := content.read(_COPIED_BYTES):
            size += len(piece := deflater.compress(chunk))
            yield piece
        size += len(piece := deflater.flush())
        yield piece
        if size % 2:
            yield b"\0"

    return _file_of(pieces())


def _file_of(pieces: Iterable[bytes]) -> BinaryIO:
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="bucky-morph-"))  # noqa: SIM115 - the caller closes it
    try:
        for piece in pieces:
            file.write(piece)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
