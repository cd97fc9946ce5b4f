"""The way to a real S3 server, which can fail for some keys, change what passes, and be closed.

Requests pass with the headers they came with, the signed ones too, so the server takes them for its own.
"""

import http.client
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_CHECKSUM = re.compile(rb"<Checksum(\w+)>.*?</Checksum\1>")
_OF_ONE_CONNECTION = {"connection", "transfer-encoding", "content-length", "expect"}


class WayToStore:
    """A server between a client and an S3 server; `requests` holds the method and path of each that came."""

    def __init__(self, endpoint: str) -> None:
        self.hindered: set[str] = set()
        self.change: Callable[[bytes], bytes] = lambda body: body
        self.change_answer: Callable[[bytes], bytes] = lambda body: body
        self.hide_checksums = False
        self.requests: list[tuple[str, str]] = []
        self._store = urlsplit(endpoint).netloc
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        """Let requests pass, at the same address as before."""
        way = self

        class Passage(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                way.pass_on(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815 - named by http.server

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Passage)
        self._server.daemon_threads = True  # clients keep their connections
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Let nothing pass."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        self.requests.append((request.command, request.path))
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if self._server is None:
            request.close_connection = True
            return
        if any(piece in request.path for piece in self.hindered):
            self._answer(request, 503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            return
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
        connection = http.client.HTTPConnection(self._store, timeout=30)
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
        self._answer(request, answer.status, given, content, length)

    def _hidden(self, name: str) -> bool:
        return self.hide_checksums and name.lower().startswith("x-amz-checksum")

    def _answer(
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
