"""The Python that `make` installs with: new enough, and one built with optimisations where there is one."""

import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[3] / "tools" / "find-python"
# Answers the three questions that the tool asks a Python.
_PYTHON = """#!/bin/sh
case "$2" in
    *version_info*) exit {fits} ;;
    *CONFIG_ARGS*) exit {optimised} ;;
    *) echo "$0" ;;
esac
"""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that alone is searched for the Pythons named there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _python(folder: Path, name: str, *, fits: bool = True, optimised: bool = True) -> str:
    path = folder / name
    path.write_text(_PYTHON.format(fits=int(not fits), optimised=int(not optimised)))
    path.chmod(0o755)
    return str(path)


def _chosen(*, also_installed: bool = False) -> str:
    tool = TOOL.read_text()
    if not also_installed:
        # The machine's own, wherever PATH leads.
        tool = tool.replace("/usr/bin/python3", "/nowhere/python3")
    return subprocess.run(("/bin/bash", "-c", tool), capture_output=True, text=True, check=True).stdout.strip()


def test_one_with_optimisations_goes_before_the_first(found: Path) -> None:
    """Protects every service from taking half as long again because another Python comes first in PATH."""
    _python(found, "python3", optimised=False)
    _python(found, "python3.13", fits=False)
    better = _python(found, "python3.12")
    assert _chosen() == better


def test_without_one_the_first_that_is_new_enough_is_taken(found: Path) -> None:
    """A Python without optimisations is slow; one that is too old would not work at all."""
    _python(found, "python3", fits=False)
    first = _python(found, "python3.12", optimised=False)
    _python(found, "python3.11", optimised=False)
    assert _chosen() == first


def test_where_there_is_none_the_installer_says_so(found: Path) -> None:
    """What is printed then is a name that uv looks for, and says that it does not find."""
    _python(found, "python3", fits=False)
    assert _chosen() == "python3"


def test_the_machine_has_one(found: Path) -> None:
    """The questions are ones that a real Python answers."""
    _python(found, "python3", fits=False)
    assert Path(_chosen(also_installed=True)).name.startswith("python3")
