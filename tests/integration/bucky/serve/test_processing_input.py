"""What a function reads of an instance it is given: all of it as it was received, or the reason why not."""

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pydicom
import pytest

from bucky.dicom.part10 import FileMeta, file_header, split
from bucky.errors import BuckyError, Permanent, Retriable, StoreUnavailable
from bucky.serve import processing_input
from bucky.serve.processing_input import ProcessingInstance
from tests.support.dicom.sample_instances import SAMPLE
from tests.support.network.pausable_server import PausableServer

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
DEFLATED = "1.2.840.10008.1.2.1.99"
SOUND = SAMPLE.read_bytes()


class Store(PausableServer):
    """A server that gives the same bytes to everybody, perhaps fewer than it says, or says no."""

    def __init__(self) -> None:
        super().__init__()
        self.content, self.missing, self.status = b"", 0, 200

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Give what there is, and end the connection where some is missing."""
        request.send_response(self.status)
        request.send_header("Content-Length", str(len(self.content)))
        request.end_headers()
        request.wfile.write(self.content[: len(self.content) - self.missing])
        request.close_connection = True


@pytest.fixture
def store() -> Iterator[Store]:
    """A server that is open."""
    opened = Store()
    opened.open()
    yield opened
    opened.close()


def instance(store: Store, received: bytes) -> ProcessingInstance:
    """Return an instance of which these bytes were received."""
    return ProcessingInstance(
        study_instance_uid="1.2",
        series_instance_uid="1.2.3",
        sop_instance_uid="1.2.3.4",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sha256=hashlib.sha256(received[split(received)[1] :]).hexdigest(),
        size=len(received),
        bucket="bucky",
        key="studies/1.2",
        url=store.url,
    )


def reading(store: Store, received: bytes, there: bytes | None = None) -> BuckyError:
    """Return what reading an instance raises; `there` is what the store has of it now."""
    store.content = received if there is None else there
    with pytest.raises(BuckyError) as raised:
        instance(store, received).read()
    return raised.value


def deflated(content: bytes) -> bytes:
    """Return a file deflated (PS3.5 §A.5)."""
    deflater = zlib.compressobj(wbits=-15)
    data_set = deflater.compress(content[split(content)[1] :]) + deflater.flush()
    return file_header(FileMeta("1.2", "1.2.3.4", DEFLATED)) + data_set


def short_pixels() -> bytes:
    """Return a file in which every length agrees, and two bytes of pixels are missing."""
    dataset, target = pydicom.dcmread(SAMPLE), io.BytesIO()
    dataset.PixelData = dataset.PixelData[:-2]
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


@pytest.mark.parametrize("content", [SOUND, deflated(SOUND), (TEST_FILES / "MR_small_RLE.dcm").read_bytes()])
def test_a_whole_instance_is_read_with_its_pixels(store: Store, content: bytes) -> None:
    """Whatever its transfer syntax, a function gets every element."""
    store.content = content
    expected = pydicom.dcmread(io.BytesIO(content))
    assert instance(store, content).read() == expected
    assert expected.PixelData


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda content: content[:-1], id="cut"),
        pytest.param(lambda content: content[:1000], id="cut in its header"),
        pytest.param(lambda content: content + b"\0", id="longer"),
        pytest.param(lambda content: content[:-1000] + b"\1" + content[-999:], id="a byte changed"),
    ],
)
def test_bytes_that_are_not_those_received_are_refused(store: Store, change: Callable[[bytes], bytes]) -> None:
    """What a disk or a stranger made of the object is never taken for the instance, and no repetition helps."""
    error = reading(store, SOUND, change(SOUND))
    assert isinstance(error, Permanent)
    assert "SHA-256 differs" in str(error)


@pytest.mark.parametrize("there", [b"", b"no DICOM", b"\0" * 5000])
def test_what_is_no_dicom_file_is_refused(store: Store, there: bytes) -> None:
    """An object of something else is said to be no DICOM file."""
    error = reading(store, SOUND, there)
    assert isinstance(error, Permanent)
    assert "not a DICOM file" in str(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(SOUND[:-100], "(FFFC,FFFC) DataSetTrailingPadding is", id="cut behind its pixels"),
        pytest.param(SOUND[:-20_000], "PixelData is 32768 bytes long", id="cut in its pixels"),
        pytest.param(SOUND[:1000], "and the data set ends after", id="cut in its header"),
        pytest.param((TEST_FILES / "MR_small_RLE.dcm").read_bytes()[:-3000], "fragment 1 of", id="cut in a fragment"),
        pytest.param((TEST_FILES / "JPEG2000.dcm").read_bytes()[:-8], "PixelData", id="without the end of fragments"),
        pytest.param(deflated(SOUND)[:-100], "the deflated data set is cut short", id="deflated and cut"),
        pytest.param(short_pixels(), "has 32766 of the 32768 bytes", id="too few pixels"),
    ],
)
def test_an_instance_that_came_damaged_is_not_read_by_half(store: Store, content: bytes, said: str) -> None:
    """The bytes are those that were received, which pydicom would read without a word: the function gets nothing."""
    error = reading(store, content)
    assert isinstance(error, Permanent)
    assert said in str(error)
    assert "it is damaged: " in str(error)
    assert "nothing is made of it: have the instance made again" in str(error)


def test_a_deflated_instance_that_would_not_end_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb costs neither the memory nor the disk of the function."""
    monkeypatch.setattr(processing_input, "MAX_INFLATED_BYTES", 1024)
    error = reading(store, deflated(SOUND))
    assert isinstance(error, Permanent)
    assert "it is damaged: its compression cannot be undone: it would be larger" in str(error)


@pytest.mark.parametrize("missing", [1, 30_000, len(SOUND)])
def test_a_transfer_that_breaks_off_is_tried_again(store: Store, missing: int) -> None:
    """A line that was cut says nothing against the instance."""
    store.missing = missing
    error = reading(store, SOUND)
    assert isinstance(error, StoreUnavailable)
    assert isinstance(error, Retriable)


@pytest.mark.parametrize("status", [301, 403, 404, 500, 503])
def test_a_store_that_says_no_is_tried_again(store: Store, status: int) -> None:
    """A link that has run out, or a store that is away, is no fault of the instance; an error page is not read."""
    store.status = status
    error = reading(store, SOUND)
    assert isinstance(error, StoreUnavailable)
    assert str(status) in str(error)


def test_a_store_that_is_away_is_tried_again(store: Store) -> None:
    """Nobody listening is told as such."""
    store.close()
    assert isinstance(reading(store, SOUND), StoreUnavailable)
