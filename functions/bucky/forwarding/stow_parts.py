"""The answer of a WADO-RS server: one DICOM file, alone or as the only part of a multipart body (RFC 2046)."""

import email.message
import shutil
from pathlib import Path

HEAD_BYTES = 64 * 1024
TAIL_BYTES = 4096
COPY_BYTES = 1024 * 1024


class NotOnePart(Exception):
    """The body is no DICOM file, nor one part that is."""


def one_part(body: Path, content_type: str, target: Path) -> None:
    """Write the DICOM file that a body holds to another file; raise `NotOnePart`."""
    header = email.message.Message()
    header["Content-Type"] = content_type
    kind, boundary = header.get_content_type(), header.get_boundary()
    if kind == "application/dicom":
        body.replace(target)
        return
    if kind != "multipart/related" or not boundary:
        raise NotOnePart
    start, end = _limits(body, f"--{boundary}".encode())
    with body.open("rb") as source, target.open("wb") as file:
        source.seek(start)
        shutil.copyfileobj(source, file, COPY_BYTES)
        file.truncate(end - start)


def _limits(body: Path, delimiter: bytes) -> tuple[int, int]:
    """Return where the first part's content begins, and where it ends."""
    size = body.stat().st_size
    with body.open("rb") as source:
        head = source.read(HEAD_BYTES)
        begun = head.find(delimiter)
        start = head.find(b"\r\n\r\n", begun)
        tail_at = max(0, size - TAIL_BYTES)
        source.seek(tail_at)
        end = source.read().rfind(b"\r\n" + delimiter + b"--")
    if begun < 0 or start < 0 or end < 0 or tail_at + end < start + 4:
        raise NotOnePart
    return start + 4, tail_at + end
