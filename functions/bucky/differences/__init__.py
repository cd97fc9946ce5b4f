"""How two DICOM files differ: in their headers, attribute by attribute, and in their pixels, decoded."""

from bucky.differences.comparing import compared
from bucky.differences.model import Attribute, Differences, PixelComparison, in_words

__all__ = ["Attribute", "Differences", "PixelComparison", "compared", "in_words"]
