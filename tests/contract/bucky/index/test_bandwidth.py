"""The shared bandwidth of a destination, the same on SQLite and PostgreSQL."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bucky.index import Index, bandwidth

pytestmark = pytest.mark.index


def test_each_taker_waits_for_what_was_given_out_before(index: Index) -> None:
    """Protects the cap: what is taken goes one piece behind the other, and idle time is not saved up."""
    take = index._db.write
    now = time.time()
    assert take(bandwidth.take, "pacs", 500, 1000, now) == 0
    assert take(bandwidth.take, "pacs", 500, 1000, now) == pytest.approx(0.5, abs=1e-3)
    assert take(bandwidth.take, "pacs", 500, 1000, now + 0.25) == pytest.approx(0.75, abs=1e-3)
    assert take(bandwidth.take, "archive", 500, 1000, now) == 0
    assert take(bandwidth.take, "pacs", 500, 1000, now + 60) == 0
    assert take(bandwidth.take, "pacs", 500, 1000, now + 60) == pytest.approx(0.5, abs=1e-3)


def test_a_clock_that_was_wrong_does_not_close_a_destination_for_hours(index: Index) -> None:
    """Protects deliveries from a sender whose clock was a day ahead."""
    now = time.time()
    index._db.write(bandwidth.take, "pacs", 500, 1000, now + 86_400)
    assert index._db.write(bandwidth.take, "pacs", 500, 1000, now) == 0


@pytest.mark.usefixtures("index")
def test_many_takers_at_once_get_the_bandwidth_once(index_url: str) -> None:
    """Protects the cap across replicas: forty pieces taken by four of them last as long as forty pieces."""
    replicas = [Index.open(index_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:

        def take_ten(replica: Index) -> list[float]:
            return [replica.take_bandwidth("pacs", 1000, 1000) for _ in range(10)]

        began = time.time()
        waits = sorted(wait for taken in pool.map(take_ten, replicas) for wait in taken)
        took = time.time() - began
    for replica in replicas:
        replica.close()
    assert len(waits) == 40
    assert 39 - took - 0.1 <= waits[-1] <= 39.1
