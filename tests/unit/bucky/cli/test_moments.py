"""Times as people give them to a command."""

from datetime import UTC, datetime, timedelta

import pytest
import typer

from bucky.cli.moments import moment

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [("30m", timedelta(minutes=30)), ("2h", timedelta(hours=2)), ("3d", timedelta(days=3)), ("1w", timedelta(weeks=1))],
)
def test_so_long_ago(text: str, ago: timedelta) -> None:
    """A duration must count back from now."""
    assert moment(text, NOW) == (NOW - ago).isoformat()


def test_a_date_without_a_zone_is_on_this_machines_clock() -> None:
    """Who writes a local time must not get another; who writes a zone must get that one."""
    assert moment("2026-03-01T14:30") == datetime(2026, 3, 1, 14, 30).astimezone().isoformat()
    assert moment("2026-03-01") == datetime(2026, 3, 1).astimezone().isoformat()
    read = moment("2026-03-01T14:30+09:00")
    assert read is not None
    assert datetime.fromisoformat(read) == datetime(2026, 3, 1, 5, 30, tzinfo=UTC)
    assert moment(None) is None


def test_what_is_no_time_is_refused() -> None:
    """A typo must not become a filter that matches everything."""
    with pytest.raises(typer.BadParameter, match="2h, 3d"):
        moment("yesterday")
