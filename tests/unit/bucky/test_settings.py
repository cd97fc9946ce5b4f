"""Settings: read once, typed, and documented as they are."""

from pathlib import Path

import pytest

from bucky.cli.settings_page import markdown_table
from bucky.errors import SettingsError
from bucky.settings import Settings

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


def test_reference_is_in_step() -> None:
    """The documented table is the one the code makes."""
    assert REFERENCE.read_text().endswith(markdown_table())


def test_secret_comes_from_its_file_unless_a_variable_says_otherwise(tmp_path: Path) -> None:
    """Secrets are found where OpenFaaS and Kubernetes mount them."""
    (tmp_path / "store-secret-key").write_text("from-file\n")
    environ = {"BUCKY_SECRETS_DIR": str(tmp_path)}
    assert Settings.load(environ).store_secret_key.get_secret_value() == "from-file"
    environ["BUCKY_STORE_SECRET_KEY"] = "from-variable"
    assert Settings.load(environ).store_secret_key.get_secret_value() == "from-variable"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BUCKY_STORE_BUKCET", "x", "is not a setting"),
        ("BUCKY_SERVE_PORT", "99999", "BUCKY_SERVE_PORT"),
        ("BUCKY_EDGE_LISTENERS", "not json", "not valid JSON"),
        ("BUCKY_EDGE_LISTENERS", '[{"aet": "TOO LONG FOR AN AE TITLE"}]', "BUCKY_EDGE_LISTENERS"),
        ("BUCKY_STORE_BARRIER", "hope", "BUCKY_STORE_BARRIER"),
        ("BUCKY_EDGE_LISTENERS", '[{"port": 1, "port": 2}]', "the key 'port' stands there twice"),
    ],
)
def test_mistakes_name_the_variable(name: str, value: str, said: str) -> None:
    """A wrong setting stops the process with a sentence that names it."""
    with pytest.raises(SettingsError, match=said):
        Settings.load({name: value})


def test_none_can_be_said_of_what_may_be_none() -> None:
    """An empty variable takes a folder away; it is never the folder one happens to be in."""
    assert Settings.load({"BUCKY_LOCAL_CACHE_DIR": "", "BUCKY_STORE_BARRIER_PATH": ""}).local_cache_dir is None


def test_secrets_are_never_shown() -> None:
    """A secret's value is in no representation of the settings."""
    settings = Settings.load({"BUCKY_API_KEY": "hush-hush"})
    assert "hush-hush" not in repr(settings)
    assert "hush-hush" not in str(settings.model_dump(mode="json"))
