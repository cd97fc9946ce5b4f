"""How commands find a stack, and what they say when there is none."""

import json
from pathlib import Path

import pytest

from bucky.cli.api_client import ApiFailed, find_access, known_listener
from bucky.settings import Settings


@pytest.mark.parametrize(
    ("record", "listener"),
    [
        ({"ports": {"dicom": 45123}}, "BUCKY@127.0.0.1:45123"),
        (
            {
                "ports": {"dicom": 1},
                "settings": {"edge_listeners": [{"aet": "EDGE", "host": "0.0.0.0", "port": 104}]},  # noqa: S104
            },
            "EDGE@127.0.0.1:104",
        ),
        ({"ports": {"dicom": 1}, "settings": {"edge_listeners": [{"host": "::1", "port": 104}]}}, "BUCKY@[::1]:104"),
        (None, None),
    ],
)
def test_files_are_sent_to_the_stack_that_runs_here(tmp_path: Path, record: object, listener: str | None) -> None:
    """A stack on free ports is not at 11112; who sends without an address means the stack of this home."""
    if record is not None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "stack.json").write_text(json.dumps(record))
    assert known_listener(tmp_path) == listener


def test_outside_a_clone_a_command_says_how_to_find_the_stack(tmp_path: Path) -> None:
    """A sentence of keys alone sends people looking for keys: what is missing is the folder."""
    with pytest.raises(ApiFailed, match=f"{tmp_path}.*--home.*BUCKY_HOME"):
        find_access(Settings(home=tmp_path), None, None, None)
