"""Reading a multipart body piece by piece: what was written comes out, wherever the pieces were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from process_instances.parts import MOST_HEADER_BYTES, Malformed, Parts

BOUNDARY = "b"


def body_of(contents: list[bytes], preamble: bytes = b"") -> bytes:
    """Return a body with these parts."""
    parts = [b"--b\r\nContent-Type: application/dicom\r\nX: 1\r\n\r\n" + content + b"\r\n" for content in contents]
    return preamble + b"".join(parts) + b"--b--\r\nwhat follows is nobody's"


def read(body: bytes, size: int) -> list[tuple[dict[str, str], bytes]]:
    """Read a body that comes in pieces of a size."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return [(headers, b"".join(content)) for headers, content in Parts(pieces, BOUNDARY)]


@given(
    st.lists(st.lists(st.sampled_from([b"\r\n", b"\r\n-", b"--", b"x", b"\0", b"--b"]), max_size=20).map(b"".join)),
    st.integers(1, 50),
)
def test_parts_are_what_was_written(contents: list[bytes], size: int) -> None:
    """No content that looks like a boundary, and no cut through one, changes a byte."""
    wanted = [content for content in contents if b"\r\n--b" not in b"\r\n" + content]
    headers = {"content-type": "application/dicom", "x": "1"}
    assert read(body_of(wanted), size) == [(headers, content) for content in wanted]


def test_what_is_not_read_is_skipped() -> None:
    """Who does not want a part gets the next one all the same; a preamble is no part."""
    parts = Parts([body_of([b"one" * 1000, b"two"], b"a preamble\r\n")], BOUNDARY)
    assert [headers["x"] for headers, _ in parts] == ["1", "1"]


def test_a_part_needs_no_headers() -> None:
    """A part that says nothing of itself begins with an empty line (RFC 2046 §5.1)."""
    assert read(b"--b\r\n\r\nhello\r\n--b--", 3) == [({}, b"hello")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--b",
        b"--b\r\nContent-Type: x",
        b"--b\r\n\r\nhalf of it",
        b"--b\r\n\r\nwhole\r\n--b",
        b"--b\r\n" + b"x: " + b"y" * (MOST_HEADER_BYTES + 1) + b"\r\n\r\n",
        b"--banana\r\n\r\nx\r\n--b--",
    ],
)
def test_a_body_that_is_not_whole_is_told_from_one_that_is(body: bytes) -> None:
    """A function that ended in the middle of its answer is never taken for one that had no more to say."""
    with pytest.raises(Malformed):
        read(body, 7)
