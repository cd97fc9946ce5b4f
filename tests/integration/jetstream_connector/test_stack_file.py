"""A connector that reads a stack file: what is wrong with it is shown, and what it said before goes on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bucky.broker.connection import connect
from bucky.settings import Settings
from jetstream_connector.calls import GatewayClient
from jetstream_connector.connector import Connector
from jetstream_connector.discovery import StackFileDirectory
from jetstream_connector.metrics import Metrics
from tests.support.connector.connector_world import open_client
from tests.support.waiting import until

GOOD = "functions: {one: {annotations: {topic: work.one}}, two: {annotations: {topic: work.two}}}\n"


@dataclass
class World:
    """A connector, and the stack file that it reads."""

    connector: Connector
    path: Path

    def shown(self) -> dict[str, Any]:
        """Return what the health page shows of the functions, by name: the error, or the subjects."""
        functions = self.connector.status()["functions"]
        return {
            name: one["error"] or [consumer["subject"] for consumer in one["consumers"]]
            for name, one in functions.items()
        }


@pytest.fixture
async def world(nats_settings: Settings, tmp_path: Path) -> AsyncIterator[World]:
    """A connector whose stack file is not there yet."""
    client, own = await open_client(nats_settings), await connect(nats_settings, "connector-under-test")
    path, caller, stop = tmp_path / "stack.yaml", GatewayClient("http://127.0.0.1:1"), asyncio.Event()
    connector = Connector(own, StackFileDirectory(path), caller, Metrics(), 0.05)
    running = asyncio.create_task(connector.run(stop))
    try:
        yield World(connector, path)
    finally:
        stop.set()
        await running
        await own.close()
        await client.close()
        await caller.close()


async def test_what_the_stack_file_said_last_goes_on_while_it_is_wrong(world: World) -> None:
    """Missing at first, then right, then broken, then right again: functions are called as the last right one says."""
    await until(lambda: "No such file" in (world.connector.status()["error"] or ""))
    assert (world.connector.status()["status"], world.shown()) == ("unavailable", {})
    world.path.write_text(GOOD)
    good = {"one": ["work.one"], "two": ["work.two"]}
    await until(lambda: world.shown() == good)
    assert world.connector.status()["error"] is None
    for wrong, said in (("functions: [", "not valid YAML"), ("", "the whole of it"), (GOOD * 2, "stands there twice")):
        world.path.write_text(wrong)
        await until(lambda said=said: said in (world.connector.status()["error"] or ""))  # type: ignore[misc]
        assert world.shown() == good
    world.path.unlink()
    await until(lambda: "No such file" in (world.connector.status()["error"] or ""))
    assert world.shown() == good
    world.path.write_text("functions: {two: {annotations: {topic: work.two}}}\n")
    await until(lambda: world.shown() == {"two": ["work.two"]})
    assert world.connector.status()["error"] is None


async def test_a_wrong_topic_stops_its_own_function_and_no_other(world: World) -> None:
    """It is shown as invalid with the annotation that is wrong, and goes on when that is put right."""
    world.path.write_text(GOOD)
    await until(lambda: world.shown() == {"one": ["work.one"], "two": ["work.two"]})
    world.path.write_text(GOOD.replace("work.one", "work..one"))
    await until(lambda: "topic" in world.shown()["one"])
    assert world.shown()["two"] == ["work.two"]
    assert world.connector.status()["functions"]["one"]["status"] == "invalid"
    world.path.write_text(GOOD)
    await until(lambda: world.shown() == {"one": ["work.one"], "two": ["work.two"]})
