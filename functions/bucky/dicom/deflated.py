"""Undoing the compression of a deflated data set (PS3.5 §A.5), all of it or nothing."""

import tempfile
import zlib
from typing import BinaryIO, cast

from bucky.dicom.source import MalformedDataSet

_CHUNK_BYTES = 1024 * 1024


def inflated(content: BinaryIO, limit: int) -> BinaryIO:
    """Return a temporary file with the data set that stands deflated at a stream's position; close it.

    The stream is left where it was. Raises `MalformedDataSet` when it is damaged or larger than `limit` bytes.
    """
    start = content.tell()
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="bucky-inflated-"))  # noqa: SIM115 - the caller closes it
    try:
        _inflate(content, file, limit)
    except BaseException:
        file.close()
        raise
    finally:
        content.seek(start)
    file.seek(0)
    return file


def _inflate(content: BinaryIO, file: BinaryIO, limit: int) -> None:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof and (chunk := inflater.unconsumed_tail or content.read(_CHUNK_BYTES)):
        try:
            file.write(inflater.decompress(chunk, _CHUNK_BYTES))
        except zlib.error:
            raise MalformedDataSet("its compression cannot be undone: the deflated data set is damaged") from None
        if file.tell() > limit:
            raise MalformedDataSet(f"its compression cannot be undone: it would be larger than {limit >> 20} MB")
    if not inflater.eof:
        raise MalformedDataSet("its compression cannot be undone: the deflated data set is cut short")
