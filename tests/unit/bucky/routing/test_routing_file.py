"""What a routing file may not be."""

import pytest

from bucky.routing.document import MOST_RULES, InvalidRouting, Routing

PACS = "destinations: [{name: pacs, type: dimse, aet: PACS, host: h, port: 104}]\n"


@pytest.mark.parametrize("text", ["", "\n# version 3\n", "{}", "null", "---\n", "rules: []\n", "destinations: []\n"])
def test_a_file_that_leads_nowhere_is_no_routing(text: str) -> None:
    """`routing show > f` with the stack down leaves an empty file: applying it must not end all routing."""
    with pytest.raises(InvalidRouting, match="nothing to send to"):
        Routing.from_yaml(text)


def test_functions_are_somewhere_to_lead_to() -> None:
    """A routing that only processes has no destination and is not empty."""
    text = "rules: [{name: find, process: {function: lesions}}]"
    assert Routing.from_yaml(text).functions() == {"lesions"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PACS + "rules: []\nrules: []\n", "lines 2 and 3"),
        (
            PACS + "rules:\n  - {name: a, when: {attribute: Modality, equals: CT, equals: MR}, destinations: [pacs]}\n",
            "line 3",
        ),
        (PACS + "ruels: []\n", "ruels"),
        (PACS + "rules: [{name: a, wehn: {}, destinations: [pacs]}]\n", "wehn"),
        (PACS + "rules: [" + "{name: a, destinations: [pacs]}," * (MOST_RULES + 1) + "]\n", f"at most {MOST_RULES}"),
    ],
)
def test_a_file_that_can_be_misread_is_refused(text: str, said: str) -> None:
    """A key that is dropped, or not known, is a rule that is not there."""
    with pytest.raises(InvalidRouting) as error:
        Routing.from_yaml(text)
    assert said in str(error.value)
