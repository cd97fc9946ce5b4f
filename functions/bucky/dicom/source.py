"""Where the bytes of a data set come from: a stream, an object, memory."""

import os
from typing import BinaryIO, Protocol

from bucky.errors import InvalidInstance

_WINDOW_BYTES = 64 * 1024


class MalformedDataSet(InvalidInstance):
    """The bytes do not follow PS3.5, or end too early; what came before can be used."""


class Source(Protocol):
    """Bytes that can be asked for by position."""

    def at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; fewer only at the end."""

    def at_hand(self, offset: int) -> bytes:
        """Return the bytes from `offset` that need not be fetched, as many as there are; perhaps none."""

    def size(self) -> int | None:
        """Return how many bytes there are, or None when that is not known yet."""


class StreamSource:
    """The bytes of a stream that can be rewound."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        here = stream.tell()
        self._size = stream.seek(0, os.SEEK_END)
        stream.seek(here)

    def at(self, offset: int, length: int) -> bytes:
        """Return bytes of the stream."""
        self._stream.seek(offset)
        return self._stream.read(length)

    def at_hand(self, offset: int) -> bytes:
        """Return the next bytes, some of them."""
        return self.at(offset, _WINDOW_BYTES)

    def size(self) -> int:
        """Return how many bytes there are."""
        return self._size
