"""The way to a real S3 server, which can fail for some keys, change what passes, and be closed.

Requests pass with the headers they came with, the signed ones too, so the server takes them for its own.
"""

import http.client
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.support.network.pausable_server import PausableServer

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_CHECKSUM = re.compile(rb"<Checksum(\w+)>.*?</Checksum\1>")
_OF_ONE_CONNECTION = {"connection", "transfer-encoding", "content-length", "expect"}


class WayToStore(PausableServer):
    """A server between a client and an S3 server; `requests` holds the method and path of each that came."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self.hindered: set[str] = set()
        self.change: Callable[[bytes], bytes] = lambda body: body
        self.change_answer: Callable[[bytes], bytes] = lambda body: body
        self.hide_checksums = False
        self.requests: list[tuple[str, str]] = []
        self._store = urlsplit(endpoint).netloc

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        self.requests.append((request.command, request.path))
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if any(piece in request.path for piece in self.hindered):
            self._send(request, 503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            return
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
        connection = http.client.HTTPConnection(self._store, timeout=120)
        try:
            connection.request(request.command, request.path, self.change(body), headers)
            answer = connection.getresponse()
            content = self.change_answer(answer.read())
            if self.hide_checksums:
                content = _CHECKSUM.sub(b"", content)
            given = {name: value for name, value in answer.getheaders() if not self._hidden(name)}
        finally:
            connection.close()
        length = given.get("Content-Length") if request.command == "HEAD" else None
        self._send(request, answer.status, given, content, length)

    def _hidden(self, name: str) -> bool:
        return self.hide_checksums and name.lower().startswith("x-amz-checksum")

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        content: bytes,
        length: str | None = None,
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _OF_ONE_CONNECTION:
                request.send_header(name, value)
        request.send_header("Content-Length", length or str(len(content)))
        request.end_headers()
        request.wfile.write(content)
