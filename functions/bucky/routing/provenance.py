"""The functions that an instance came out of, as the index and the object itself keep them.

The object keeps them in its file meta information, outside the data set whose digest is its name: an index
rebuilt from the bucket still knows what must not go through the same rule again.
"""

from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError

from bucky.events import Processing

MOST = 8
"""An instance that came out of this number of functions is given to no other: the object must hold them all."""

_CHAINS = TypeAdapter(tuple[Processing, ...])


def written(chain: tuple[Processing, ...]) -> str:
    """Return a chain as JSON in ASCII, or nothing when there is none."""
    return _CHAINS.dump_json(chain).decode("ascii") if chain else ""


def read_processed(text: str) -> tuple[Processing, ...]:
    """Return the chain that `written` wrote; what cannot be read is none."""
    try:
        return _CHAINS.validate_json(text) if text else ()
    except ValidationError:
        return ()


def together(chains: Iterable[tuple[Processing, ...]]) -> tuple[Processing, ...]:
    """Return the functions that any of these came out of, each once for each decision."""
    return tuple(dict.fromkeys(one for chain in chains for one in chain))


def in_words(chain: tuple[Processing, ...]) -> str:
    """Return a chain as a text such as `deidentify → count-lesions`."""
    return " → ".join(one.function for one in chain)
