"""When a study counts as complete: decided by its quiet, and by what is known to have been indexed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bucky.index.rows import Arrival
from bucky.routing.document import Routing
from keeper.completeness import Seen, judge, quiet_times, still_waited_for

LAST = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOLD = 600.0


def arrival(**changes: Any) -> Arrival:
    """Return a study of ten instances, the last of which came at noon."""
    values: dict[str, Any] = {
        "study_instance_uid": "1.2",
        "series_instance_uid": "",
        "last_instance_at": LAST,
        "expected_count": None,
        "instance_count": 10,
        "revision": 0,
        "quiet_seconds": 0.0,
    }
    return Arrival(**(values | changes))


def seen(after: float, indexed: float | None = None, in_the_way: str = "") -> Seen:
    """Return what is known so many seconds after the last instance; everything is indexed unless said otherwise."""
    at = LAST + timedelta(seconds=after)
    return Seen(at, LAST + timedelta(seconds=after if indexed is None else indexed), in_the_way)


@pytest.mark.parametrize(("after", "stable"), [(59.9, False), (60.0, True), (100.0, True)])
def test_quiet_for_long_enough_is_stable(after: float, stable: bool) -> None:
    """It is stable from the quiet time on, and says how long that was."""
    verdict = judge(arrival(), 60, seen(after), HOLD)
    assert verdict.stable is stable
    assert ("quiet for 60 s" in verdict.reason) is stable


def test_what_only_looks_quiet_is_held() -> None:
    """While instances may wait in the spool or the stream, silence proves nothing, until the hold time is over."""
    waiting = judge(arrival(), 60, seen(300, indexed=10, in_the_way="instances wait to be indexed"), HOLD)
    assert not waiting.stable
    assert waiting.reason == "instances wait to be indexed"
    held = judge(arrival(), 60, seen(660, indexed=10, in_the_way="instances wait to be indexed"), HOLD)
    assert held.stable
    assert held.reason == "quiet for 60 s, then held for 600 s: instances wait to be indexed"


def test_a_backlog_of_later_instances_holds_nothing_up() -> None:
    """With a stream that is always busy, a study whose quiet lies before what waits is stable."""
    verdict = judge(arrival(), 60, seen(300, indexed=61, in_the_way="instances wait to be indexed"), HOLD)
    assert verdict.stable
    assert "held" not in verdict.reason


def test_announced_instances_are_waited_for() -> None:
    """A sender that says how many it sends is believed, for as long as the hold time, and the reason tells."""
    missing = judge(arrival(expected_count=12), 60, seen(100), HOLD)
    assert (missing.stable, missing.reason) == (False, "10 of 12 announced instances came")
    assert judge(arrival(expected_count=12), 60, seen(660), HOLD).reason.endswith("10 of 12 announced instances came")
    assert "all 10 announced" in judge(arrival(expected_count=10), 60, seen(60), HOLD).reason
    assert judge(arrival(expected_count=-1), 60, seen(60), HOLD).stable


def test_each_rule_has_its_quiet_time() -> None:
    """The default and those of enabled rules are waited for, each once; what was declared is not declared again."""
    to = {"destinations": [{"name": "pacs", "type": "dimse", "aet": "P", "host": "h", "port": 104}]}
    rules = [
        {"name": "a", "trigger": "study_stable", "destinations": ["pacs"], "quiet_seconds": 300},
        {"name": "b", "trigger": "series", "destinations": ["pacs"], "quiet_seconds": 5},
        {"name": "c", "trigger": "series", "destinations": ["pacs"], "quiet_seconds": 300},
        {"name": "d", "trigger": "study_stable", "destinations": ["pacs"], "quiet_seconds": 77, "enabled": False},
        {"name": "e", "destinations": ["pacs"]},
    ]
    quiets = quiet_times(Routing.model_validate({**to, "rules": rules}), 60)
    assert quiets == (5, 60, 300)
    assert still_waited_for(arrival(quiet_seconds=60.0), quiets) == [300]
