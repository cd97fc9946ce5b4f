"""What `bucky up` and `bucky demo` print of addresses and keys."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bucky.cli.stack_settings import noted_settings
from bucky.settings import Settings
from local_stack.commands import addresses
from local_stack.layout import Home, Ports
from local_stack.process import Program, start

KEYS = ("api_key", "store_access_key", "store_secret_key")


def home(folder: Path, **environ: str) -> Home:
    """Return a home in which a stack with these settings runs."""
    made, ports = Home(folder / "home"), Ports()
    made.create()
    own = {"BUCKY_SECRETS_DIR": str(made.secrets), "BUCKY_STORE_ENDPOINT": f"http://127.0.0.1:{ports.s3}"}
    noted: dict[str, Any] = noted_settings(Settings.load(own | environ))
    made.write_record({"ports": asdict(ports), "public_url": "https://localhost:8443", **noted})
    return made


def test_on_a_terminal_the_keys_are_shown(tmp_path: Path) -> None:
    """Who sits in front of it can get in at once."""
    here = home(tmp_path)
    said = "\n".join(addresses(here, keys=True))
    assert all(here.secret(key) in said for key in KEYS)


def test_elsewhere_the_files_are_named_that_hold_them(tmp_path: Path) -> None:
    """A log, or a pipe, must not hold what opens patients' data."""
    here = home(tmp_path)
    said = "\n".join(addresses(here, keys=False))
    assert not any(here.secret(key) in said for key in KEYS)
    assert str(here.secrets / "api-key") in said


@pytest.mark.parametrize("keys", [True, False])
def test_what_the_stack_was_given_is_not_called_the_homes(tmp_path: Path, keys: bool) -> None:
    """With another store or another key, the home's own keys open nothing: printing them would mislead."""
    given = {
        "BUCKY_STORE_ENDPOINT": "https://s3.example.org",
        "BUCKY_STORE_ACCESS_KEY": "theirs",
        "BUCKY_STORE_SECRET_KEY": "theirs-too",
        "BUCKY_API_KEY": "another",
    }
    here = home(tmp_path, **given)
    said = "\n".join(addresses(here, keys=keys))
    assert not any(here.secret(key) in said for key in KEYS)
    assert not any(value in said for value in ("theirs", "another"))
    assert "https://s3.example.org" in said
    assert "as set in BUCKY_API_KEY" in said


def test_logs_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Whatever a program prints, other users of the machine do not read it."""
    log = tmp_path / "logs" / "echo.log"
    start(Program(name="echo", argv=("true",), ready=lambda: True), log).wait()
    assert log.stat().st_mode & 0o077 == 0
