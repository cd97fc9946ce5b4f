"""Sending to nodes that do not accept an instance's transfer syntax: converted, recorded, or refused with a reason."""

import hashlib
import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
import pytest

from bucky.dicom.foreign_file import read_foreign_file
from bucky.dimse.outgoing import Opener, Outcome, Outgoing, StoreResult
from bucky.events import DeliveryCompleted, payload_of
from bucky.forwarding import Secrets, Senders, transcoder
from bucky.forwarding.dimse import DimseSender
from bucky.index import Index
from bucky.routing.destinations import DimseDestination
from bucky.store.objects import MemoryObjectStore
from local_stack.destination import Destination
from tests.support.dicom.sample_instances import SAMPLE
from tests.support.functions.forwarding import forward, request, save_destination

EXPLICIT, IMPLICIT, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"
PLAIN, COMPRESSED = "MR_small.dcm", ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm")


def instance(name: str, number: int = 0, change: Any = bytes) -> Outgoing:
    """Return one of pydicom's files as an instance of its own."""
    file = read_foreign_file(SAMPLE.parent / name)
    content = change(file.path.read_bytes()[file.offset :])
    return Outgoing(file.sop_class_uid, f"1.2.3.{number}", file.transfer_syntax_uid, partial(io.BytesIO, content))


def send(destination: Destination, items: list[Outgoing], **fields: Any) -> list[StoreResult]:
    """Send instances to a node."""
    given = {"name": "a", "type": "dimse", "aet": "DEMO", "host": "127.0.0.1", "port": destination.port, **fields}
    sender = DimseSender(DimseDestination.model_validate(given), Secrets(Path("/nowhere")))
    try:
        return sender.send(items, seconds=60)
    finally:
        sender.close()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_a_node_does_not_accept_goes_as_the_same_pixels(tmp_path: Path, syntax: str) -> None:
    """An old node gets every image, uncompressed, with the pixels of the file that was never compressed."""
    with Destination(tmp_path, transfer_syntaxes=[syntax]) as destination:
        results = send(destination, [instance(name, n) for n, name in enumerate(COMPRESSED)])
        assert {received.transfer_syntax_uid for received in destination.requests} == {syntax}
        kept = sorted(tmp_path.glob("*/*.dcm"))
    assert [result.outcome for result in results] == [Outcome.STORED] * 3
    assert {result.transfer_syntax_uid for result in results} == {syntax}
    name = "Explicit" if syntax == EXPLICIT else "Implicit"
    assert results[1].reason == (
        f"sent losslessly as {name} VR Little Endian: the destination does not accept "
        "JPEG 2000 Image Compression (Lossless Only)"
    )
    original = pydicom.dcmread(SAMPLE.parent / PLAIN)
    assert [pydicom.dcmread(path).PixelData for path in kept] == [original.PixelData] * 3
    assert {pydicom.dcmread(path).SOPInstanceUID for path in kept} == {original.SOPInstanceUID}


def test_what_a_node_accepts_goes_byte_for_byte(tmp_path: Path) -> None:
    """Nothing is converted that need not be, though the same association converts another."""
    items = [instance(COMPRESSED[1], 1), instance(COMPRESSED[0], 2), instance(PLAIN, 3)]
    with Destination(tmp_path, transfer_syntaxes=[IMPLICIT, EXPLICIT, JPEG_2000]) as destination:
        results = send(destination, items, max_associations=1)
        kept = destination.received().keys()
    assert [result.transfer_syntax_uid for result in results] == ["", EXPLICIT, ""]
    assert {hashlib.sha256(items[n].content().read()).hexdigest() for n in (0, 2)} <= kept


def test_a_destination_s_pace_holds_for_what_goes_out(tmp_path: Path) -> None:
    """A cap on bandwidth counts the bytes of a converted image as they are sent, not as they are kept."""
    sizes: list[int] = []

    def through(fetch: Opener) -> Opener:
        def opened() -> BinaryIO:
            with fetch() as stream:
                content = stream.read()
            sizes.append(len(content))
            return io.BytesIO(content)

        return opened

    items = [replace(instance(COMPRESSED[0], 1), through=through), replace(instance(PLAIN, 2), through=through)]
    with Destination(tmp_path, transfer_syntaxes=[EXPLICIT]) as destination:
        results = send(destination, items, max_associations=1)
        arrived = [received.size for received in destination.requests]
    assert [result.outcome for result in results] == [Outcome.STORED] * 2
    assert sizes == arrived
    assert sizes[0] > len(items[0].content().read())


