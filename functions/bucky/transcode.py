"""Changing a data set's transfer syntax without losing anything: the same pixels and the same elements.

Compressed pixels are decompressed, never the other way round, and a lossy image stays what it is. What the
decoders are given came from outside and they are not ours, so this runs as a process of its own
(`python -m bucky.transcode`): one JSON object per line in, one per line out.
"""

import json
import os
import resource
import sys
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, cast

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from bucky.dicom_json import quietly
from bucky.errors import Permanent

MAX_BYTES = 256 * 1024 * 1024
"""Of a data set without its compression; several of it are in memory for a moment."""
MAX_ADDRESS_SPACE = 3 * 1024**3
_COMPRESSED = (
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
)
# Every DICOM node must know implicit VR little endian (PS3.5 §10.1); explicit keeps private elements' VRs.
_BOTH = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    ImplicitVRLittleEndian: _BOTH[:1],
    ExplicitVRLittleEndian: _BOTH[1:],
    DeflatedExplicitVRLittleEndian: _BOTH,
    **dict.fromkeys(_COMPRESSED, _BOTH),
}
"""For each transfer syntax those an instance can be converted to without loss, the best first."""


class CannotTranscode(Permanent):
    """The instance cannot be converted; it can only be sent as it is."""


def transcode(source: BinaryIO, source_syntax: str, target: BinaryIO, target_syntax: str) -> None:
    """Write the data set that a stream holds to another in another transfer syntax; raise `CannotTranscode`."""
    if target_syntax not in ALTERNATIVES.get(source_syntax, ()):
        raise CannotTranscode(f"{UID(source_syntax).name} is not converted to {UID(target_syntax).name}")
    if source_syntax == DeflatedExplicitVRLittleEndian:
        source, source_syntax = _inflated(source), ExplicitVRLittleEndian
    try:
        with quietly():
            _convert(source, UID(source_syntax), target, target_syntax)
    except CannotTranscode:
        raise
    except Exception as error:  # pydicom and the decoders raise whatever malformed bytes lead them to
        raise CannotTranscode(f"it cannot be converted to {UID(target_syntax).name}: {type(error).__name__}") from error


def _convert(source: BinaryIO, syntax: UID, target: BinaryIO, target_syntax: str) -> None:
    data_set = read_dataset(source, is_implicit_VR=syntax.is_implicit_VR, is_little_endian=True)
    if syntax.is_encapsulated:
        _check_can_be_decompressed(data_set)
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = syntax
        data_set.decompress(as_rgb=False, generate_instance_uid=False)
        _say_how_colours_are_sampled(data_set)
    _leave_out_foreign_groups(data_set)
    file = DicomIO(target)
    file.is_little_endian = True
    file.is_implicit_VR = target_syntax == ImplicitVRLittleEndian
    write_dataset(file, data_set)


def _leave_out_foreign_groups(data_set: Dataset) -> None:
    """Leave out what belongs to no data set: elements of groups 0000 and 0002, and zeros after it read as such."""
    for tag in [tag for tag in data_set.keys() if tag.group in {0x0000, 0x0002}]:  # noqa: SIM118 - of tags, not elements
        del data_set[tag]


def _check_can_be_decompressed(data_set: Dataset) -> None:
    numbers = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    size = int(data_set.get("NumberOfFrames") or 1)
    for keyword in numbers:
        size *= int(data_set.get(keyword) or 0)
    if size // 8 > MAX_BYTES:
        raise CannotTranscode(f"without its compression it would be larger than {MAX_BYTES // 1024**2} MB")
    icons = cast("list[Dataset]", data_set.get("IconImageSequence") or [])
    if any("PixelData" in icon and icon["PixelData"].is_undefined_length for icon in icons):
        raise CannotTranscode("its icon is compressed too")


def _say_how_colours_are_sampled(data_set: Dataset) -> None:
    """Decoders give every pixel its own colour, but leave the name of the halved sampling (PS3.3 §C.7.6.3.1.2)."""
    sampling = data_set.PhotometricInterpretation
    if sampling == "YBR_FULL_422":
        data_set.PhotometricInterpretation = "YBR_FULL"
    elif sampling.startswith("YBR_") and sampling != "YBR_FULL":
        raise CannotTranscode(f"its colours, {sampling}, have no uncompressed form")


def _inflated(source: BinaryIO) -> BytesIO:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(source.read(), MAX_BYTES + 1)
    except zlib.error as error:
        raise CannotTranscode("its compression cannot be undone") from error
    if len(content) > MAX_BYTES:
        raise CannotTranscode(f"without its compression it would be larger than {MAX_BYTES // 1024**2} MB")
    if not inflater.eof:
        raise CannotTranscode("its compressed data set is cut short")
    return BytesIO(content)


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Carry out each order, `{"source", "source_syntax", "target", "target_syntax"}`; answer `{"error"}`."""
    for line in orders:
        order = json.loads(line)
        error = ""
        try:
            with Path(order["source"]).open("rb") as source, Path(order["target"]).open("wb") as target:
                transcode(source, order["source_syntax"], target, order["target_syntax"])
        except CannotTranscode as cannot:
            error = str(cannot)
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


def main() -> None:
    """Serve until the other side closes; decoders that print do not reach the answers."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
