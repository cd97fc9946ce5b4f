"""Small images in every transfer syntax, and what DCMTK makes of a data set: a decoder that is not ours."""

import io
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

Samples = numpy.ndarray[Any, numpy.dtype[Any]]
ROWS, COLUMNS = 19, 34


class Pixels(NamedTuple):
    """What the images of a cell are: colours, samples, bits, sign and frames."""

    photometric: str
    bits: int
    signed: bool
    frames: int
    planar: int = 0

    @property
    def samples(self) -> int:
        """How many samples a pixel has."""
        return 1 if self.photometric.startswith(("MONO", "PALETTE")) else 3

    @property
    def allocated(self) -> int:
        """How many bits a sample takes."""
        return 8 if self.bits <= 8 else 16


def samples_of(pixels: Pixels) -> Samples:
    """Return samples that differ by frame, row, column and component: frames, rows, columns, samples."""
    frame, y, x, sample = numpy.ogrid[0 : pixels.frames, 0:ROWS, 0:COLUMNS, 0 : pixels.samples]
    values = (x * (3 + sample) + y * (7 - 2 * sample) + frame * 31 + sample * 40 + (x * y) % 5) % (1 << pixels.bits)
    if pixels.bits > 8:
        values = (values * 17) % (1 << pixels.bits)
    if pixels.signed:
        values = values - (1 << (pixels.bits - 1))
    return numpy.asarray(values.astype(f"<{'i' if pixels.signed else 'u'}{pixels.allocated // 8}"))


def data_set(pixels: Pixels, content: bytes, syntax: str) -> Dataset:
    """Return an image with this content as its Pixel Data."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = UID(syntax)
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = UID("1.2.3")
    found.StudyInstanceUID, found.SeriesInstanceUID, found.PatientID = "1.2.4", "1.2.5", "P"
    found.Rows, found.Columns, found.SamplesPerPixel = ROWS, COLUMNS, pixels.samples
    found.BitsAllocated, found.BitsStored, found.HighBit = pixels.allocated, pixels.bits, pixels.bits - 1
    found.PixelRepresentation, found.PhotometricInterpretation = int(pixels.signed), pixels.photometric
    if pixels.frames > 1:
        found.NumberOfFrames = pixels.frames
    if pixels.samples > 1:
        found.PlanarConfiguration = pixels.planar
    found.PixelData = content
    encapsulated = UID(syntax).is_encapsulated
    found["PixelData"].VR = "OB" if encapsulated or pixels.allocated == 8 else "OW"
    found["PixelData"].is_undefined_length = encapsulated
    return found


def native(pixels: Pixels, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """Return an uncompressed image, its colours by plane where they are to be."""
    values = samples_of(pixels)
    if pixels.planar:
        values = numpy.moveaxis(values, -1, 1)
    content = values.astype(values.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    return data_set(pixels, content + b"\0" * (len(content) % 2), syntax)


def compressed(pixels: Pixels, syntax: str, encode: Callable[[Samples], bytes]) -> Dataset:
    """Return an image whose frames are encoded by a function; what its header says of planes may be wrong."""
    frames = [encode(frame if pixels.samples > 1 else frame[:, :, 0]) for frame in samples_of(pixels)]
    return data_set(pixels, encapsulate(frames), syntax)


def jpeg_2000(**options: Any) -> Callable[[Samples], bytes]:
    """Return an encoder of JPEG 2000 codestreams."""
    return lambda frame: bytes(imagecodecs.jpeg2k_encode(frame, codecformat="j2k", **options))


def htj2k(frame: Samples, *, reversible: bool = True, tlm: bool = False) -> bytes:
    """Encode a frame as HTJ2K in the order RPCL; `tlm` adds the lengths of its tile-parts."""
    return bytes(imagecodecs.htj2k_encode(frame, reversible=reversible, tlm=tlm))


def bytes_of(found: Dataset) -> bytes:
    """Return the data set's bytes, without the file's header."""
    file = io.BytesIO()
    found.save_as(file, enforce_file_format=True)
    content = file.getvalue()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def dcmtk(program: Sequence[str], found: Dataset, folder: Path) -> Dataset:
    """Return what a program of DCMTK makes of a data set."""
    before, after = folder / "before.dcm", folder / "after.dcm"
    found.save_as(before, enforce_file_format=True)
    subprocess.run([*program, str(before), str(after)], check=True, capture_output=True)
    return pydicom.dcmread(after)


def seen(found: Dataset) -> Samples:
    """Return the samples of an uncompressed image as its header describes them, bits above those stored left out."""
    frames, samples = int(found.get("NumberOfFrames") or 1), int(found.SamplesPerPixel)
    cells = numpy.frombuffer(found.PixelData, f"<u{found.BitsAllocated // 8}")
    cells = cells[: frames * found.Rows * found.Columns * samples].astype(numpy.int64)
    cells &= (1 << found.BitsStored) - 1
    if found.PixelRepresentation:
        sign = 1 << (found.BitsStored - 1)
        cells = (cells ^ sign) - sign
    if samples > 1 and found.PlanarConfiguration:
        return numpy.moveaxis(cells.reshape(frames, samples, found.Rows, found.Columns), 1, -1)
    return cells.reshape(frames, found.Rows, found.Columns, samples)