def test_never_means_never(tmp_path: Path) -> None:
    """A destination that must get the original or nothing gets nothing else."""
    with Destination(tmp_path, transfer_syntaxes=[EXPLICIT]) as destination:
        results = send(destination, [instance(COMPRESSED[0], 1), instance(PLAIN, 2)], transcode="never")
        assert destination.count == 1
    assert [result.outcome for result in results] == [Outcome.REFUSED, Outcome.STORED]
    assert results[0].reason == "the destination does not accept MR Image Storage in RLE Lossless"


def test_a_class_that_is_refused_is_not_converted(tmp_path: Path) -> None:
    """No conversion helps where the node does not take such instances at all."""
    item = instance(COMPRESSED[0])
    with Destination(tmp_path, refused_sop_classes=[item.sop_class_uid]) as destination:
        (result,) = send(destination, [item])
    assert (result.outcome, result.reason) == (Outcome.REFUSED, "the destination does not accept MR Image Storage")


def test_pixels_nobody_can_decode_cost_one_instance(tmp_path: Path) -> None:
    """A broken image is refused with a reason; those before and after it arrive."""
    broken = instance(COMPRESSED[1], 2, lambda content: content[:-5000] + bytes(5000))
    with Destination(tmp_path, transfer_syntaxes=[EXPLICIT]) as destination:
        results = send(destination, [instance(COMPRESSED[0], 1), broken, instance(COMPRESSED[2], 3)])
    assert [result.outcome for result in results] == [Outcome.STORED, Outcome.REFUSED, Outcome.STORED]
    assert results[1].reason.startswith("it cannot be converted to Explicit VR Little Endian")


@pytest.mark.parametrize("behaviour", ["kill -SEGV $$", "exec sleep 60"])
def test_a_decoder_that_crashes_or_hangs_costs_one_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    """What a malformed image does to a decoder must not take the function with it, nor the rest of the batch."""
    program = tmp_path / "decoder"
    program.write_text(f"#!/bin/sh\n{behaviour}\n")
    program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setattr(transcoder, "SECONDS", 0.5)
    with Destination(tmp_path / "node", transfer_syntaxes=[EXPLICIT]) as destination:
        results = send(destination, [instance(COMPRESSED[0], 1), instance(PLAIN, 2)])
    assert [result.outcome for result in results] == [Outcome.REFUSED, Outcome.STORED]
    assert results[0].reason.startswith(
        "it cannot be converted to Explicit VR Little Endian: decoding it ends or hangs the decoder; it was not sent"
    )


def test_the_process_that_converts_is_kept_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process converts a whole batch, leaves no file behind, and does not outlive its destination."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    converter = transcoder.Transcoder()
    item, processes = instance(COMPRESSED[0]), []
    for _ in range(2):
        with converter.converted(item.content, item.transfer_syntax_uid, EXPLICIT) as converted:
            assert len(converted.read()) > 8192
        processes.append(converter._process)
    assert processes[0] is not None
    assert processes[0] is processes[1]
    assert processes[0].poll() is None
    assert list((tmp_path / "temporary").iterdir()) == []
    converter.close()
    assert processes[0].returncode is not None


def test_the_delivery_says_that_it_was_converted(tmp_path: Path, index: Index) -> None:
    """Who compares digests at both ends must be able to see why they differ."""
    objects = MemoryObjectStore()
    content = SAMPLE.read_bytes()
    event = request(objects, 1, data_set=content[read_foreign_file(SAMPLE).offset :])
    senders = Senders(Secrets(tmp_path))
    with Destination(tmp_path / "node", transfer_syntaxes=[IMPLICIT]) as destination:
        model = DimseDestination(name="pacs", type="dimse", aet="DEMO", host="127.0.0.1", port=destination.port)
        save_destination(index, model)
        (completed,) = forward([event], objects, index, senders).events
    senders.close()
    payload = payload_of(completed)
    assert isinstance(payload, DeliveryCompleted)
    words = "sent losslessly as Implicit VR Little Endian: the destination does not accept Explicit VR Little Endian"
    assert payload.detail == index.delivery(event.id).reason == words
