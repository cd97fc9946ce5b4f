"""How commands reach the admin API: the options they share, and the client."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bucky.cli.api_client import ApiClient, find_access
from bucky.settings import Settings

Home = Annotated[Path | None, typer.Option("--home", help="Folder of the embedded stack.")]
Url = Annotated[str | None, typer.Option("--url", help="Address of Bucky, such as https://localhost:8443.")]
Key = Annotated[str | None, typer.Option("--api-key", help="API key; default: the embedded stack's.")]
Ca = Annotated[Path | None, typer.Option("--ca", help="CA file; default: the embedded stack's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def api(home: Path | None, url: str | None, api_key: str | None, ca: Path | None) -> ApiClient:
    """Return a client of the admin API; options win over settings, settings over the stack's own files."""
    settings = Settings.load(os.environ)
    if home is not None:
        settings = settings.model_copy(update={"home": home})
    return ApiClient(find_access(settings, url, api_key, ca))
