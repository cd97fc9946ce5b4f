"""The body of a STOW-RS request: instances as one stream of parts (PS3.18 §10.5.1, RFC 2387)."""

import secrets
from collections.abc import Iterator, Sequence

from bucky.dimse.outgoing import Outgoing, StoreResult, not_sent
from bucky.errors import Permanent, Retriable
from bucky.forwarding.part10_file import Part10File

ACCEPT = "application/dicom+json"
# Small, so that a capped line is never silent for long.
PIECE_BYTES = 64 * 1024


class NothingToSend(Exception):
    """No instance of a request could be opened: the request must not be made."""


class MultipartBody:
    """The instances at some indexes as one body; opens each when its turn comes, and one at a time.

    `sent` holds the indexes of those that went out whole, `failed` the results of those that could not be opened;
    `ended` is true when the end of the body went out too.
    Reading it to its end raises `NothingToSend` when that is all of them.
    """

    def __init__(self, items: Sequence[Outgoing], indexes: Sequence[int]) -> None:
        self._items = items
        self._indexes = indexes
        self._boundary = f"bucky-{secrets.token_hex(16)}"
        self.sent: list[int] = []
        self.failed: dict[int, StoreResult] = {}
        self.ended = False

    @property
    def content_type(self) -> str:
        """Return the header's value."""
        return f'multipart/related; type="application/dicom"; boundary={self._boundary}'

    def __iter__(self) -> Iterator[bytes]:
        for index in self._indexes:
            try:
                file = Part10File.of(self._items[index])
            except (Permanent, Retriable) as error:
                self.failed[index] = not_sent(error)
                continue
            with file:
                yield f"--{self._boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
                while piece := file.read(PIECE_BYTES):
                    yield piece
            yield b"\r\n"
            self.sent.append(index)
        if not self.sent:
            raise NothingToSend
        yield f"--{self._boundary}--\r\n".encode()
        self.ended = True


def requests_for(items: Sequence[Outgoing], most: int) -> list[list[int]]:
    """Share the items out among requests of limited size; none names a SOP Instance UID twice.

    The answer knows an instance by that UID alone.
    """
    requests: list[list[int]] = []
    named: list[set[str]] = []
    for index, item in enumerate(items):
        free = next(
            (
                number
                for number, request in enumerate(requests)
                if len(request) < most and item.sop_instance_uid not in named[number]
            ),
            None,
        )
        if free is None:
            requests.append([])
            named.append(set())
            free = -1
        requests[free].append(index)
        named[free].add(item.sop_instance_uid)
    return requests
