"""The variable items of A-ASSOCIATE PDUs, read for what both sides need of them (PS3.8 §9.3.2, PS3.7 Annex D).

An item that only informs, such as the Implementation Version Name, never ends an association, whatever is in it: what
breaks the standard is said in words, without the value, for the log.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

APPLICATION_CONTEXT, PRESENTATION_CONTEXT, PRESENTATION_CONTEXT_RESULT, USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
ABSTRACT_SYNTAX, TRANSFER_SYNTAX = 0x30, 0x40
MAXIMUM_LENGTH, IMPLEMENTATION_CLASS_UID, ASYNCHRONOUS_OPERATIONS = 0x51, 0x52, 0x53
ROLE_SELECTION, IMPLEMENTATION_VERSION_NAME = 0x54, 0x55
CONTEXT_HEAD_BYTES = 4
"""A presentation context's id, result and reserved bytes (PS3.8 Tables 9-13 and 9-18)."""
FIXED_BYTES = 68
"""Protocol version, AE titles and reserved fields before the variable items (PS3.8 Tables 9-11 and 9-17)."""

_ITEM = struct.Struct(">BxH")
_LENGTH_BYTES = 4
_LONGEST_UID, _LONGEST_VERSION_NAME = 64, 16
_UID_CHARACTERS = frozenset(b"0123456789.")


class MalformedItem(ValueError):
    """An item ends before its length says, or is longer than what holds it."""


@dataclass(frozen=True, slots=True)
class UserInformation:
    """What a peer says of itself.

    `maximum_length` is in bytes, 0 for no limit, None where it cannot be read; `roles` are those proposed or accepted
    for SOP classes, as SCU and SCP; `oddities` are what breaks the standard.
    """

    maximum_length: int | None = 0
    roles: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    oddities: tuple[str, ...] = ()


def item(kind: int, content: bytes) -> bytes:
    """Encode an item."""
    return _ITEM.pack(kind, len(content)) + content


def items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each item's type and content; raise `MalformedItem` where one is cut short.

    User information that is cut short by the end of its PDU is yielded as far as it goes: it only informs.
    """
    at, end = 0, len(encoded)
    while at < end:
        if end - at < _ITEM.size:
            raise MalformedItem("an item is cut short")
        kind, length = _ITEM.unpack_from(encoded, at)
        at += _ITEM.size
        if length > end - at and kind != USER_INFORMATION:
            raise MalformedItem("an item is longer than what holds it")
        yield kind, encoded[at : at + length]
        at += length


def uid_of(content: bytes) -> str:
    """Return a UID without the padding that some put around it; it is not checked otherwise."""
    return content.decode("ascii", "replace").strip("\0 ")


def user_information(content: bytes) -> UserInformation:
    """Read a User Information item; never raises. Items of types not known here are passed over (PS3.8 §9.3.1)."""
    maximum_length: int | None = 0
    roles: dict[str, tuple[bool, bool]] = {}
    oddities: list[str] = []
    try:
        for kind, value in items(content):
            if kind == MAXIMUM_LENGTH:
                whole = len(value) == _LENGTH_BYTES
                maximum_length = int.from_bytes(value, "big") if whole else None
            elif kind == ROLE_SELECTION:
                role = _role(value)
                if role is not None:
                    roles[role[0]] = role[1:]
            oddity = _oddity(kind, value)
            if oddity:
                oddities.append(oddity)
    except MalformedItem as error:
        oddities.append(f"in the user information, {error}")
    return UserInformation(maximum_length, roles, tuple(dict.fromkeys(oddities)))


def _role(value: bytes) -> tuple[str, bool, bool] | None:
    """Return a SOP class and the roles proposed for it (PS3.7 Table D.3-9), or None where it holds none."""
    length = int.from_bytes(value[:2], "big")
    if length == 0 or len(value) != length + 4:
        return None
    scu, scp = value[-2:]
    return (uid_of(value[2:-2]), scu == 1, scp == 1) if scu | scp else None


def _oddity(kind: int, value: bytes) -> str:
    """Say how an item of user information breaks the standard; empty where it does not."""
    if kind == MAXIMUM_LENGTH and len(value) != _LENGTH_BYTES:
        return "Maximum Length Received is not 4 bytes long"
    if kind == IMPLEMENTATION_CLASS_UID and not (0 < len(value) <= _LONGEST_UID and set(value) <= _UID_CHARACTERS):
        return "Implementation Class UID is no UID"
    if kind == IMPLEMENTATION_VERSION_NAME and not (0 < len(value) <= _LONGEST_VERSION_NAME and value.isascii()):
        return "Implementation Version Name is not 1 to 16 ASCII characters"
    if kind == ROLE_SELECTION and _role(value) is None:
        return "an SCP/SCU Role Selection is malformed"
    if kind == ASYNCHRONOUS_OPERATIONS and len(value) != _LENGTH_BYTES:
        return "Asynchronous Operations Window is not 4 bytes long"
    return ""
