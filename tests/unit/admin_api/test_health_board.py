"""The board that asks every part how it is."""

import asyncio
from typing import Any

import pytest

from admin_api import health
from admin_api.health import HealthBoard, PartDown


async def up() -> dict[str, Any]:
    """Answer as a part that is well."""
    return {"waiting": 3}


async def down() -> dict[str, Any]:
    """Answer as a part that is not well."""
    raise PartDown("it has no disk")


async def test_one_part_down_is_reported_with_its_reason() -> None:
    """The page must name the part and the reason, and not hide those that are up."""
    report = await HealthBoard({"edge": down, "store": up}).report()
    assert report.status == "down"
    assert (report.parts["edge"].status, report.parts["edge"].reason) == ("down", "it has no disk")
    assert (report.parts["store"].status, report.parts["store"].detail) == ("up", {"waiting": 3})


async def test_a_part_that_hangs_is_down_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging part must neither hang the page nor gather a queue of checks."""
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.05)
    asked, release = 0, asyncio.Event()

    async def hangs() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        await release.wait()
        return {}

    board = HealthBoard({"store": hangs})
    reports = await asyncio.gather(*(board.report() for _ in range(20)))
    assert {report.status for report in reports} == {"down"}
    assert asked == 1
    release.set()
    assert (await board.report()).status == "up"


async def test_many_who_ask_share_one_check() -> None:
    """The open page must not become a way to load the parts."""
    asked = 0

    async def counts() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return {}

    board = HealthBoard({"index": counts})
    for _ in range(5):
        await asyncio.gather(*(board.report() for _ in range(20)))
    assert asked == 1


async def test_a_part_that_says_it_is_not_well_is_not_up() -> None:
    """Health is the worst of what each part says of itself, in its own words, with since when."""
    told = {
        "part": "broker",
        "state": "degraded",
        "since": "2026-01-01T00:00:00+00:00",
        "reason": "NATS is not connected",
        "effect": "Events wait.",
        "command": "bucky status",
    }

    async def limping() -> dict[str, Any]:
        return {"status": "degraded", "trouble": [told]}

    report = await HealthBoard({"connector": limping, "store": up}).report()
    assert (report.status, report.parts["connector"].status, report.parts["store"].status) == ("degraded",) * 2 + (
        "up",
    )
    assert [one.model_dump(mode="json")["effect"] for one in report.trouble] == ["Events wait."]
    assert (await HealthBoard({"connector": limping, "edge": down}).report()).status == "down"


async def test_a_trouble_that_goes_on_keeps_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Since when a part is down is what tells a moment from an outage; what it means is said too."""
    monkeypatch.setattr(health, "FRESH_SECONDS", 0.0)
    board = HealthBoard({"edge": down})
    (first,) = (await board.report()).trouble
    (second,) = (await board.report()).trouble
    assert first.since == second.since
    assert (first.part, first.state, first.command) == ("edge", "down", "bucky doctor")
    assert first.effect
