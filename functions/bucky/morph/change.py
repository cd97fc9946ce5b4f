"""Carrying out a rule's changes on a header, and telling what they changed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from bucky.dicom.character_sets import SPECIFIC_CHARACTER_SET, character_set_in, character_set_of
from bucky.dicom.element_vr import settled_vr
from bucky.dicom.json_model import UNDECODABLE, quietly
from bucky.morph.values import Scope, Unchangeable, element_of, make_encodable, shown, texts_of
from bucky.routing.attributes import Step, attribute_path
from bucky.routing.changes import (
    Action,
    CopyAction,
    CrosswalkAction,
    DeleteAction,
    MoveAction,
    PrependAction,
    RegexReplaceAction,
    SetAction,
    SuffixAction,
)
from bucky.routing.crosswalk import LookUp
from bucky.text.patterns import replaced

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What one action did to one attribute; None is an attribute that is not there. May hold patient values."""

    action: str
    attribute: str
    before: Texts | None
    after: Texts | None


class _Spot(NamedTuple):
    """A place in words, the data set that is there, and the scope of its text."""

    place: str
    holder: Dataset
    scope: Scope


class Changing:
    """One header while it is changed; `changes` and the top-level `tags` they touched add up."""

    def __init__(self, dataset: Dataset, look_up: LookUp) -> None:
        self.dataset = dataset
        self.changes: list[AttributeChange] = []
        self.tags: set[BaseTag] = set()
        self._look_up = look_up
        self._scope = Scope(dataset, character_set_in(dataset, character_set_of(None)))

    def carry_out(self, actions: Sequence[Action]) -> None:
        """Carry out the actions in order; raise `Unchangeable`, or what a crosswalk raises."""
        with quietly():
            for action in actions:
                self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, SetAction):
            values = action.value if isinstance(action.value, tuple) else (action.value,)
            self._write("set", action.set, tuple(map(str, values)))
        elif isinstance(action, DeleteAction):
            self._delete("delete", action.delete)
        elif isinstance(action, PrependAction):
            self._edit("prepend", action.prepend, lambda text: action.value + text)
        elif isinstance(action, SuffixAction):
            self._edit("suffix", action.suffix, lambda text: text + action.value)
        elif isinstance(action, RegexReplaceAction):
            self._edit("regex_replace", action.regex_replace, lambda text: replaced(action.regex, action.with_, text))
        elif isinstance(action, CopyAction):
            self._write("copy", action.to, self._values(action.copy_))
        elif isinstance(action, MoveAction):
            self._move(action)
        else:
            self._crosswalk(action)

    def _move(self, action: MoveAction) -> None:
        values = self._values(action.move)
        if values and attribute_path(action.move) != attribute_path(action.to):
            self._write("move", action.to, values)
            self._delete("move", action.move)

    def _crosswalk(self, action: CrosswalkAction) -> None:
        values = self._values(action.crosswalk)
        found = [self._look_up(action.table, value) for value in values]
        if values and None not in found:
            self._write("crosswalk", action.target, cast(Texts, tuple(found)))
        elif action.otherwise == "delete":
            self._delete("crosswalk", action.target)
        elif action.otherwise == "refuse":
            why = f"the crosswalk {action.table!r} has no entry for it" if values else "it is empty"
            raise Unchangeable(action.crosswalk, why)

    def _values(self, attribute: str) -> Texts:
        """Return the values wherever the path leads."""
        path = attribute_path(attribute)
        tag = _tag(path[-1])
        found = [
            texts_of(holder, tag, attribute, scope.character_set)
            for _, holder, scope in self._holders(path, attribute)
            if tag in holder
        ]
        return tuple(text for texts in found for text in texts)

    def _edit(self, action: str, attribute: str, edit: Callable[[str], str]) -> None:
        """Change each value that is not empty."""
        path = attribute_path(attribute)
        for spot in self._holders(path, attribute):
            if _tag(path[-1]) in spot.holder:
                texts = texts_of(spot.holder, _tag(path[-1]), attribute, spot.scope.character_set)
                self._put(action, spot, path, tuple(edit(text) if text else text for text in texts))

    def _write(self, action: str, attribute: str, texts: Texts) -> None:
        """Give an attribute these values wherever the path leads; no values leave it as it is."""
        path = attribute_path(attribute)
        for spot in self._holders(path, attribute) if texts else ():
            self._put(action, spot, path, texts)

    def _put(self, action: str, spot: "_Spot", path: tuple[Step, ...], texts: Texts) -> None:
        tag, (place, holder, scope) = _tag(path[-1]), spot
        vr, before = dictionary_VR(tag), None
        if tag in holder:
            element = holder.get_item(tag)
            vr = settled_vr(holder, element) if isinstance(element, RawDataElement) else element.VR
            before = texts_of(holder, tag, place, scope.character_set, strict=False)
        if before == texts:
            return
        if make_encodable(scope, vr, texts, place) and scope.owner is self.dataset:
            self.tags.add(SPECIFIC_CHARACTER_SET)
        holder[tag] = element_of(tag, vr, texts, place, scope.character_set)
        self._note(action, place, path, before, texts)

    def _delete(self, action: str, attribute: str) -> None:
        path = attribute_path(attribute)
        tag = _tag(path[-1])
        for place, holder, scope in self._holders(path, attribute):
            if tag in holder:
                before = shown(holder, tag, scope.character_set)
                del holder[tag]
                self._note(action, place, path, before, None)

    def _note(self, action: str, place: str, path: tuple[Step, ...], before: Texts | None, after: Texts | None) -> None:
        self.changes.append(AttributeChange(action, place, before, after))
        self.tags.add(_tag(path[0]))

    def _holders(self, path: tuple[Step, ...], attribute: str) -> Iterator["_Spot"]:
        """Yield every data set that the last step is to be looked for in."""
        try:
            # All at once: what cannot be decoded stops the action before it has changed anything.
            yield from list(_holders(_Spot("", self.dataset, self._scope), path, attribute.split(".")))
        except UNDECODABLE:
            raise Unchangeable(attribute, "a value on the way to it cannot be decoded") from None


def _holders(spot: _Spot, path: tuple[Step, ...], names: list[str]) -> Iterator[_Spot]:
    place, dataset, scope = spot
    if len(path) == 1:
        yield _Spot(place + names[0], dataset, scope)
        return
    for number, item in enumerate(_items(dataset, _tag(path[0]))):
        if path[0].item in {None, number}:
            here = f"{place}{names[0].partition('[')[0]}[{number}]."
            yield from _holders(_Spot(here, item, scope.of(item)), path[1:], names[1:])


def _items(dataset: Dataset, tag: BaseTag) -> Sequence[Dataset]:
    """Return the items of a sequence, none when it is not there or is none."""
    element = dataset.get_item(tag) if tag in dataset else None
    if isinstance(element, RawDataElement):
        if settled_vr(dataset, element) != "SQ":
            return ()
        if element.VR != "SQ":  # in implicit VR, or sent as UN
            dataset[tag] = element._replace(VR="SQ", is_implicit_VR=True)
        element = dataset[tag]
    if not isinstance(element, DataElement) or element.VR != "SQ":
        return ()
    return cast(Sequence[Dataset], element.value or ())


def _tag(step: Step) -> BaseTag:
    return BaseTag(int(step.tag, 16))
