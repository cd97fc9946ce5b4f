"""Every process that runs for long outlives every fault of every server it depends on, says so meanwhile, and loses
nothing: docs/reference/dependencies.md is the table of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.faults.dependencies import FAULTS, markdown
from tests.support.faults.plant import Plant, plant
from tests.support.network.faulty_line import FaultyLine

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dependencies.md"
ALL = {"broker", "store", "gateway"}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """One of each process, which outlives all tests of this module."""
    with plant(tmp_path_factory.mktemp("plant")) as made:
        made.until_all_say(well=True, dependencies=ALL)
        yield made


def each_line(act: Callable[[FaultyLine], None]) -> Callable[[Plant], None]:
    """Do something to every line."""

    def done(here: Plant) -> None:
        for line in here.lines.values():
            act(line)

    return done


def kill(here: Plant) -> None:
    """Kill every server."""
    here.gateway.close()
    for server in here.servers():
        server.kill()


def start(here: Plant) -> None:
    """Start every server on the same data."""
    here.gateway.open()
    for server in here.servers():
        server.start()


def lead_to_strangers(here: Plant) -> None:
    """Have another server answer in place of each, which does not know us."""
    for line in here.lines.values():
        line.to = int(here.stranger.url.rpartition(":")[2])
        line.cut()


def lead_back(here: Plant) -> None:
    """Have each server answer again."""
    for name, line in here.lines.items():
        line.to = here.ports[name]
        line.cut()


def leave(here: Plant) -> None:
    """Have the servers end, and another one answer where they were."""
    kill(here)
    lead_to_strangers(here)


def come_back_elsewhere(here: Plant) -> None:
    """Have the broker and the gateway on other ports, and the lines lead there."""
    here.move()
    start(here)
    lead_back(here)


def say_error(here: Plant) -> None:
    """Say what ends a connection, in the servers' name."""
    for name, line in here.lines.items():
        line.inject(b"-ERR 'Maximum Payload Violation'\r\n" if name == "broker" else b"nonsense\r\n\r\n")


LASTING: dict[str, tuple[Callable[[Plant], None], Callable[[Plant], None]]] = {
    "closed": (each_line(FaultyLine.refuse), each_line(FaultyLine.heal)),
    "half open": (each_line(FaultyLine.silence), each_line(FaultyLine.heal)),
    "restarted": (kill, start),
    "moved": (leave, come_back_elsewhere),
    "refuses us": (lead_to_strangers, lead_back),
}


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_said_and_outlived(fault: str, here: Plant) -> None:
    """Each process says of each server that it is not there; then that it is again; what came meanwhile goes on."""
    begin, end = LASTING[fault]
    here.send()
    begin(here)
    here.send()
    here.until_all_say(well=False, dependencies=ALL)
    end(here)
    here.until_all_say(well=True, dependencies=ALL)
    here.until_all_arrived()
    assert here.same_processes()


def test_an_error_line_is_outlived(here: Plant) -> None:
    """One line of the broker's, after which nats-py itself would stay closed, costs a connection."""
    for _ in range(3):
        say_error(here)
        here.send()
    here.until_all_arrived()
    here.until_all_say(well=True, dependencies=ALL)
    assert here.same_processes()


def test_the_page_is_in_step() -> None:
    """The table that people read is the one that is tested, and each fault in it has a test."""
    assert PAGE.read_text().endswith(markdown())
    assert set(FAULTS) == {*LASTING, "error line"}
