"""How the garbage collector works in a service."""

import gc
from collections.abc import Iterator

import pytest

from bucky.runtime.garbage import freeze_loaded


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_loaded_is_left_alone_and_new_cycles_are_still_found() -> None:
    """Protects latency from collections among what stays for ever, and memory from cycles that do not."""
    freeze_loaded()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] > 700
    collections = gc.get_stats()[0]["collections"]
    for _ in range(100_000):
        cycle: list[object] = []
        cycle.append(cycle)
    assert gc.get_stats()[0]["collections"] > collections
    assert gc.get_count()[0] < gc.get_threshold()[0] + 1000
