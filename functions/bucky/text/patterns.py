"""Regular expressions by RE2, whose time is linear in the text: no pattern can hang a worker."""

import functools
from typing import Any

import re2

MAX_MEMORY_BYTES = 1 << 20


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """Return a compiled pattern, with bounded memory; raise `re2.error` when it is not valid RE2."""
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY_BYTES
    return re2.compile(pattern, options)


def found_in(pattern: str, text: str) -> bool:
    """Return whether a pattern is found in a text."""
    return compiled(pattern).search(_valid(text)) is not None


def replaced(pattern: str, replacement: str, text: str) -> str:
    """Return the text with each match replaced; `\\1` stands for the first group."""
    return str(compiled(pattern).sub(replacement, _valid(text)))


def _valid(text: str) -> str:
    """Return text without the lone surrogates that RE2 cannot take."""
    return text.encode("utf-8", "replace").decode()
