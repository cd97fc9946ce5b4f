"""Functions of Bucky's as forks: one process loads what they need, and each is as much by itself as any process."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.provider.provider_process import Provider, running_provider
from tests.support.stack.processes import alive, children_of, looked_up
from tests.support.waiting import eventually

NAME = "record-dead-letter"
SECRET = "the-provider's-own"


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """A provider that knows what functions must not, with an index's address to give them."""
    with running_provider(tmp_path, BUCKY_NATS_PASSWORD=SECRET) as running:
        url = f"sqlite:///{tmp_path / 'index.db'}"
        running.api.post("/system/secrets", json={"name": "index-url", "value": url}).raise_for_status()
        yield running


def described(name: str, **variables: str) -> dict[str, Any]:
    """Return the deployment of a function of Bucky's."""
    return {
        "envProcess": "python -m bucky.serve",
        "envVars": {"BUCKY_HANDLER": f"{name.replace('-', '_')}.handler", **variables},
        "secrets": ["index-url"],
    }


def deploy(provider: Provider, name: str = NAME, **variables: str) -> int:
    """Deploy a function of Bucky's and return its process id."""
    provider.deploy(name, **described(name, **variables))
    (pid,) = provider.pids_of(name)
    return pid


def fork_server(provider: Provider) -> int:
    """Return the process that functions are forked from."""
    (found,) = (pid for pid in children_of(provider.process.process.pid) if b"forkserver" in looked_up(pid, "cmdline"))
    return found


def test_functions_are_forks_of_one_process(provider: Provider) -> None:
    """To load what a function needs takes a second and 110 MB; the second function, and each replica, does without."""
    first, second = deploy(provider), deploy(provider, "route-stable")
    assert {first, second} <= set(children_of(fork_server(provider)))


def test_a_fork_knows_no_more_than_a_program_that_was_started(provider: Provider) -> None:
    """The process it is a fork of has neither the provider's passwords, nor its variables, nor its files."""
    pid, parent = deploy(provider), fork_server(provider)
    for one in (pid, parent):
        environ = looked_up(one, "environ")
        assert environ
        assert SECRET.encode() not in environ
        assert b"BUCKY_" not in environ
        open_files = {str(link.readlink()) for link in Path(f"/proc/{one}/fd").iterdir()}
        assert not [name for name in open_files if name.startswith(f"{provider.folder}/provider/")]


def test_a_killed_fork_comes_back(provider: Provider) -> None:
    """`kill -9` of a function is seen, told in its log with the signal, and mended."""
    pid = deploy(provider)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: provider.pids_of(NAME) not in ([], [pid]), "there is another")
    provider.wait_available(NAME, 1)
    assert any("ended with exit code -9" in text for text in provider.log_texts(name=NAME))


def test_all_come_back_when_what_they_were_forked_from_is_killed(provider: Provider) -> None:
    """The functions go with it, none is left over, and a new one is loaded."""
    pids = [deploy(provider), deploy(provider, "route-stable")]
    parent = fork_server(provider)
    os.kill(parent, signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids), "none is left")
    for name in (NAME, "route-stable"):
        eventually(lambda name=name: bool(provider.pids_of(name)), f"{name} is back")  # type: ignore[misc]
        provider.wait_available(name, 1)
    assert fork_server(provider) != parent


def test_nothing_is_left_of_a_killed_provider(provider: Provider) -> None:
    """`kill -9` of the provider ends its forks and what they were forked from; its successor forks anew."""
    pids = [deploy(provider), fork_server(provider)]
    provider.process.kill()
    eventually(lambda: not any(alive(pid) for pid in pids), "all are gone")
    provider.process.start()
    provider.wait_available(NAME, 1)


def test_a_stopped_provider_ends_them_in_good_order(provider: Provider) -> None:
    """SIGTERM of the provider ends its functions, and what they were forked from."""
    pids = [deploy(provider), fork_server(provider)]
    provider.process.process.send_signal(signal.SIGTERM)
    assert provider.process.process.wait(60) == 0
    eventually(lambda: not any(alive(pid) for pid in pids), "all are gone")
    provider.process.start()
    provider.wait_available(NAME, 1)


def test_one_that_is_replaced_ends_in_good_order(provider: Provider) -> None:
    """SIGTERM lets a function finish what it does, and what it says last is in its log."""
    replaced = deploy(provider)
    other = provider.deployment(NAME, **described(NAME, BUCKY_LOG_LEVEL="info"))
    provider.api.put("/system/functions", json=other).raise_for_status()
    eventually(lambda: not alive(replaced), "the first is gone")
    assert any('"event":"function.stopped"' in text for text in provider.log_texts(name=NAME))


@pytest.mark.parametrize("variables", [{"PYTHONHASHSEED": "0"}, {"MALLOC_ARENA_MAX": "2"}])
def test_what_decides_how_python_starts_is_started(provider: Provider, variables: dict[str, Any]) -> None:
    """Such a variable would mean nothing to a fork."""
    pid = deploy(provider, **variables)
    (name, value), environ = next(iter(variables.items())), looked_up(pid, "environ").split(b"\0")
    assert f"{name}={value}".encode() in environ


def test_a_handler_that_is_not_there_is_told(provider: Provider) -> None:
    """The sentence of a function that cannot start is in its log, as for any program."""
    deployment = provider.deployment(
        "nothing", envProcess="python -m bucky.serve", envVars={"BUCKY_HANDLER": "nothing.handler"}
    )
    provider.api.post("/system/functions", json=deployment)
    eventually(lambda: any("nothing.handler" in text for text in provider.log_texts(name="nothing")), "it is told")
    assert any("ended with exit code 1" in text for text in provider.log_texts(name="nothing"))
