"""The coded character sets that DICOM's text is made of (PS3.3 §C.12.1.1.2), each with its escape sequences.

A `CodedSet` decodes and encodes the bytes of one set in its place: G0, whose bytes are below 0x80, or G1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_KATAKANA, _KATAKANA_FIRST, _KATAKANA_LAST = 0xFF61, 0xA1, 0xDF


@dataclass(frozen=True, slots=True)
class CodedSet:
    """One set: what invokes it, how many bytes a character has, and the way there and back.

    `decode` replaces what is not in the set by U+FFFD; `encode` returns None for a character that is not.
    """

    place: Literal["G0", "G1"]
    escape: bytes
    width: Literal[1, 2]
    decode: Callable[[bytes], str]
    encode: Callable[[str], bytes | None]


def _ascii_encode(character: str) -> bytes | None:
    return character.encode() if character.isascii() and character != "\x1b" else None


def _romaji_decode(value: bytes) -> str:
    return value.decode("ascii", "replace").replace("~", "\u203e")  # 0x5C stays what separates values


def _romaji_encode(character: str) -> bytes | None:
    return b"~" if character == "\u203e" else None if character == "~" else _ascii_encode(character)


def _katakana_decode(value: bytes) -> str:
    return "".join(
        chr(byte - _KATAKANA_FIRST + _KATAKANA) if _KATAKANA_FIRST <= byte <= _KATAKANA_LAST else "\ufffd"
        for byte in value
    )


def _katakana_encode(character: str) -> bytes | None:
    byte = ord(character) - _KATAKANA + _KATAKANA_FIRST
    return bytes((byte,)) if _KATAKANA_FIRST <= byte <= _KATAKANA_LAST else None


def _bytes_of(character: str, codec: str) -> bytes:
    """Return a character in one of Python's codecs; nothing when it is not in it."""
    try:
        return character.encode(codec)
    except UnicodeEncodeError:
        return b""


def _single(codec: str, final: bytes) -> CodedSet:
    """Return a set of 96 characters in G1, one byte each."""

    def encode(character: str) -> bytes | None:
        value = _bytes_of(character, codec)
        return value if len(value) == 1 and value[0] >= 0xA0 else None

    return CodedSet("G1", b"\x1b-" + final, 1, lambda value: value.decode(codec, "replace"), encode)


def _double(codec: str, final: bytes) -> CodedSet:
    """Return a set in G1 of two bytes for each character."""

    def encode(character: str) -> bytes | None:
        value = _bytes_of(character, codec)
        return value if len(value) == 2 else None

    return CodedSet("G1", b"\x1b$)" + final, 2, lambda value: value.decode(codec, "replace"), encode)


def _japanese(escape: bytes, shift: bytes) -> CodedSet:
    """Return a set in G0 that EUC-JP has in its upper half, after `shift`."""

    def decode(value: bytes) -> str:
        pairs = (bytes((value[at] | 0x80, value[at + 1] | 0x80)) for at in range(0, len(value) - 1, 2))
        return "".join(decoded if len(decoded := _euc(shift + pair)) == 1 else "\ufffd" for pair in pairs)

    def encode(character: str) -> bytes | None:
        value = _bytes_of(character, "euc_jp")
        if len(value) != len(shift) + 2 or not value.startswith(shift) or value[len(shift)] < 0xA1:
            return None
        return bytes(byte & 0x7F for byte in value[len(shift) :])

    return CodedSet("G0", escape, 2, decode, encode)


def _euc(value: bytes) -> str:
    return value.decode("euc_jp", "replace")


ASCII = CodedSet("G0", b"\x1b(B", 1, lambda value: value.decode("ascii", "replace"), _ascii_encode)
ROMAJI = CodedSet("G0", b"\x1b(J", 1, _romaji_decode, _romaji_encode)
KATAKANA = CodedSet("G1", b"\x1b)I", 1, _katakana_decode, _katakana_encode)
LATIN_1 = _single("latin_1", b"A")
JIS_X_0208 = _japanese(b"\x1b$B", b"")
JIS_X_0212 = _japanese(b"\x1b$(D", b"\x8f")
KS_X_1001 = _double("euc_kr", b"C")
GB_2312 = _double("gb2312", b"A")

SETS: dict[str, tuple[CodedSet, ...]] = {
    "6": (ASCII,),
    "13": (ROMAJI, KATAKANA),
    "100": (ASCII, LATIN_1),
    "101": (ASCII, _single("iso8859_2", b"B")),
    "109": (ASCII, _single("iso8859_3", b"C")),
    "110": (ASCII, _single("iso8859_4", b"D")),
    "126": (ASCII, _single("iso8859_7", b"F")),
    "127": (ASCII, _single("iso8859_6", b"G")),
    "138": (ASCII, _single("iso8859_8", b"H")),
    "144": (ASCII, _single("iso8859_5", b"L")),
    "148": (ASCII, _single("iso8859_9", b"M")),
    "166": (ASCII, _single("tis_620", b"T")),
    "203": (ASCII, _single("iso8859_15", b"b")),
    "58": (GB_2312,),
    "87": (JIS_X_0208,),
    "149": (KS_X_1001,),
    "159": (JIS_X_0212,),
}
"""By the number in the defined term: `ISO_IR 100` and `ISO 2022 IR 100` name the same sets."""

ESCAPES: dict[bytes, CodedSet] = {
    **{one.escape: one for sets in SETS.values() for one in sets},
    b"\x1b$@": JIS_X_0208,  # JIS C 6226, before there was JIS X 0208
    b"\x1b$(B": JIS_X_0208,
}
