"""Ports for servers: none that an outgoing connection could take before the server binds it."""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bucky.runtime import ports


@pytest.mark.parametrize(
    ("outgoing", "lowest", "highest", "count"),
    [
        ("32768\t60999\n", 20_000, 65_535, 12_768 + 4_536),
        ("1024 60999", 61_000, 65_535, 4_536),
        ("1024 65535", 20_000, 65_535, 45_536),
    ],
)
def test_servers_stay_clear_of_outgoing_connections(outgoing: str, lowest: int, highest: int, count: int) -> None:
    """A port is outside the range outgoing connections get, unless that leaves none."""
    chosen = ports.servers_ports(outgoing)
    assert (chosen[0], chosen[-1], len(chosen)) == (lowest, highest, count)


def test_a_port_is_handed_out_once_and_can_be_listened_on() -> None:
    """Each call gives another port."""
    chosen = [ports.free_port() for _ in range(500)]
    assert len(set(chosen)) == 500
    with socket.create_server(("127.0.0.1", chosen[-1])):
        assert not ports.is_free(chosen[-1])


def test_a_port_that_is_listened_on_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What somebody listens on is not offered, though its turn has come."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ports.free_port()
    [counter] = tmp_path.iterdir()
    before = counter.read_text()
    taken = ports.free_port()
    counter.write_text(before)
    with socket.create_server(("127.0.0.1", taken)):
        assert ports.free_port() != taken


def test_processes_side_by_side_get_ports_of_their_own() -> None:
    """Protects a server from another's, started at the same moment: no two processes are given the same port."""
    script = "from bucky.runtime.ports import free_port\nprint(*(free_port() for _ in range(200)))"
    started = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    given = [port for one in started for port in one.communicate()[0].split()]
    assert len(given) == len(set(given)) == 800
