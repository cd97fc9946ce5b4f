"""Sending to nodes over TLS that ask who we are."""

import io
from pathlib import Path
from typing import Any

import pytest

from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult
from bucky.forwarding import Secrets, Senders
from bucky.routing.destinations import DimseDestination
from bucky.runtime.ports import free_port
from local_stack.certificates import ensure_certificates
from local_stack.destination import Destination
from tests.support.functions.forwarding import CT, EXPLICIT
from tests.support.network.client_certificates import asking_server, named_client


def send(port: int, secrets: Path, **fields: Any) -> list[StoreResult]:
    """Send one instance to a node."""
    given = {"name": "a", "type": "dimse", "aet": "DEMO", "host": "127.0.0.1", "port": port, **fields}
    item = Outgoing(CT, "1.2.3", EXPLICIT, lambda: io.BytesIO(b"data set"))
    return Senders(Secrets(secrets)).send(DimseDestination.model_validate(given), [item], seconds=60)


@pytest.mark.parametrize("named", [True, False])
def test_a_node_that_asks_who_we_are_is_shown_our_certificate(tmp_path: Path, named: bool) -> None:
    """A node that takes images from known senders only gets the certificate that the secret holds."""
    certificates = ensure_certificates(tmp_path / "tls", ["127.0.0.1"])
    named_client(certificates, tmp_path)
    (tmp_path / "modality.pem").rename(tmp_path / "destination-identity")
    identity = {"tls_identity_secret": "destination-identity"} if named else {}
    with Destination(tmp_path / "node", tls=asking_server(certificates)) as destination:
        (result,) = send(destination.port, tmp_path, tls_ca_file=str(certificates.ca), **identity)
        assert destination.count == named
    assert result.outcome is (Outcome.STORED if named else Outcome.UNAVAILABLE)


def test_a_secret_that_is_no_certificate_says_so(tmp_path: Path) -> None:
    """A wrong file is for an administrator to put right; until then everything waits, and the reason names it."""
    (tmp_path / "destination-identity").write_text("not a certificate")
    authority = ensure_certificates(tmp_path / "tls", ["127.0.0.1"]).ca
    (result,) = send(free_port(), tmp_path, tls_ca_file=str(authority), tls_identity_secret="destination-identity")
    assert (result.outcome, result.retry_after) == (Outcome.UNAVAILABLE, 30.0)
    assert "destination-identity does not hold a certificate chain" in result.reason
