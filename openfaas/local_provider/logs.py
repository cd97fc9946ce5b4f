"""What functions print: the last lines in memory, more of them in a rotated file."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

LINES_IN_MEMORY = 2000
LONGEST_LINE = 8192
LARGEST_FILE = 2 * 1024 * 1024
WAITING_LINES = 1000


@dataclass(frozen=True)
class Line:
    """One line of one replica."""

    name: str
    instance: str
    timestamp: datetime
    text: str

    def to_json(self) -> dict[str, str]:
        """Return the line as `/system/logs` shows it."""
        timestamp = self.timestamp.isoformat().replace("+00:00", "Z")
        return {"name": self.name, "instance": self.instance, "timestamp": timestamp, "text": self.text}


class FunctionLog:
    """One function's log, bounded in memory and on disk."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._lines: deque[Line] = deque(maxlen=LINES_IN_MEMORY)
        self._followers: set[asyncio.Queue[Line | None]] = set()
        self._path = folder / f"{name}.log"
        self._file = self._path.open("a", encoding="utf-8")

    def append(self, instance: str, text: str) -> None:
        """Add a line; what is longer than `LONGEST_LINE` characters is cut."""
        line = Line(self._name, instance, datetime.now(UTC), text[:LONGEST_LINE])
        self._lines.append(line)
        self._write(f"{line.timestamp.isoformat()} {instance} {line.text}\n")
        for queue in self._followers:
            if queue.full():
                # A follower that does not read loses the oldest lines, not our memory.
                queue.get_nowait()
            queue.put_nowait(line)

    def recent(self, tail: int = 0, since: datetime | None = None, instance: str = "") -> list[Line]:
        """Return the last lines, oldest first; `tail` of 0 or less means all in memory."""
        chosen = [
            line
            for line in self._lines
            if (since is None or line.timestamp >= since) and instance in ("", line.instance)
        ]
        return chosen[-tail:] if tail > 0 else chosen

    async def follow(self, seconds: float) -> AsyncIterator[Line]:
        """Yield new lines until the function is removed or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with self._following() as queue:
            while (remaining := deadline - loop.time()) > 0:
                try:
                    line = await asyncio.wait_for(queue.get(), remaining)
                except TimeoutError:
                    return
                if line is None:
                    return
                yield line

    def end_followers(self) -> None:
        """Let nobody follow any longer, as when the provider stops."""
        for queue in self._followers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    def close(self) -> None:
        """End all followers and close the file."""
        self.end_followers()
        self._file.close()

    @contextmanager
    def _following(self) -> Iterator[asyncio.Queue[Line | None]]:
        queue: asyncio.Queue[Line | None] = asyncio.Queue(WAITING_LINES)
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)

    def _write(self, text: str) -> None:
        if self._file.closed:  # the last words of a replica whose function was removed
            return
        self._file.write(text)
        self._file.flush()
        if self._file.tell() <= LARGEST_FILE:
            return
        self._file.close()
        self._path.replace(self._path.with_suffix(".log.1"))
        self._file = self._path.open("a", encoding="utf-8")
