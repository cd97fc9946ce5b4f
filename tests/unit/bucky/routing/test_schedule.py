"""Times of the week: days, midnight, time zones, summer time, and what can be written."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bucky.routing.delivery_hours import DeliveryHours, Paced
from bucky.routing.schedule import DAYS, Opening, Schedule

BRUSSELS = ZoneInfo("Europe/Brussels")


def schedule(*windows: dict[str, Any], **more: Any) -> Schedule:
    """Return a schedule in Brussels."""
    return Schedule.model_validate({"time_zone": "Europe/Brussels", "windows": windows, **more})


def here(text: str) -> datetime:
    """Return a moment on the clocks of Brussels; 2026-11-16 is a Monday."""
    return datetime.fromisoformat(text).replace(tzinfo=BRUSSELS)


NIGHTS = schedule(
    {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "19:00", "to": "06:30"},
    {"days": ["sat", "sun"]},
)


@pytest.mark.parametrize(
    ("now", "is_open", "until"),
    [
        ("2026-11-16T12:00", False, "2026-11-16T19:00"),
        ("2026-11-16T19:00", True, "2026-11-17T06:30"),
        ("2026-11-17T06:29", True, "2026-11-17T06:30"),
        ("2026-11-17T06:30", False, "2026-11-17T19:00"),
        ("2026-11-20T23:00", True, "2026-11-23T00:00"),  # Friday night, Saturday and Sunday are one
        ("2026-11-23T00:00", False, "2026-11-23T19:00"),  # Sunday night is not among the nights
    ],
)
def test_a_schedule_says_whether_it_is_open_and_until_when(now: str, is_open: bool, until: str) -> None:
    """Protects the hours an administrator wrote: past midnight, at the minute, and over adjoining windows."""
    assert NIGHTS.opening(here(now)) == Opening(is_open, here(until))


def test_hours_are_those_of_the_destinations_clock() -> None:
    """Protects a server in one zone from opening a destination in another at its own hours."""
    tokyo = datetime(2026, 11, 16, 19, 30, tzinfo=ZoneInfo("Asia/Tokyo"))  # 11:30 in Brussels
    assert NIGHTS.opening(tokyo) == Opening(False, here("2026-11-16T19:00"))
    assert NIGHTS.opening(tokyo + timedelta(hours=8)) == Opening(True, here("2026-11-17T06:30"))


def test_both_changes_of_the_clock_are_followed() -> None:
    """Protects the nights of 23 and 25 hours: 22:00 to 06:00 is seven hours in March and nine in October."""
    night = schedule({"from": "22:00", "to": "06:00"})
    for evening, hours in (("2026-03-28T22:00", 7), ("2026-10-24T22:00", 9), ("2026-11-16T22:00", 8)):
        opened = here(evening)
        until = night.opening(opened).until
        assert until is not None
        assert (until.timestamp() - opened.timestamp()) / 3600 == hours


def test_a_window_in_the_hour_that_there_is_not_is_left_out() -> None:
    """Protects the morning of the change to summer time from a window that closes before it opens."""
    odd = schedule({"from": "02:45", "to": "03:15"})
    assert odd.opening(here("2026-03-29T01:00")) == Opening(False, here("2026-03-30T02:45"))


def test_windows_without_a_gap_never_close() -> None:
    """Protects a schedule that is always open from a time at which nothing happens."""
    always = schedule({"from": "00:00", "to": "24:00"})
    assert always.opening(here("2026-11-16T12:00")) == Opening(True, None)
    halves = schedule({"from": "20:00", "to": "08:00"}, {"from": "08:00", "to": "20:00"})
    assert halves.opening(here("2026-11-16T12:00")) == Opening(True, None)


def test_urgent_deliveries_go_at_any_time_unless_they_must_wait() -> None:
    """Protects urgent studies from the off-peak hours, and a destination that is really closed from them."""
    closed, wait = here("2026-11-16T12:00"), Opening(False, here("2026-11-16T19:00"))
    hours = {"time_zone": "Europe/Brussels", "windows": [{"from": "19:00", "to": "20:00"}]}
    lenient, strict = (Paced(schedule=DeliveryHours.model_validate(hours | more)) for more in ({}, {"urgent": "waits"}))
    assert lenient.opening(closed) == strict.opening(closed) == strict.opening(closed, "urgent") == wait
    assert lenient.opening(closed, "urgent") == Paced().opening(closed) == Opening(True, None)


def test_hours_without_quotes_are_what_they_look_like() -> None:
    """Protects whoever writes 22:00 in YAML, which YAML 1.1 reads as the number 1320."""
    read = yaml.safe_load("{from: 22:00, to: 06:30}")
    assert read["from"] == 1320
    assert schedule(read) == schedule({"from": "22:00", "to": "06:30"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"time_zone": "Brussels"}, "not an IANA time zone"),
        ({"time_zone": "../../etc/passwd"}, "not an IANA time zone"),
        ({"time_zone": ""}, "not an IANA time zone"),
        ({"windows": []}, "windows"),
        ({"windows": [{"from": "9:00", "to": "10:00"}]}, "pattern"),
        ({"windows": [{"from": "10:00", "to": "10:00"}]}, "begins when it ends"),
        ({"windows": [{"from": "24:00", "to": "10:00"}]}, "begins when it ends"),
        ({"windows": [{"days": ["monday"], "from": "09:00", "to": "10:00"}]}, "days"),
        ({"windows": [{"from": "09:00", "to": "10:00", "zone": "UTC"}]}, "zone"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(wrong: dict[str, Any], said: str) -> None:
    """Protects a destination from hours that mean nothing."""
    right = {"time_zone": "UTC", "windows": [{"from": "09:00", "to": "10:00"}]}
    with pytest.raises(ValidationError, match=said):
        Schedule.model_validate({**right, **wrong})


CLOCKS = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
WINDOWS = st.fixed_dictionaries(
    {"from": CLOCKS, "to": CLOCKS | st.just("24:00"), "days": st.lists(st.sampled_from(DAYS), min_size=1)}
).filter(lambda window: window["from"] != window["to"])


@given(
    st.lists(WINDOWS, min_size=1, max_size=4),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(BRUSSELS)),
)
def test_at_the_time_it_names_it_changes(windows: list[dict[str, Any]], now: datetime) -> None:
    """Protects the promise of `until`: nothing changes before, and at that moment it is the other way."""
    hours = schedule(*windows)
    opening = hours.opening(now)
    assert hours.is_open(now) is opening.is_open
    if opening.until is not None:
        assert opening.until.timestamp() > now.timestamp()
        assert hours.opening(opening.until).is_open is not opening.is_open
        between = datetime.fromtimestamp((now.timestamp() + opening.until.timestamp()) / 2, BRUSSELS)
        assert hours.opening(between).is_open is opening.is_open
