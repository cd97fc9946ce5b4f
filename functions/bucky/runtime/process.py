"""The beginning and end of every long-running process."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from bucky import log
from bucky.errors import BuckyError
from bucky.settings import Settings


def run_process(name: str, serve: Callable[[Settings], Coroutine[Any, Any, int | None]]) -> NoReturn:
    """Read the settings, serve, exit with what `serve` returns; a sentence on stderr says why when that cannot be."""
    try:
        settings = Settings.load(os.environ)
        log.configure(settings.log_level)
        sys.exit(asyncio.run(serve(settings)))
    except BuckyError as error:
        sys.exit(f"{name}: {error}")
