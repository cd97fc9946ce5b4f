"""Mistakes in a routing file, as who wrote it is told of them."""

import pytest

from bucky.routing.document import InvalidRouting, Routing

GOOD = """\
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: pacs.example.org, port: 104}
  - name: archive
    type: folder
    folder: /mnt/archive
rules:
  - name: ct
    when:
      all:
        - {attribute: Modality, equals: CT}
        - {not: {association: calling_aet, equals: CT1}}
    destinations: [pacs]
  - name: all
    destinations: [archive]
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("port: 104", "port: x", "line 2: destination 'pacs', port: it should be a valid integer"),
        (", port: 104", "", "line 2: destination 'pacs', port: it is missing"),
        ("/mnt/archive", "archive", "line 5: destination 'archive', folder: folder is an absolute path"),
        ("folder: /mnt", "fodler: /mnt", "destination 'archive', f"),
        ("type: folder", "type: ftp", "line 3: destination 'archive': 'ftp' is no type; there are: 'dimse', 'folder'"),
        ("    type: folder\n", "", "line 3: destination 'archive': its type is missing"),
        ("name: archive\n", "name: Archive No. 1\n", "line 3: destination no. 2, name: a name has up to 40 lower-case"),
        ("equals: CT}", "equals: CT, starts: C}", "line 10: rule 'ct', when.all no. 1.starts: there is no such field"),
        ("Modality", "Modalty", "line 10: rule 'ct', when.all no. 1"),
        ("calling_aet", "caller", "rule 'ct', when.all no. 2.not.association: it should be"),
        ("{attribute: Modality, equals: CT}", "[Modality]", "line 10: rule 'ct', when.all no. 1: it should be"),
        ("[pacs]", "[pax]", "line 7: rule 'ct' names the destination 'pax', which does not exist"),
        ("name: all", "name: ct", "line 13: the rule 'ct' is there twice"),
        ("rules:", "ruels:", "line 6: ruels: there is no such field"),
    ],
)
def test_a_mistake_is_said_with_its_line_its_owner_and_in_plain_words(old: str, new: str, said: str) -> None:
    """`destinations.1.folder.folder: Value error` sends its reader counting; a line and a name do not."""
    assert old in GOOD
    with pytest.raises(InvalidRouting) as error:
        Routing.from_yaml(GOOD.replace(old, new))
    assert said in str(error.value)
    assert "Value error" not in str(error.value)


def test_what_is_right_is_taken() -> None:
    """The file that the mistakes are made in has none."""
    assert len(Routing.from_yaml(GOOD).rules) == 2
