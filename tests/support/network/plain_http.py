"""GET over plain HTTP."""

from typing import Any

import httpx

from bucky.runtime.tls import trust
from tests.support.waiting import PATIENCE


def get(url: str, **options: Any) -> httpx.Response:
    """Ask, and wait as long as a busy machine may take."""
    return httpx.get(url, timeout=PATIENCE, trust_env=False, verify=trust(url), **options)
