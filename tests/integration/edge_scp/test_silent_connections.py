"""Connections that say nothing keep no caller out, with TLS and without, across the receivers' processes."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bucky.dimse import Outcome, Peer, store_all
from bucky.runtime.ports import free_port
from local_stack.certificates import ensure_certificates
from tests.support.dicom.sample_instances import samples
from tests.support.dimse.raw_peer import RELEASE_RQ, RawPeer, request
from tests.support.edge.edge_process import edge_process
from tests.support.waiting import eventually

# Long enough that nothing here is ended by it.
LIMITS: dict[str, Any] = {
    "edge_processes": 2,
    "edge_max_associations": 20,
    "edge_max_associations_per_peer": 16,
    "edge_artim_seconds": 60,
}


def silent(port: int, address: str) -> socket.socket:
    """Return a connection from an address."""
    return socket.create_connection(("127.0.0.1", port), 5, source_address=(address, 0))


@pytest.mark.parametrize("tls", [False, True])
def test_two_silent_addresses_do_not_close_the_port(tmp_path: Path, tls: bool) -> None:
    """While two addresses hold all places with silent connections, a caller from a third one stores at once."""
    certificates = ensure_certificates(tmp_path / "tls")
    port = free_port()
    files = {"cert_file": str(certificates.cert), "key_file": str(certificates.key)}
    listeners = json.dumps([{"port": port, "tls": files if tls else None}])
    with edge_process(tmp_path, edge_listeners=listeners, **LIMITS) as edge, ExitStack() as stack:
        holding = [stack.enter_context(silent(port, f"127.0.0.{2 + number % 2}")) for number in range(20)]
        edge.until_serving(20, seconds=10)
        for sample in samples(3):
            peer = Peer("BUCKY", "localhost", port, calling_aet="TEST", tls_ca_file=certificates.ca if tls else None)
            (result,) = store_all(peer, [sample.outgoing])
            assert result.outcome is Outcome.STORED, result.reason
        assert _ended(holding[0]), "the oldest gave way"
        assert edge.health()["listeners"][0]["associations"] <= 20


def test_a_peer_that_does_not_close_gives_its_place_back(tmp_path: Path) -> None:
    """A connection that stays open after its association is released gives way like a silent one."""
    limits = LIMITS | {"edge_max_associations": 1, "edge_max_associations_per_peer": 1, "edge_artim_seconds": 3}
    with edge_process(tmp_path, **limits) as edge, RawPeer(edge.port).associate() as first:
        first.send(RELEASE_RQ)
        assert first.receive()[0] == 0x06

        def served() -> bool:
            with RawPeer(edge.port) as second:
                second.send(request())
                return second.receive()[:1] == b"\x02"

        eventually(served, "the next caller is served")


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
