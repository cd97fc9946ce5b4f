"""Comparing two DICOM files: their bytes, then their headers, then their pixels."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import iter_pixels

from bucky.dicom.identity import DEFLATED
from bucky.dicom.json_model import UNDECODABLE, quietly
from bucky.dicom.part10 import sha256_of, split
from bucky.differences.headers import OF_ENCODED_PIXELS, PIXEL_DATA, differing
from bucky.differences.model import Differences, PixelComparison
from bucky.errors import InvalidInstance

HEAD_BYTES = 4096
# What is larger is read when it is asked for.
DEFERRED_BYTES = 1024 * 1024
_NOT_READ = "one of them cannot be read to its end"
_NOT_DECODED = "their pixels could not be decoded"


def compare_files(first: Path, second: Path) -> Differences:
    """Return how a second DICOM file differs from a first."""
    with suppress(InvalidInstance):
        if data_set_sha256(first) == data_set_sha256(second):
            syntaxes = _transfer_syntax(first), _transfer_syntax(second)
            if syntaxes[0] == syntaxes[1]:
                return Differences(True, syntaxes, (), PixelComparison.SAME)
    try:
        with quietly():
            return _compared(first, second)
    except (*UNDECODABLE, InvalidDicomError, InvalidInstance, MemoryError):
        return Differences(False, ("", ""), (), PixelComparison.UNKNOWN, _NOT_READ)


def data_set_sha256(file: Path) -> str:
    """Return the digest of the data set in a file; raise `InvalidInstance` when it is no DICOM file."""
    with file.open("rb") as stream:
        _meta, offset = split(stream.read(HEAD_BYTES))
        stream.seek(offset)
        return sha256_of(stream).hex()


def _transfer_syntax(file: Path) -> str:
    with file.open("rb") as stream:
        return split(stream.read(HEAD_BYTES))[0].transfer_syntax_uid


def _compared(first: Path, second: Path) -> Differences:
    ours, theirs = dcmread(first, defer_size=DEFERRED_BYTES), dcmread(second, defer_size=DEFERRED_BYTES)
    syntaxes = str(ours.file_meta.TransferSyntaxUID), str(theirs.file_meta.TransferSyntaxUID)
    pixels = _pixels(first, second, ours, theirs)
    attributes = differing(ours, theirs)
    if pixels is PixelComparison.SAME and syntaxes[0] != syntaxes[1] and _are_coloured(ours, theirs):
        attributes = tuple(one for one in attributes if one.path not in OF_ENCODED_PIXELS)
    return Differences(False, syntaxes, attributes, pixels, _NOT_DECODED if pixels is PixelComparison.UNKNOWN else "")


def _are_coloured(*both: FileDataset) -> bool:
    """Tell whether pixels were compared in RGB, whatever colour space carries them; grey samples have none."""
    return all(str(one.get("PhotometricInterpretation", "")).startswith(("RGB", "YBR_")) for one in both)


def _pixels(first: Path, second: Path, ours: FileDataset, theirs: FileDataset) -> PixelComparison:
    tags = [tag for tag in sorted(PIXEL_DATA) if tag in ours or tag in theirs]
    if not tags:
        return PixelComparison.NONE
    if any((tag in ours) != (tag in theirs) for tag in tags):
        return PixelComparison.OTHER
    same_syntax = ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID
    if same_syntax and all(_digest(ours[tag].value) == _digest(theirs[tag].value) for tag in tags):
        return PixelComparison.SAME
    try:
        return PixelComparison.SAME if _equal(_frames(first, ours), _frames(second, theirs)) else PixelComparison.OTHER
    except Exception:  # noqa: BLE001 - decoders raise whatever malformed bytes lead them to; this process is theirs
        return PixelComparison.UNKNOWN


def _digest(value: Any) -> bytes:
    return hashlib.sha256(value).digest()


def _frames(file: Path, dataset: FileDataset) -> Iterator[Any]:
    """Decode frame by frame from the file; a deflated data set is in memory anyway."""
    return iter_pixels(dataset if dataset.file_meta.TransferSyntaxUID in DEFLATED else file)


def _equal(ours: Iterable[Any], theirs: Iterable[Any]) -> bool:
    """Tell whether all frames are equal, one in memory at a time."""
    return all(
        one is not None and other is not None and np.array_equal(one, other) for one, other in zip_longest(ours, theirs)
    )
