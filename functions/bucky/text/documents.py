"""YAML and JSON that people write: read whole and within bounds, or refused with the line.

YAML's own rule (1.2, §3.2.1.1) and common sense for JSON (RFC 8259, §4) is that a key stands once in a mapping.
Most parsers keep the last of several and drop the others silently: half a routing would be gone.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import yaml

from bucky.errors import Permanent

MOST_BYTES = 2 * 1024 * 1024
MOST_DEPTH = 64
MOST_VALUES = 200_000
"""Values in a document, those that an alias repeats counted each time."""
_MERGE = "tag:yaml.org,2002:merge"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:\n]', re.DOTALL)
_ESCAPED_NUL = r"\u0000"
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class InvalidDocument(Permanent):
    """The text cannot be read, or not in one way only; the message says why and in which line."""


class _Loader(_Base):  # type: ignore[misc]  # which of the two it is, mypy cannot know
    """The safe loader, which is many times as fast where PyYAML was built with libyaml.

    Without quotes, a number is what looks the same when it is written again, a boolean is `true` or `false`, and
    everything else is text. YAML 1.1, as PyYAML has it, makes 83 of the patient 0123, 750 of 12:30 and true of YES.
    """

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {
        first: [(tag, form) for tag, form in known if tag in {"tag:yaml.org,2002:null", _MERGE}]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Build a value; one that is not what its tag says, such as `!!int x`, is an error with a place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


for _tag, _form, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"-?(?:0|[1-9][0-9]{0,17})", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]{0,8})\.(?:0|[0-9]{0,3}[1-9])", "-0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_form})$"), list(_first))


def read_yaml(text: str) -> Any:
    """Return what one YAML document says, None when it is empty; raise `InvalidDocument`."""
    _bounded(len(text.encode("utf-8", "surrogatepass")))
    try:
        _check_depth(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(loader, node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise InvalidDocument(f"{where}not valid YAML: {said}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise InvalidDocument(f"not valid YAML: {str(error).splitlines()[0]}") from None


def line_of(text: str, place: Sequence[str | int]) -> int | None:
    """Return the line in which a value begins, by the keys and numbers that lead to it, in a valid YAML document.

    As far as they lead: what a merge brought in stands where the merge does.
    """
    node = yaml.compose(text, Loader=_Loader)
    line = None
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def read_json(text: str | bytes) -> Any:
    """Return what a JSON document says; raise `InvalidDocument`."""
    _bounded(len(text))
    twice: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice.append("")
        return made

    try:
        content = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(content, object_pairs_hook=mapping, parse_constant=_no_number)
        content.encode()
        if r"\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InvalidDocument(f"line {error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise InvalidDocument("not valid JSON: it is nested too deep") from None
    except UnicodeError:
        raise InvalidDocument("not valid JSON: it is not UTF-8, or has half a character in it") from None
    except ValueError as error:
        raise InvalidDocument(f"not valid JSON: {error}") from None
    if twice:
        raise InvalidDocument(next(_keys_there_twice(content)))
    for token in _TOKEN.finditer(content) if _ESCAPED_NUL in content else ():
        if _ESCAPED_NUL in token[0] and "\0" in json.loads(token[0]):
            line = content.count("\n", 0, token.start()) + 1
            raise InvalidDocument(f"line {line}: a text has a NUL character (U+0000) in it: remove it")
    return value


def _bounded(size: int) -> None:
    if size > MOST_BYTES:
        raise InvalidDocument(f"it is larger than {MOST_BYTES // 1024**2} MiB, which nobody writes by hand")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _check_depth(text: str) -> None:
    """Refuse what is nested too deep, or has too many values, to be built."""
    depth = 0
    for values, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH or values > 2 * MOST_VALUES:
            what = f"nested more than {MOST_DEPTH} deep" if depth > MOST_DEPTH else f"of more than {MOST_VALUES} values"
            raise InvalidDocument(f"line {event.start_mark.line + 1 if event.start_mark else 1}: it is {what}")


def _check_nodes(loader: Any, root: Any) -> None:
    """Refuse keys that stand twice in a mapping, and aliases that contain themselves or multiply."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise InvalidDocument(f"line {node.start_mark.line + 1}: an alias stands inside what it repeats")
        if known is not None:
            return known
        sizes[id(node)] = 0
        if isinstance(node, yaml.MappingNode):
            _check_keys(loader, node)
        total = 1 + sum(size(part) for part in _parts(node))
        if total > MOST_VALUES:
            raise InvalidDocument(
                f"line {node.start_mark.line + 1}: with its aliases written out it has more than {MOST_VALUES} values"
            )
        sizes[id(node)] = total
        return total

    size(root)


def _parts(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_keys(loader: Any, mapping: Any) -> None:
    lines: dict[Any, int] = {}
    for key, _value in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InvalidDocument(f"line {key.start_mark.line + 1}: a key is a list or a mapping; write a word")
        said = "<<" if key.tag == _MERGE else loader.construct_object(key)
        line = key.start_mark.line + 1
        if said in lines:
            raise InvalidDocument(_twice(key.value, lines[said], line))
        lines[said] = line


def _keys_there_twice(text: str) -> Iterator[str]:
    """Yield a sentence for each key that stands twice in an object of a valid JSON text."""
    line, previous = 1, ""
    containers: list[dict[str, int] | None] = []
    for sign in _TOKEN.findall(text):
        match sign:
            case "\n":
                line += 1
                continue
            case "{" | "[":
                containers.append({} if sign == "{" else None)
            case "}" | "]":
                containers.pop()
            case ":" if (keys := containers[-1]) is not None:
                key = json.loads(previous)
                if key in keys:
                    yield _twice(key, keys[key], line)
                keys[key] = line
        previous = sign


def _twice(key: str, first: int, second: int) -> str:
    where = f"line {second}" if first == second else f"lines {first} and {second}"
    return f"{where}: the key {key!r} stands there twice, and only one of them would count: remove one"
