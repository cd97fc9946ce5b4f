"""Reading a multipart body (RFC 2046 §5.1) as it comes: never more of it in memory than a piece."""

from collections.abc import Iterable, Iterator

MOST_HEADER_BYTES = 8 * 1024


class Malformed(ValueError):
    """The body is no multipart body, or was cut short."""


class Parts:
    """Iterates over the parts: their headers, names in small letters, and their content, a piece at a time.

    A part's content is gone once the next part is asked for. Raises `Malformed`, and what the pieces raise.
    """

    def __init__(self, pieces: Iterable[bytes], boundary: str) -> None:
        self._pieces = iter(pieces)
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The first delimiter has no line before it that ends.
        self._held = bytearray(b"\r\n")

    def __iter__(self) -> Iterator[tuple[dict[str, str], Iterator[bytes]]]:
        for _ in self._to_delimiter():
            pass
        while not self._is_last():
            content = self._to_delimiter()
            yield self._headers(), content
            for _ in content:
                pass

    def _to_delimiter(self) -> Iterator[bytes]:
        keep = len(self._delimiter) - 1
        while (at := self._held.find(self._delimiter)) < 0:
            if len(self._held) > keep:
                yield bytes(self._held[:-keep])
                del self._held[:-keep]
            self._more()
        yield bytes(self._held[:at])
        del self._held[: at + len(self._delimiter)]

    def _is_last(self) -> bool:
        while len(self._held) < len(b"--"):
            self._more()
        if self._held.startswith(b"--"):
            return True
        line = self._through(b"\r\n")
        if line.strip(b" \t\r\n"):
            raise Malformed("a boundary has something behind it")
        return False

    def _headers(self) -> dict[str, str]:
        while len(self._held) < len(b"\r\n"):
            self._more()
        if self._held.startswith(b"\r\n"):
            del self._held[:2]
            return {}
        lines = self._through(b"\r\n\r\n").decode("latin-1").split("\r\n")
        named = (line.partition(":") for line in lines if line)
        return {name.strip().lower(): value.strip() for name, _, value in named}

    def _through(self, mark: bytes) -> bytes:
        while (at := self._held.find(mark)) < 0:
            if len(self._held) > MOST_HEADER_BYTES:
                raise Malformed("the headers of a part are too long")
            self._more()
        taken = bytes(self._held[: at + len(mark)])
        del self._held[: at + len(mark)]
        return taken

    def _more(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise Malformed("it ended before its last boundary")
        self._held += piece
