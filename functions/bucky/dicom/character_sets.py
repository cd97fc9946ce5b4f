"""Text in the character sets of DICOM (PS3.3 §C.12.1.1.2, PS3.5 §6.1.2 and Annexes H to K), decoded and encoded.

Where a value 1 of Specific Character Set leaves off, and what ends a code extension, differs by VR: a person's name
begins anew after `^` and `=`, what may have several values after a backslash, everything after a line.

Some senders name a set as programs do, `UTF-8` or `Shift_JIS`. Their text is read as they mean it, and stays as it is:
under a name that the standard does not have, nothing but ASCII is written.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from bucky.dicom.coded_sets import ASCII, ESCAPES, LATIN_1, SETS, CodedSet
from bucky.dicom.padding import PADDING

CHARACTER_SET_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
SEVERAL_VALUED = frozenset({"LO", "PN", "SH", "UC"})
UTF_8 = "ISO_IR 192"
SPECIFIC_CHARACTER_SET = BaseTag(0x00080005)
_ESC = 0x1B
_TERM = re.compile(r"ISO[ _-]?(2022)?[ _-]?(?:IR)?[ _-]?(\d{1,3})", re.IGNORECASE)
_WHOLE = {"ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gbk", "ISO 2022 GBK": "gbk"}
# What programs call them, letters and digits alone. Shift JIS is Microsoft's, in which 0x5C is a backslash only.
_SHIFT_JIS = dict.fromkeys(("SHIFTJIS", "SJIS", "XSJIS", "MSKANJI", "WINDOWS31J", "CP932", "MS932"), "cp932")
_ALIASES = {
    **_SHIFT_JIS,
    **{"UTF8": "utf_8", "BIG5": "big5", "GB2312": "gbk", "CP936": "gbk", "LATIN1": "latin_1", "KOI8R": "koi8_r"},
    **{"EUCJP": "euc_jp", "EUCKR": "euc_kr", "KSC5601": "euc_kr", "KSC56011987": "euc_kr", "TIS620": "tis_620"},
}
_NUMBERED = re.compile(r"(ISO8859|WINDOWS|CP)(125[0-8]|1[0134-6]|[1-9])")
_DEFAULT_TERMS = frozenset({"", "6", "ASCII", "USASCII"})
_TO_ASCII = "\x1b(B"
# An escape sequence, bytes of G1, or bytes of G0 and control characters.
_RUNS = re.compile(rb"\x1b(?:\$[()]?[@-~]|[()-][@-~])?|[\x80-\xff]+|[^\x1b\x80-\xff]+")
_PAIRS = re.compile(rb"(?:[\x21-\x7e]{2})+|[^\x21-\x7e]+|[\x21-\x7e]")
_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\$[()]?[@-~]|[()-][@-~])")
_LINES = "\t\n\f\r"
_ENDS = {"PN": _LINES + "\\^=", "LO": _LINES + "\\", "SH": _LINES + "\\", "UC": _LINES + "\\"}


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """What Specific Character Set says: one codec for everything, or coded sets of which the first are active.

    `sets` are all that may be used; those of one without `extensible` are those that it begins with. `standard`: it is
    named as the standard names it.
    """

    terms: tuple[str, ...]
    codec: str | None
    g0: CodedSet
    g1: CodedSet | None
    sets: tuple[CodedSet, ...]
    extensible: bool
    standard: bool = True

    @property
    def is_default(self) -> bool:
        """Whether it has the default repertoire only, ASCII."""
        return self.standard and self.codec is None and all(one is ASCII for one in self.sets)

    def decode(self, value: bytes, vr: str, *, strict: bool = False) -> str:
        """Return the text of an element's value; what is not in the character set becomes U+FFFD.

        With `strict` that raises `ValueError`. Otherwise, where no set was named for bytes over 0x7F, they are
        taken for Latin-1, which they nearly always are.
        """
        text = self._decoded(value, vr, strict=strict)
        if strict and "\ufffd" in text:
            raise ValueError("the text is not valid in its character set")
        return text

    def encode(self, text: str, vr: str) -> bytes:
        """Return the value's bytes; raise `ValueError` when the character set lacks a character."""
        if not self.standard and not text.isascii():
            raise ValueError("the character set is named as no standard names it")
        if self.codec is not None:
            return text.encode(self.codec)
        ends = _ENDS.get(vr, _LINES)
        return b"".join(self._encoded(part) for part in re.split(f"([{re.escape(ends)}])", text))

    def _decoded(self, value: bytes, vr: str, *, strict: bool) -> str:
        if self.codec is not None:
            text = value.decode(self.codec, "replace").replace(_TO_ASCII, "")
            if strict and "\x1b" in text:
                raise ValueError("the text has code extensions, which its character set does not allow")
            return _ESCAPE_SEQUENCES.sub("", text)
        if value.isascii() and _ESC not in value:
            return self.g0.decode(value)
        g0, g1, latest = self.g0, self.g1, self.g1
        ends = _ENDS.get(vr, _LINES).encode()
        out: list[str] = []
        for run in _RUNS.findall(value):
            if run[0] == _ESC:
                designated = ESCAPES.get(run)
                if designated is None:
                    out.append("\ufffd" + run[1:].decode("latin_1"))
                elif designated.place == "G0":
                    g0 = designated
                else:
                    g1 = latest = designated
            elif run[0] >= 0x80:
                # After a delimiter the set should be named again; not every sender does.
                of_high = g1 or latest or (None if strict else LATIN_1)
                out.append("\ufffd" if of_high is None else of_high.decode(run))
            else:
                texts, ended = self._low(run, g0, ends)
                out += texts
                if ended:
                    g0, g1 = self.g0, self.g1
        return "".join(out)

    def _low(self, run: bytes, g0: CodedSet, ends: bytes) -> tuple[list[str], bool]:
        """Decode bytes below 0x80; return whether something among them ended the code extension."""
        if g0.width == 1:
            first = next((at for at, byte in enumerate(run) if byte in ends), None)
            if first is None:
                return [g0.decode(run)], False
            return [g0.decode(run[:first]), self.g0.decode(run[first:])], True
        texts: list[str] = []
        for match in _PAIRS.finditer(run):
            piece = match[0]
            if piece[0] in _LINES.encode():
                texts.append(self.g0.decode(run[match.start() :]))
                return texts, True
            is_control = piece[0] <= 0x20 or piece[0] == 0x7F
            texts.append(piece.decode("ascii") if is_control else g0.decode(piece) if len(piece) > 1 else "\ufffd")
        return texts, False

    def _encoded(self, text: str) -> bytes:
        """Encode what has no delimiter in it; it ends as it began, with the first set."""
        if text.isascii() and self.g0 is ASCII and "\x1b" not in text:
            return text.encode()
        out = bytearray()
        active: dict[str, CodedSet | None] = {"G0": self.g0, "G1": self.g1}
        for character in text:
            coded, value = self._found(character, active)
            if active[coded.place] is not coded:
                active[coded.place] = coded
                out += coded.escape
            out += value
        if active["G0"] is not self.g0:
            out += self.g0.escape
        return bytes(out)

    def _found(self, character: str, active: dict[str, CodedSet | None]) -> tuple[CodedSet, bytes]:
        for coded in self._candidates(active):
            value = coded.encode(character)
            if value is not None:
                return coded, value
        if ord(character) < 0x20 and character != "\x1b":
            return self.g0, character.encode()
        raise ValueError("the character set lacks a character")

    def _candidates(self, active: dict[str, CodedSet | None]) -> Iterator[CodedSet]:
        yield from (one for one in active.values() if one is not None)
        if self.extensible:
            yield from self.sets


