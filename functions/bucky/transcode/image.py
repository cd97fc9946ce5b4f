"""What a data set says of its pixels, and whether its streams say the same (PS3.5 §8.2)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy

from bucky.dicom.whole import WholeDataSet
from bucky.transcode import CannotTranscode
from bucky.transcode.streams import Colours, Compression, Stream

SAMPLES, PHOTOMETRIC, PLANAR = 0x00280002, 0x00280004, 0x00280006
ROWS, COLUMNS, FRAMES = 0x00280010, 0x00280011, 0x00280008
ALLOCATED, STORED, HIGH_BIT, REPRESENTATION = 0x00280100, 0x00280101, 0x00280102, 0x00280103
Samples = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.integer]]
"""One frame: rows, columns, samples."""

_AS_DECODED = {"RGB": "RGB", "YBR_FULL": "YBR_FULL", "YBR_FULL_422": "YBR_FULL"}
_TRANSFORMED = dict.fromkeys(("RGB", "YBR_RCT", "YBR_ICT"), "RGB")
_SAID: Mapping[Colours, str] = {Colours.RGB: "RGB", Colours.YBR: "YBR_FULL"}


class Image(NamedTuple):
    """The numbers that describe pixels (PS3.3 §C.7.6.3)."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    photometric: str
    frames: int

    @classmethod
    def of(cls, data_set: WholeDataSet) -> "Image":
        """Read them; without a number of samples, a pixel has one."""
        samples, allocated = data_set.number(SAMPLES) or 1, data_set.number(ALLOCATED) or 0
        return cls(
            rows=data_set.number(ROWS) or 0,
            columns=data_set.number(COLUMNS) or 0,
            samples=samples,
            allocated=allocated,
            stored=data_set.number(STORED) or allocated,  # of pixels that are not decoded nobody asks
            signed=data_set.number(REPRESENTATION) == 1,
            planar=samples > 1 and data_set.number(PLANAR) == 1,
            photometric=data_set.text(PHOTOMETRIC),
            frames=data_set.frames,
        )

    @property
    def frame_bytes(self) -> int:
        """How long a frame is without compression."""
        return self.rows * self.columns * self.samples * self.allocated // 8

    def check(self, stream: Stream) -> None:
        """Raise `CannotTranscode` where a frame is not the image that the header describes."""
        says = (stream.rows, stream.columns, stream.samples)
        if says != (self.rows, self.columns, self.samples):
            raise CannotTranscode(
                f"its header describes {_shape(self.rows, self.columns, self.samples)}, "
                f"and its {stream.kind} stream holds {_shape(*says)}"
            )
        if stream.precision > self.allocated:
            raise CannotTranscode(
                f"its {stream.kind} stream has {stream.precision} bits a sample, and its header has room for "
                f"{self.allocated}"
            )

    def colours(self, stream: Stream) -> str:
        """Return the photometric interpretation of decoded samples; raise `CannotTranscode` where it is not sure."""
        if self.samples == 1:
            return self.photometric
        known = _TRANSFORMED if stream.transformed else _AS_DECODED
        if self.photometric not in known:
            raise CannotTranscode(
                f"its colours, {self.photometric}, have no uncompressed form in its {stream.kind} stream"
            )
        found = known[self.photometric]
        if _SAID.get(stream.colours, found) != found:
            raise CannotTranscode(
                f"its header says that its colours are {self.photometric}, and its {stream.kind} stream says "
                f"{_SAID[stream.colours]}: which is right cannot be known"
            )
        return found

    def cells(self, decoded: Samples, stream: Stream) -> Samples:
        """Return decoded samples as the header stores them, in its number of bits, signed or not (PS3.5 §8.1.1)."""
        values = decoded.astype(numpy.int64)
        if stream.signed and not self.signed and values.min() < 0:
            raise CannotTranscode("its stream has negative samples, and its header says that none is")
        if self.signed and not stream.signed and stream.precision < self.allocated:
            sign = 1 << (stream.precision - 1)
            if stream.precision >= self.stored:
                values = (values ^ sign) - sign
            elif values.max() >= sign:
                raise CannotTranscode(
                    f"its header says {self.stored} bits with a sign, and its stream has {stream.precision} without: "
                    "which samples are negative cannot be known"
                )
        cells = values.astype(f"<{'i' if self.signed else 'u'}{self.allocated // 8}")
        # Without its sign extended a negative sample is as good as with it: who reads looks at the bits that count.
        if cells.max() >= 1 << self.stored or cells.min() < -(1 << (self.stored - 1)):
            raise CannotTranscode(
                f"its header says that {self.stored} bits of a sample count, and its {stream.kind} stream has samples "
                "of more"
            )
        return cells

    def unpacked(self, frame: bytes) -> Samples:
        """Return the samples of an uncompressed frame."""
        cells = numpy.frombuffer(frame, f"<{'i' if self.signed else 'u'}{self.allocated // 8}")
        if self.planar:
            return numpy.moveaxis(cells.reshape(self.samples, self.rows, self.columns), 0, -1)
        return cells.reshape(self.rows, self.columns, self.samples)


def rle_stream(image: Image) -> Stream:
    """Return what is known of an RLE stream: it says nothing of itself (PS3.5 Annex G)."""
    return Stream(Compression.RLE, image.rows, image.columns, image.samples, image.allocated)


def _shape(rows: int, columns: int, samples: int) -> str:
    return f"{columns} x {rows} pixels of {samples} sample{'s' if samples > 1 else ''}"
