"""What a function that processes answers: its results as one multipart body, made before the first byte goes out.

So a function that fails half way answers that it failed, and the body never is in memory.
"""

import io
import secrets
import tempfile
from collections.abc import Callable, Iterable
from typing import IO

import pydicom
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bucky.serve.processing_input import Made

PIECE_BYTES = 256 * 1024


class ResultsFile:
    """A multipart body (RFC 2387) in a file without a name; `count` is of its parts."""

    def __init__(self) -> None:
        self._boundary = f"bucky-{secrets.token_hex(16)}"
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it was sent
        self.count = 0

    @property
    def content_type(self) -> str:
        """Return the header's value."""
        return f'multipart/related; type="application/dicom"; boundary={self._boundary}'

    def fill(self, results: Iterable[Made]) -> None:
        """Write all results and the end."""
        for result in results:
            self.file.write(f"--{self._boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode())
            self.file.write(_encoded(result))
            self.file.write(b"\r\n")
            self.count += 1
        self.file.write(f"--{self._boundary}--\r\n".encode())


class ResultsResponse(Response):
    """Sends a results file; calls `ended` when it is sent, or the caller is gone."""

    def __init__(self, results: ResultsFile, ended: Callable[[], None]) -> None:
        super().__init__(media_type=results.content_type)
        self._file, self._ended = results.file, ended
        self.headers["content-length"] = str(self._file.tell())

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._file.seek(0)
            while piece := self._file.read(PIECE_BYTES):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._file.close()
            self._ended()


def _encoded(result: Made) -> bytes:
    if isinstance(result, bytes):
        return result
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, result, enforce_file_format=True)
    return buffer.getvalue()
