"""Explicit VR as it is found: how long an element's length field is, by its VR (PS3.5 §7.1.2).

One reading for all that walk data sets, and DCMTK's: a VR of two upper-case letters that is not known has 32 bits, as
those yet to be invented will; anything else in its place, such as `??`, has 16.
"""

SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
KNOWN_VRS = SHORT_VRS | LONG_VRS

_EMPTY = bytes(4)


def is_long(vr: bytes) -> bool:
    """Tell whether an element of this VR has a length field of 32 bits, after two reserved bytes."""
    return vr not in SHORT_VRS and vr.isalpha() and vr.isupper()


def lacks_vr(vr: bytes, short_length: int) -> bool:
    """Tell whether what stands in a VR's place is a length of 32 bits: some turn to implicit VR half-way.

    `short_length` are the 16 bits after it. A length of 64 KiB or more is not told from a VR that is none.
    """
    return short_length == 0 and vr != b"\0\0" and not is_printable(vr)


def is_printable(vr: bytes) -> bool:
    """Tell whether two bytes may have been meant for a VR."""
    return all(0x20 <= byte < 0x7F for byte in vr)


def looks_implicit(head: bytes) -> bool | None:
    """Judge a data set's encoding by the first 8 bytes of an element; None where they would be the same in both."""
    return None if head[4:8] == _EMPTY else lacks_vr(head[4:6], int.from_bytes(head[6:8], "little"))
