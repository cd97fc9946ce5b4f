"""Starting and stopping the embedded stack, also when something is in the way or was left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bucky.runtime.ports import free_port
from local_stack.layout import CannotStart, Home, Ports
from local_stack.process import ProcessFailed, Program, start, stop, tcp_open, wait_ready
from local_stack.supervisor import end_leftovers, start_time
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

SLEEPER = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple[Program, "subprocess.Popen[bytes]"]]:
    """A program that listens and does nothing else."""
    port = free_port()
    program = Program("sleeper", (sys.executable, "-c", SLEEPER, str(port)), tcp_open("127.0.0.1", port))
    process = start(program, tmp_path / "sleeper.log")
    wait_ready(program, process, tmp_path / "sleeper.log")
    yield program, process
    stop(process, 1)


def test_busy_port_says_what_to_do() -> None:
    """A port somebody else uses stops the start with a sentence, before anything is started."""
    ports = Ports.free()
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = replace(ports, https=other.getsockname()[1])
        with pytest.raises(CannotStart, match=r"\(https\) is in use.*--free-ports"):
            taken.check_free()
    ports.check_free()


def test_program_that_ends_while_starting_shows_its_last_words(tmp_path: Path) -> None:
    """A program that cannot start is reported with its own reason and where its log is."""
    program = Program("broken", (sys.executable, "-c", "raise SystemExit('no licence')"), lambda: False)
    process = start(program, tmp_path / "broken.log")
    with pytest.raises(ProcessFailed, match=r"no licence \(log: .*broken\.log\)"):
        wait_ready(program, process, tmp_path / "broken.log")


def test_missing_tool_says_what_to_do(tmp_path: Path) -> None:
    """A tool that is not installed is named with the command that installs it."""
    with pytest.raises(ProcessFailed, match="make setup"):
        start(Program("absent", ("/nowhere/absent",), lambda: True), tmp_path / "absent.log")


def test_leftovers_of_a_killed_supervisor_are_ended(
    tmp_path: Path, sleeper: tuple[Program, "subprocess.Popen[bytes]"]
) -> None:
    """What a killed supervisor left is ended; a stranger that got the same process id is not."""
    home = Home(tmp_path / "home")
    home.create()
    process = sleeper[1]
    entry = {"pid": process.pid, "started": start_time(process.pid)}
    home.write_record({"processes": {"stranger": entry | {"started": "1"}}})
    end_leftovers(home)
    assert process.poll() is None
    home.write_record({"processes": {"sleeper": entry}})
    end_leftovers(home)
    assert process.wait(5) == -signal.SIGKILL


def test_secrets_are_generated_once_and_closed_to_others(tmp_path: Path) -> None:
    """Starting again keeps every secret; nobody else may read them."""
    home = Home(tmp_path / "home")
    home.create()
    before = {file.name: file.read_text() for file in home.secrets.iterdir()}
    home.create()
    assert {file.name: file.read_text() for file in home.secrets.iterdir()} == before
    assert len(set(before.values())) == len(before) >= 6
    assert {file.stat().st_mode & 0o077 for file in home.secrets.iterdir()} == {0}
    assert home.path.stat().st_mode & 0o077 == 0


def test_killed_supervisor_is_followed_by_a_clean_start(tmp_path: Path) -> None:
    """`kill -9` of `bucky up` leaves programs behind; the next `bucky up` replaces them, `bucky down` ends all."""
    home = tmp_path / "a home of its own"
    first = RunningStack(home, {})
    programs = first.pids()
    first.close()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    assert any(start_time(pid) for pid in programs.values())
    second = RunningStack(home, {})
    second.close()
    assert not any(start_time(pid) for pid in programs.values())
    down = subprocess.run(
        (sys.executable, "-m", "bucky.cli", "down", "--home", str(home), "--json"),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert json.loads(down.stdout) == {"stopped": True}
    assert second.process.wait(30) == 0
    eventually(lambda: not any(start_time(pid) for pid in second.last_pids), "every program has ended")
