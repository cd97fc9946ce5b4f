"""The process that converts instances for a destination; a decoder that crashes or hangs costs one instance."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO, cast

from pydicom.uid import UID

from bucky.errors import Permanent, Retriable
from bucky.transcode import CannotTranscode

SECONDS = 120.0
TRIES = 2
"""The machine may have ended the process for reasons of its own, once."""


def not_converted(fact: str, source_syntax: str, target_syntax: str) -> str:
    """Return why an instance was not sent, and what to do."""
    own, other = UID(source_syntax).name, UID(target_syntax).name
    return (
        f"it cannot be converted to {other}: {fact}; it was not sent, as the destination does not accept {own}: let it "
        "accept that, or have the instance made again, then send it again"
    )


class Transcoder:
    """Starts its process when there is something to convert, and keeps it; one instance at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._one_at_a_time = threading.Lock()

    def converted(self, content: Callable[[], BinaryIO], source_syntax: str, target_syntax: str) -> BinaryIO:
        """Open an instance in another transfer syntax, standing at its first byte.

        Raises what its content raises, `Permanent` when it cannot be converted, `Retriable` when there is no room.
        """
        try:
            return self._in_a_folder(content, source_syntax, target_syntax)
        except CannotTranscode as error:
            raise Permanent(not_converted(str(error), source_syntax, target_syntax)) from error
        except OSError as error:
            raise Retriable(f"there is no room to convert it: {error.strerror}") from error

    def _in_a_folder(self, content: Callable[[], BinaryIO], source_syntax: str, target_syntax: str) -> BinaryIO:
        with tempfile.TemporaryDirectory(prefix="bucky-transcode-") as folder:
            source, target = Path(folder, "source"), Path(folder, "target")
            with content() as stream, source.open("wb") as file:
                shutil.copyfileobj(stream, file)
            order = {"source": str(source), "target": str(target)}
            with self._one_at_a_time:
                self._carry_out({**order, "source_syntax": source_syntax, "target_syntax": target_syntax})
            return target.open("rb")  # the file stays, without a name, until it is closed

    def close(self) -> None:
        """End the process."""
        with self._one_at_a_time:
            self._end()

    def _carry_out(self, order: dict[str, str]) -> None:
        for _try in range(TRIES):
            answer = self._answered(json.dumps(order))
            if answer:
                error = json.loads(answer)["error"]
                if error:
                    raise CannotTranscode(error)
                return
        raise CannotTranscode("decoding it ends or hangs the decoder")

    def _answered(self, order: str) -> str:
        """Return the answer to an order, or nothing when the process ended."""
        process = self._running()
        orders, answers = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
        too_long = threading.Timer(SECONDS, process.kill)
        too_long.start()
        try:
            orders.write(order + "\n")
            orders.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            too_long.cancel()
        if not answer:
            self._end()
        return answer

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            # What a decoder prints may hold anything: it is not kept.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bucky.transcode"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
