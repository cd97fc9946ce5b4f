"""The command line in a process of its own, as an operator runs it."""

import os
import subprocess
import sys

from bucky.settings import Settings


def environment(settings: Settings, index_url: str) -> dict[str, str]:
    """Return the variables that reach a test's servers."""
    return {
        "BUCKY_STORE_ENDPOINT": settings.store_endpoint,
        "BUCKY_STORE_BUCKET": settings.store_bucket,
        "BUCKY_STORE_ACCESS_KEY": settings.store_access_key.get_secret_value(),
        "BUCKY_STORE_SECRET_KEY": settings.store_secret_key.get_secret_value(),
        "BUCKY_INDEX_URL": index_url,
    }


def bucky(environ: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "bucky.cli", *arguments],
        env={**{name: value for name, value in os.environ.items() if not name.startswith("BUCKY_")}, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
