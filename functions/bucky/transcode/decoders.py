"""Two decoders for each kind of stream, by different libraries; nobody but `conversion.py` and `proof.py` asks them.

The first makes the copy, the second is the witness. Both are given the stream and what it says of itself, never what
the data set says.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import gdcm
import imagecodecs
import numpy
import openjpeg.utils
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEG2000, UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from bucky.transcode import CannotTranscode
from bucky.transcode.image import Samples
from bucky.transcode.streams import Compression, Stream

Decoder = Callable[[bytes, Stream], Samples]
_RLE_HEADER_BYTES = 64
_STANDARD_ERROR = 2


def decoded(frame: bytes, stream: Stream) -> Samples:
    """Decode a frame; raise `CannotTranscode` when it cannot be."""
    return _asked(_FIRST[stream.kind], frame, stream)


def witnessed(frame: bytes, stream: Stream) -> Samples:
    """Decode a frame with the other library; raise `CannotTranscode` when it cannot be, or only with a complaint."""
    return _asked(_SECOND[stream.kind], frame, stream)


def _asked(decoder: Decoder, frame: bytes, stream: Stream) -> Samples:
    try:
        samples = decoder(frame, stream)
        return samples.reshape(stream.rows, stream.columns, stream.samples)
    except CannotTranscode:
        raise
    except Exception as error:  # the decoders raise whatever malformed bytes lead them to
        raise CannotTranscode(
            f"its {stream.kind} stream cannot be decoded: it is damaged, or of no known kind"
        ) from error


def _by_imagecodecs(frame: bytes, stream: Stream) -> Samples:
    if stream.kind is Compression.JPEG:
        same = "GRAYSCALE" if stream.samples == 1 else "YCBCR"  # given both ways: nothing is to be changed
        return numpy.asarray(imagecodecs.jpeg8_decode(frame, colorspace=same, outcolorspace=same))
    decoders: Mapping[Compression, Callable[[bytes], Any]] = {
        Compression.JPEG_LS: imagecodecs.jpegls_decode,
        Compression.JPEG_2000: imagecodecs.jpeg2k_decode,
        Compression.HTJ2K: _by_openjph,
    }
    return numpy.asarray(decoders[stream.kind](frame))


def _by_openjph(frame: bytes) -> Any:
    """Decode HTJ2K; imagecodecs lets errors within a tile pass, and returns memory that nobody has written to."""
    ignored: list[type[BaseException]] = []

    def note(unraisable: Any) -> None:
        if "htj2k" in str(unraisable.object):
            ignored.append(unraisable.exc_type)
        else:
            kept(unraisable)

    kept, sys.unraisablehook = sys.unraisablehook, note
    try:
        samples = imagecodecs.htj2k_decode(frame)
    finally:
        sys.unraisablehook = kept
    if ignored:
        raise ValueError("OpenJPH has not decoded all of it")
    return samples


def _packbits(frame: bytes, stream: Stream) -> Samples:
    """Decode RLE: for each sample its bytes, the highest first, each a segment (PS3.5 §G.2)."""
    size, width = stream.rows * stream.columns, stream.precision // 8
    number, *offsets = numpy.frombuffer(frame[:_RLE_HEADER_BYTES], "<u4").tolist()
    if number != stream.samples * width:
        raise CannotTranscode(f"its RLE frame has {number} segments instead of {stream.samples * width}")
    ends = [*offsets[1:number], len(frame)]
    planes = numpy.empty((stream.samples, size, width), numpy.uint8)
    for index, (start, end) in enumerate(zip(offsets[:number], ends, strict=True)):
        segment = imagecodecs.packbits_decode(frame[start:end])
        if len(segment) < size:
            raise CannotTranscode(f"its RLE frame is cut short: a segment has {len(segment)} of {size} bytes")
        if len(segment) > size + 1:  # one byte may be padding
            raise CannotTranscode(f"its RLE frame is another image: a segment has {len(segment)} bytes, not {size}")
        sample, place = divmod(index, width)
        planes[sample, :, width - 1 - place] = numpy.frombuffer(segment[:size], numpy.uint8)
    cells = planes.reshape(-1).view(f"<u{width}").reshape(stream.samples, size)
    return numpy.moveaxis(cells, 0, -1)


def _by_gdcm(frame: bytes, stream: Stream) -> Samples:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetDataElement(element)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(_gdcm_syntax(stream)))))
    width = 1 if stream.precision <= 8 else 2 if stream.precision <= 16 else 4
    colours = "MONOCHROME2" if stream.samples == 1 else "YBR_RCT" if stream.transformed else "RGB"
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.GetPIType(colours))
    )
    if stream.samples > 1:
        image.SetPlanarConfiguration(0)
    image.SetPixelFormat(
        gdcm.PixelFormat(stream.samples, 8 * width, stream.precision, stream.precision - 1, int(stream.signed))
    )
    text, complaints = _overheard(image.GetBuffer)
    if b"Corrupt JPEG data" in complaints:
        raise CannotTranscode("its JPEG stream is damaged: what is there of it does not make the whole image")
    return numpy.frombuffer(text.encode("utf-8", "surrogateescape"), f"<{'i' if stream.signed else 'u'}{width}")


def _gdcm_syntax(stream: Stream) -> UID:
    if stream.kind is not Compression.JPEG:
        return JPEG2000 if stream.kind is Compression.JPEG_2000 else JPEGLSLossless
    if stream.lossless:
        return JPEGLosslessSV1
    return JPEGBaseline8Bit if stream.precision == 8 else JPEGExtended12Bit


def _overheard(decode: Callable[[], str]) -> tuple[str, bytes]:
    """Return what a decoder returns and what it prints: a cut stream is filled up with grey, and only that says so."""
    kept = os.dup(_STANDARD_ERROR)
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), _STANDARD_ERROR)
            result = decode()
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            os.close(kept)
        file.seek(0)
        return result, file.read()


def _by_openjpeg(frame: bytes, _stream: Stream) -> Samples:
    return numpy.asarray(openjpeg.utils.decode(frame))


def _by_pydicom(frame: bytes, stream: Stream) -> Samples:
    options: dict[str, Any] = {
        "rows": stream.rows,
        "columns": stream.columns,
        "number_of_frames": 1,
        "samples_per_pixel": stream.samples,
        "planar_configuration": 0,
        "photometric_interpretation": "MONOCHROME2" if stream.samples == 1 else "RGB",
        "bits_allocated": stream.precision,
        "bits_stored": stream.precision,
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }
    array, _ = get_decoder(RLELossless).as_array(encapsulate([frame]), raw=True, **options)
    return array


_FIRST: Mapping[Compression, Decoder] = {**dict.fromkeys(Compression, _by_imagecodecs), Compression.RLE: _packbits}
_SECOND: Mapping[Compression, Decoder] = {
    **dict.fromkeys(Compression, _by_gdcm),
    Compression.RLE: _by_pydicom,
    Compression.HTJ2K: _by_openjpeg,
}
