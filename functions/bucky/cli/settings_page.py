"""The reference table of all settings."""

import json

from pydantic import SecretStr

from bucky.settings import PREFIX, Settings, secret_file_name


def markdown_table() -> str:
    """Return the reference table of all settings."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = Settings.model_validate({}).model_dump(mode="json")[name]
        if field.annotation is SecretStr:
            shown = f"secret, or file `{secret_file_name(name)}`"
        elif default in ("", None, []):
            shown = "—"
        else:
            shown = f"`{default if isinstance(default, str) else json.dumps(default)}`"
        description = (field.description or "").replace("|", r"\|")
        rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {description} |")
    return "\n".join(rows) + "\n"