def character_set_of(value: bytes | None) -> CharacterSet:
    """Return the character set that the value of (0008,0005) names; without one, the default repertoire."""
    return _named((value or b"")[:1024].decode("ascii", "replace"))


def character_set_in(dataset: Dataset, inherited: CharacterSet) -> CharacterSet:
    """Return the character set of a data set, or of an item: its own, or that of what it is in (PS3.5 §7.5.3)."""
    if SPECIFIC_CHARACTER_SET not in dataset:
        return inherited
    value = dataset.get_item(SPECIFIC_CHARACTER_SET).value
    if isinstance(value, bytes):
        return character_set_of(value)
    return named((value,) if isinstance(value, str) else tuple(map(str, value or ())))


def named(terms: tuple[str, ...]) -> CharacterSet:
    """Return the character set of these defined terms."""
    return _named("\\".join(terms))


@lru_cache(256)
def _named(text: str) -> CharacterSet:
    terms = tuple(" ".join(term.strip(PADDING).upper().split()) for term in text.split("\\"))
    codec = _codec(terms[0])
    if codec is not None:
        return CharacterSet((terms[0],), codec, ASCII, None, (), extensible=False)
    meant = _meant(terms[0])
    if meant is not None:
        return CharacterSet((terms[0],), meant, ASCII, None, (), extensible=False, standard=False)
    numbers = [number for term in terms if (number := _number(term)) is not None]
    sets = tuple(dict.fromkeys(one for number in numbers for one in SETS[number])) or (ASCII,)
    first = SETS[numbers[0]] if numbers and _number(terms[0]) is not None else (ASCII,)
    g0 = next((one for one in first if one.place == "G0" and one.width == 1), ASCII)
    g1 = next((one for one in first if one.place == "G1"), None)
    extensible = len(terms) > 1 or "2022" in terms[0]
    standard = all(_number(term) is not None or _letters(term) in _DEFAULT_TERMS for term in terms)
    return CharacterSet(terms, None, g0, g1, tuple(dict.fromkeys((g0, *sets))), extensible, standard)


def _codec(term: str) -> str | None:
    """Return the codec of a term that allows no code extensions."""
    found = _TERM.fullmatch(term)
    return _WHOLE.get("ISO_IR 192" if found and found[2] == "192" else term)


def _meant(term: str) -> str | None:
    """Return the codec that a program calls so; None when the standard has the term, or nobody knows it."""
    letters = _letters(term)
    numbered = _NUMBERED.fullmatch(letters)
    if numbered is None:
        return _ALIASES.get(letters)
    its_kind = "iso8859_" if numbered[1] == "ISO8859" else "cp"
    return f"{its_kind}{numbered[2]}" if (its_kind == "cp") == (len(numbered[2]) == 4) else None


def _letters(term: str) -> str:
    return "".join(filter(str.isalnum, term))


def _number(term: str) -> str | None:
    """Return which of the sets a term names, however it is written."""
    found = _TERM.fullmatch(term)
    return found[2].lstrip("0") if found and found[2].lstrip("0") in SETS else None
