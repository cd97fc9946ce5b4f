"""The settings of a running embedded stack, for commands that work on its store, broker and index directly."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucky.errors import SettingsError
from bucky.settings import PREFIX, Settings, in_home


def noted_settings(settings: Settings) -> dict[str, Any]:
    """Return what `bucky up` notes of its settings: no secret's value, but which ones it was given."""
    secrets = set(Settings.secret_fields())
    files = settings.secrets_dir
    values = settings.model_dump(mode="json", exclude=secrets, exclude_unset=True)
    given = [name for name in sorted(secrets & settings.model_fields_set) if not _is_file_s(settings, name, files)]
    return {"settings": values, "given_secrets": given}


def stack_settings(environ: Mapping[str, str], home: Path | None) -> Settings:
    """Return the settings of the stack that runs in a home, or else those of the environment.

    Variables win over what the stack noted. Raises `SettingsError` when a secret that was given to the stack
    is not given here too.
    """
    own = Settings.load(environ)
    home = home or own.home
    record = home / "run" / "stack.json"
    if not record.is_file():
        if not {"store_endpoint", "index_url"} <= own.model_fields_set:
            raise SettingsError(
                f"Bucky does not run in {home}: start it with `bucky up`, or set BUCKY_STORE_ENDPOINT, "
                "BUCKY_INDEX_URL and the other settings of the installation"
            )
        return own
    noted = json.loads(in_home(record.read_text(), json.dumps(str(home.resolve()))[1:-1]))
    for name in noted["given_secrets"]:
        if PREFIX + name.upper() not in environ:
            raise SettingsError(
                f"set {PREFIX}{name.upper()} as it was set for `bucky up`, or another one would be used"
            )
    variables = {PREFIX + name.upper(): _as_variable(value) for name, value in noted["settings"].items()}
    return Settings.load(variables | {name: value for name, value in environ.items() if name.startswith(PREFIX)})


def _as_variable(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_file_s(settings: Settings, name: str, folder: Path) -> bool:
    """Return whether a secret's value is the one in its file."""
    file = folder / name.replace("_", "-")
    return (
        file.is_file()
        and in_home(file.read_text().strip(), settings.home) == getattr(settings, name).get_secret_value()
    )
