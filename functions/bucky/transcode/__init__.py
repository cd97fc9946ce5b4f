"""Changing a data set's transfer syntax without losing anything: the same pixels and the same elements.

Compressed pixels are decompressed, never the other way round, and a lossy image stays what it is. A copy is proved
before it is called one: two decoders agree on every sample, and the copy is read again and compared with its source.

__main__.py      the process that does it: what the decoders are given came from outside, and they are not ours
conversion.py    from a data set in one transfer syntax to a file in another
streams.py       the frames in the fragments, and what a frame's stream says of itself
image.py         what the data set says of its pixels, and whether the streams say the same
decoders.py      two decoders for each kind of stream, by different libraries
writing.py       the elements in another transfer syntax, every value byte for byte
proof.py         the copy, read again, against its source
"""

from collections.abc import Mapping

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
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

from bucky.errors import Permanent

COMPRESSED = (
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
    ExplicitVRBigEndian: _BOTH,
    **dict.fromkeys(COMPRESSED, _BOTH),
}
"""For each transfer syntax those an instance can be converted to without loss, the best first."""


class CannotTranscode(Permanent):
    """The instance cannot be converted; it can only be sent as it is. The message is the fact alone."""
