"""How the uploader learns of what receivers kept: one line each, through one pipe.

    <name> <size> <worker id> <bytes> <instances>    kept; and all that the worker id's receiver kept so far
    ended <worker id>                                the worker id's receiver is gone: look into the folder for it

Lines are shorter than PIPE_BUF, so those of several processes never mix. A full pipe delays no receiver: it
notes the miss in the counters, and the uploader looks into the folder.
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
    worker_id: int
    announced: Notified


@dataclass(frozen=True, slots=True)
class Ended:
    """A receiver is gone, and every line it wrote came before this one."""

    worker_id: int


def open_pipe() -> tuple[int, int]:
    """Return the two ends of a pipe for announcements; neither blocks."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


class Notifier:
    """A receiver's end of the pipe."""

    def __init__(self, pipe: int, counters: SharedCounters, worker_id: int) -> None:
        self._pipe, self._counters, self._worker_id = pipe, counters, worker_id

    def kept(self, files: Iterable[tuple[str, int]]) -> None:
        """Announce names and sizes of files that are kept."""
        text = b""
        for name, size in files:
            announced = self._counters.announce(self._worker_id, size)
            line = b"%s %d %d %d %d\n" % (name.encode(), size, self._worker_id, *announced)
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
            self._counters.miss(self._worker_id)


def notify_end(pipe: int, worker_id: int) -> bool:
    """Announce that a receiver is gone; return whether the pipe had room for it."""
    try:
        os.write(pipe, f"{_ENDED} {worker_id}\n".encode())
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
    name, (size, worker_id, total, instances) = fields[0], map(int, fields[1:])
    return Spooled(name, size, worker_id, Notified(total, instances))
