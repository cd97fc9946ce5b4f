"""The edge's native part, which tests need where it could have been built: there its absence is a failure."""

import shutil
import subprocess
from typing import Any

import pytest

try:
    from edge_scp import _express

    native: Any = _express
except ImportError:
    native = None

OLDEST_CARGO = (1, 88)


def cargo_version() -> tuple[int, ...]:
    """Return the version of the cargo that is installed; nothing where there is none."""
    if shutil.which("cargo") is None:
        return ()
    said = subprocess.run(["cargo", "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(map(int, said.split()[1].split("-")[0].split(".")))


needs_native_part = pytest.mark.skipif(
    native is None and cargo_version() < OLDEST_CARGO,
    reason="the fast path was not built: cargo is not installed, or too old",
)
