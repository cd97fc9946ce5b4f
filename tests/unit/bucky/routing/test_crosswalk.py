"""Crosswalks in files: whose names are file names, and which say each thing once."""

import json
from pathlib import Path

import pytest

from bucky.routing.crosswalk import Crosswalks, CrosswalkUnavailable, CsvCrosswalk
from bucky.routing.document import InvalidRouting, Routing

NO_FILE_NAMES = ["../ids.csv", "..", ".", "a/b.csv", "/etc/passwd", ".hidden", "", "a\0.csv", "a\n", "a b", "a" * 101]


@pytest.mark.parametrize("name", NO_FILE_NAMES)
@pytest.mark.parametrize(
    ("place", "crosswalk"),
    [
        ("crosswalks.0.csv.file", {"name": "ids", "type": "csv"}),
        ("crosswalks.0.sql.url_file", {"name": "ids", "type": "sql", "query": "select :value"}),
    ],
)
def test_a_crosswalk_outside_its_folder_is_refused_when_written(
    name: str, place: str, crosswalk: dict[str, str]
) -> None:
    """Who writes the routing reads no other file by it, and is told which field is wrong."""
    document = {"crosswalks": [{**crosswalk, place.rpartition(".")[2]: name}]}
    with pytest.raises(InvalidRouting, match=place.rpartition(".")[2]):
        Routing.from_yaml(json.dumps(document))


def test_the_longest_name_is_taken(tmp_path: Path) -> None:
    """A name that is allowed is one that can be read."""
    crosswalk = CsvCrosswalk(name="ids", type="csv", file="a" * 100)
    (tmp_path / crosswalk.file).write_text("key,value\n4711,A-1\n")
    assert Crosswalks(tmp_path).look_up(crosswalk, "4711") == "A-1"


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("key,value,value", "'value'"),
        ("key,key,value", "'key'"),
        ("key,value,note,note", "'note'"),
        ("key,wert", "no columns 'key' and 'value'"),
    ],
)
def test_a_heading_that_is_there_twice_or_not_at_all_stops_the_table(tmp_path: Path, heading: str, said: str) -> None:
    """Nobody knows which of two columns is meant: no value is taken from either until it is put right."""
    crosswalk = CsvCrosswalk(name="ids", type="csv", file="ids.csv")
    crosswalks = Crosswalks(tmp_path)
    rows = "4711,A-1,A-2,A-3\n"
    (tmp_path / "ids.csv").write_text(f"{heading}\n{rows}")
    for _ in range(2):
        with pytest.raises(CrosswalkUnavailable, match=said) as raised:
            crosswalks.look_up(crosswalk, "4711")
        assert "the instance waits, correct the heading line" in str(raised.value)
        assert "4711" not in str(raised.value)
    (tmp_path / "ids.csv").write_text(f"key,value,third,fourth\n{rows}")
    assert crosswalks.look_up(crosswalk, "4711") == "A-1"


def test_a_table_that_was_right_is_not_used_when_it_is_wrong_now(tmp_path: Path) -> None:
    """What was read before must not go on: the new table may say otherwise for the same patient."""
    crosswalk, crosswalks = CsvCrosswalk(name="ids", type="csv", file="ids.csv"), Crosswalks(tmp_path)
    (tmp_path / "ids.csv").write_text("key,value\n4711,A-1\n")
    assert crosswalks.look_up(crosswalk, "4711") == "A-1"
    (tmp_path / "ids.csv").write_text("key,value,value\n4711,B-1,B-2\n")
    with pytest.raises(CrosswalkUnavailable, match="'value'"):
        crosswalks.look_up(crosswalk, "4711")


def test_columns_without_a_heading_do_not_matter(tmp_path: Path) -> None:
    """Spreadsheets leave empty columns behind the last."""
    crosswalk = CsvCrosswalk(name="ids", type="csv", file="ids.csv")
    (tmp_path / "ids.csv").write_text("key,value,,\n4711,A-1,,\n")
    assert Crosswalks(tmp_path).look_up(crosswalk, "4711") == "A-1"
