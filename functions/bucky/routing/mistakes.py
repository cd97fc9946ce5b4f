"""What is wrong with a routing that somebody wrote, as a sentence: which line, which destination or rule, and what.

Pure. What pydantic says of a mistake has positions (`rules.3.when.all.0.attribute`) and its own words ("Value error").
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bucky.text.names import NAME_PATTERN

Place = tuple[str | int, ...]

_KINDS = {
    "destinations": "destination",
    "rules": "rule",
    "conflicts": "conflict rule",
    "crosswalks": "crosswalk",
}
_NAMES_IT = re.compile(r"\b(destination|conflict rule|rule|crosswalk) '([^']+)'")
_PATTERNS = {
    NAME_PATTERN: "a name has up to 40 lower-case letters, digits and hyphens, and begins with a letter or digit",
}


def in_a_sentence(error: Mapping[str, Any], document: Any, line_of: Callable[[Place], int | None] | None = None) -> str:
    """Return one of pydantic's errors about a document as a sentence; `line_of` finds the line of a place in it."""
    location = tuple(error["loc"])
    said = _said(error)
    place, missing = _place(location, document)
    missing = missing if error["type"] == "missing" else ""
    owner = ", ".join(part for part in (_owner(place, document), _field(place, missing)) if part)
    place = place or _named_in(said, document)
    line = line_of(place) if line_of is not None and place else None
    where = f"line {line}: " if line is not None else ""
    return f"{where}{owner}: {said}" if owner else f"{where}{said}"


def _place(location: Place, document: Any) -> tuple[Place, str]:
    """Return the keys and numbers that lead to a value, and the last key where it is not there.

    A location has names of kinds in between and at its end, such as `dimse` and `str`, which are no places. One that is
    a key too, such as `attribute` of a condition, is followed by a key that stands beside it.
    """
    node, place = document, list[str | int]()
    for at, part in enumerate(location):
        following = location[at + 1] if at + 1 < len(location) else None
        is_kind = following is not None and _holds(node, following) and not _may_hold(_held(node, part), following)
        if _holds(node, part) and not is_kind:
            node = node[part]
            place.append(part)
        elif following is None:
            return tuple(place), str(part)
    return tuple(place), ""


def _holds(node: Any, part: str | int) -> bool:
    if isinstance(node, Mapping):
        return part in node
    return isinstance(node, list) and isinstance(part, int) and part < len(node)


def _held(node: Any, part: str | int) -> Any:
    return node[part] if _holds(node, part) else None


def _may_hold(node: Any, part: str | int) -> bool:
    return isinstance(node, Mapping) if isinstance(part, str) else isinstance(node, list)


def _owner(place: Place, document: Any) -> str:
    """Return what the place is in, by its name where it has one that can be said."""
    if len(place) < 2 or place[0] not in _KINDS or not isinstance(place[1], int):
        return ""
    kind, one = _KINDS[place[0]], document[place[0]][place[1]]
    name = one.get("name") if isinstance(one, Mapping) else None
    if isinstance(name, str) and re.fullmatch(NAME_PATTERN, name):
        return f"{kind} '{name}'"
    return f"{kind} no. {place[1] + 1}"


def _field(place: Place, missing: str) -> str:
    """Return where in its owner a value is, such as `when.all no. 2.equals`."""
    parts = [*(place[2:] if len(place) > 1 and isinstance(place[1], int) else place), *([missing] if missing else [])]
    text = ""
    for part in parts:
        text += f" no. {part + 1}" if isinstance(part, int) else f".{part}" if text else part
    return text


def _named_in(said: str, document: Any) -> Place:
    """Return the place of what a sentence names, the last of that name: mistakes of the whole routing name it."""
    found = _NAMES_IT.search(said)
    if found is None or not isinstance(document, Mapping):
        return ()
    plural = next(plural for plural, kind in _KINDS.items() if kind == found[1])
    several = document.get(plural)
    if not isinstance(several, Sequence):
        return ()
    numbers = [at for at, one in enumerate(several) if isinstance(one, Mapping) and one.get("name") == found[2]]
    return (plural, numbers[-1]) if numbers else ()


def _said(error: Mapping[str, Any]) -> str:
    context = error.get("ctx") or {}
    match error["type"]:
        case "missing":
            return "it is missing"
        case "extra_forbidden":
            return "there is no such field; `bucky routing schema` lists those there are"
        case "union_tag_invalid":
            return f"{context['tag']!r} is no {_unquoted(context)}; there are: {context['expected_tags']}"
        case "union_tag_not_found":
            return f"its {_unquoted(context)} is missing"
        case "string_pattern_mismatch" if context.get("pattern") in _PATTERNS:
            return _PATTERNS[context["pattern"]]
    text = str(error["msg"]).removeprefix("Value error, ")
    for began, begins in (("Input should be", "it should be"), ("String should", "it should"), ("Tuple", "it")):
        if text.startswith(began):
            return begins + text.removeprefix(began)
    return text


def _unquoted(context: Mapping[str, Any]) -> str:
    return str(context["discriminator"]).strip("'")
