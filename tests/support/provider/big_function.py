"""A function for tests, in nothing but the standard library: streams a result of any size, or waits to be let go.

What a user's function in any language may look like: it answers POST, and GET /ready. The rule's parameter
`megabytes` is how large its result's pixels are; while the file `BIG_HOLD` is there, a call that began stays there.
"""

import hashlib
import json
import os
import struct
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MEGABYTE = bytes(1024 * 1024)
EXPLICIT, CT = "1.2.840.10008.1.2.1", "1.2.840.10008.5.1.4.1.1.2"


def element(tag: int, vr: bytes, value: str) -> bytes:
    """Return a short element."""
    content = value.encode() + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(content)) + content


def uid(*seeds: str) -> str:
    """Return a UID that depends on these alone."""
    return f"2.25.{int(hashlib.sha256(' '.join(seeds).encode()).hexdigest()[:30], 16)}"


def head_of(study: str, instance: str, length: int) -> bytes:
    """Return a DICOM file up to its pixels."""
    meta = element(0x00020002, b"UI", CT) + element(0x00020003, b"UI", instance) + element(0x00020010, b"UI", EXPLICIT)
    data_set = (
        element(0x00080016, b"UI", CT)
        + element(0x00080018, b"UI", instance)
        + element(0x00080060, b"CS", "CT")
        + element(0x0020000D, b"UI", study)
        + element(0x0020000E, b"UI", uid(study, "series"))
    )
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, length)
    group = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    return bytes(128) + b"DICM" + group + meta + data_set + pixels


class Big(BaseHTTPRequestHandler):
    """Answers one call after the other."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Be ready."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """Look at what is given, wait while it is held, and answer one large result."""
        data = json.loads(self.body())["data"]
        for instance in data["instances"]:
            with urllib.request.urlopen(instance["url"]) as file:  # noqa: S310 - the link is Bucky's
                while file.read(len(MEGABYTE)):
                    pass
        hold = Path(os.environ["BIG_HOLD"])
        hold.with_suffix(".began").touch()
        while hold.exists():
            time.sleep(0.02)
        count = int(data["parameters"]["megabytes"])
        study = data["study_instance_uid"]
        head = head_of(study, uid(study, "result"), count * len(MEGABYTE))
        self.send_response(200)
        self.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=big')
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.piece(b"--big\r\nContent-Type: application/dicom\r\n\r\n" + head)
        for _ in range(count):
            self.piece(MEGABYTE)
        self.piece(b"\r\n--big--\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def body(self) -> bytes:
        """Read the request, chunked or not."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def piece(self, content: bytes) -> None:
        """Send one chunk."""
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["BUCKY_SERVE_PORT"])), Big).serve_forever()
