"""How the uploader learns of what receivers kept: one line each, through one pipe.

    <name> <size> <slot> <bytes> <instances>    kept; and all that the slot's receiver kept so far
    ended <slot>                                the slot's receiver is gone: look into the folder for it

Lines are shorter than PIPE_BUF, so those of several processes never mix. A full pipe delays no receiver: it
notes the miss in the ledger, and the uploader looks into the folder.
"""

import contextlib
import fcntl
import os
import select
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge_scp.spool.capacity import Notified, SharedCounters

_ENDED = "ended"
# The most a user without privileges may ask for (fs.pipe-max-size): some ten thousand lines.
_PIPE_BYTES = 1024 * 1024
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Spooled:
    """An instance was kept."""

    name: str
    size: int
    slot: int
    announced: Notified


@dataclass(frozen=True, slots=True)
class Ended:
    """A receiver is gone, and every line it wrote came before this one."""

    slot: int


def open_pipe() -> tuple[int, int]:
    """Return the two ends of a pipe for announcements; neither blocks."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


class Notifier:
    """A receiver's end of the pipe."""

    def __init__(self, pipe: int, ledger: SharedCounters, slot: int) -> None:
        self._pipe, self._ledger, self._slot = pipe, ledger, slot

    def kept(self, files: Iterable[tuple[str, int]]) -> None:
        """Announce names and sizes of files that are kept."""
        text = b""
        for name, size in files:
            announced = self._ledger.announce(self._slot, size)
            line = b"%s %d %d %d %d\n" % (name.encode(), size, self._slot, *announced)
            if len(text) + len(line) > select.PIPE_BUF:
                self._send(text)
                text = b""
            text += line
        if text:
            self._send(text)

    def _send(self, text: bytes) -> None:
        try:
            os.write(self._pipe, text)
        except BlockingIOError:
            self._ledger.miss(self._slot)


def notify_end(pipe: int, slot: int) -> bool:
    """Announce that a receiver is gone; return whether the pipe had room for it."""
    try:
        os.write(pipe, f"{_ENDED} {slot}\n".encode())
    except BlockingIOError:
        return False
    return True


class Notifications:
    """The uploader's end of the pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._rest = b""

    def read(self) -> Iterator[Spooled | Ended]:
        """Iterate over what has been announced, or some of it; it does not wait."""
        with contextlib.suppress(BlockingIOError):
            *lines, self._rest = (self._rest + os.read(self._pipe, _READ_BYTES)).split(b"\n")
            yield from map(_announcement, lines)


def _announcement(line: bytes) -> Spooled | Ended:
    fields = line.decode().split(" ")
    if fields[0] == _ENDED:
        return Ended(int(fields[1]))
    name, (size, slot, total, instances) = fields[0], map(int, fields[1:])
    return Spooled(name, size, slot, Notified(total, instances))
