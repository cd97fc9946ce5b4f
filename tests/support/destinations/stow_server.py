"""A small STOW-RS server (PS3.18 §10.5) that keeps what it takes, and can be told to misbehave."""

import io
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from pydicom import dcmread

from bucky.dicom.part10 import split
from tests.support.network.pausable_server import PausableServer

_BOUNDARY = re.compile(r'multipart/related; type="application/dicom"; boundary=([\w-]+)')
_PART = b"Content-Type: application/dicom\r\n\r\n"


@dataclass(frozen=True)
class Whole:
    """An answer to a request as a whole; without a status the connection is closed after the body's first bytes."""

    status: int | None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request that came: its headers, and the UIDs of the instances in it."""

    path: str
    headers: dict[str, str]
    uids: list[str] = field(default_factory=list)


class StowServer(PausableServer):
    """Answers each request by its scripts; `failures` and `warnings` are by SOP Instance UID.

    `files` and `metadata` say whether it gives what is in `kept` (PS3.18 §10.4); without them it answers 501.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.kept: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.failures: dict[str, int] = {}
        self.warnings: dict[str, int] = {}
        self.unnamed: set[str] = set()
        self.files = self.metadata = self.busy = False
        self.given: list[str] = []
        self.whole: Callable[[Request], Whole | None] = lambda _request: None

    @property
    def url(self) -> str:
        """Return the service's root."""
        return f"{super().url}/dicom-web"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        if handler.command == "GET":
            self._give(handler)
            return
        request = Request(handler.path, dict(handler.headers.items()))
        self.requests.append(request)
        files = _files(_chunked(handler), handler.headers["Content-Type"])
        request.uids += files
        whole = self.whole(request)
        if whole is not None and whole.status is None:
            handler.close_connection = True
        elif whole is not None:
            _send(handler, whole.status or 0, whole.body, whole.headers)
        else:
            status, document = self._stored(files)
            _send(handler, status, json.dumps(document).encode(), {"Content-Type": "application/dicom+json"})

    def _give(self, handler: BaseHTTPRequestHandler) -> None:
        self.given.append(handler.path)
        found = re.fullmatch(r"/dicom-web/studies/[\d.]+/series/[\d.]+/instances/([\d.]+)(/metadata)?", handler.path)
        assert found is not None
        uid, wants_metadata = found[1], bool(found[2])
        if self.busy:
            _send(handler, 503, b"", {})
        elif not (self.metadata if wants_metadata else self.files):
            _send(handler, 501, b"", {})
        elif uid not in self.kept:
            _send(handler, 404, b"", {})
        elif wants_metadata:
            dataset = dcmread(io.BytesIO(self.kept[uid]))
            model = dataset.to_json_dict(1024, lambda element: f"{handler.path}/bulk/{element.tag}")
            _send(handler, 200, json.dumps([model]).encode(), {"Content-Type": "application/dicom+json"})
        else:
            body = b"--b'1\r\nContent-Type: application/dicom\r\n\r\n" + self.kept[uid] + b"\r\n--b'1--\r\n"
            kind = 'multipart/related; type="application/dicom"; boundary="b\'1"'
            _send(handler, 200, body, {"Content-Type": kind})

    def _stored(self, files: dict[str, bytes]) -> tuple[int, dict[str, Any]]:
        failed = [uid for uid in files if uid in self.failures]
        stored = [uid for uid in files if uid not in self.failures]
        self.kept.update((uid, files[uid]) for uid in stored)
        document = {
            "00081199": _sequence(
                {"00081155": _element("UI", uid)}
                | ({"00081196": _element("US", self.warnings[uid])} if uid in self.warnings else {})
                for uid in stored
                if uid not in self.unnamed
            ),
            "00081198": _sequence(
                {"00081155": _element("UI", uid), "00081197": _element("US", self.failures[uid])} for uid in failed
            ),
        }
        return 409 if not stored else 202 if failed or self.warnings else 200, document


def _sequence(items: Any) -> dict[str, Any]:
    return {"vr": "SQ", "Value": list(items)}


def _element(vr: str, value: object) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}


def _chunked(handler: BaseHTTPRequestHandler) -> bytes:
    assert handler.headers["Transfer-Encoding"] == "chunked"
    body = bytearray()
    while size := int(_line(handler), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return bytes(body)


def _line(handler: BaseHTTPRequestHandler) -> bytes:
    line = handler.rfile.readline()
    if not line:
        raise ConnectionResetError
    return line


def _files(body: bytes, content_type: str) -> dict[str, bytes]:
    """Take a body apart by RFC 2046, written here a second time."""
    match = _BOUNDARY.fullmatch(content_type)
    assert match is not None
    boundary = b"--" + match[1].encode()
    parts = (b"\r\n" + body).split(b"\r\n" + boundary)
    assert parts[0] == b""
    assert parts[-1] == b"--\r\n"
    files = {}
    for part in parts[1:-1]:
        head, file = part[: len(_PART) + 2], part[len(_PART) + 2 :]
        assert head == b"\r\n" + _PART
        files[split(file)[0].sop_instance_uid] = file
    return files


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response_only(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
