"""The local certificate authority and the certificates it signs."""

import os
import socket
import ssl
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from local_stack import certificates
from local_stack.certificates import CertificateFiles, ensure_certificates


def handshake(files: CertificateFiles, ca: Path, name: str) -> str | None:
    """Speak TLS between a server with these files and a client that trusts `ca`; return the TLS version."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(files.cert, files.key)
    client_context = ssl.create_default_context(cafile=str(ca))
    client_end, server_end = socket.socketpair()

    def serve() -> None:
        try:
            with server_context.wrap_socket(server_end, server_side=True) as secured:
                secured.recv(1)
        except (ssl.SSLError, OSError):
            server_end.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client_context.wrap_socket(client_end, server_hostname=name) as secured:
            return secured.version()
    finally:
        client_end.close()
        thread.join()


@pytest.mark.parametrize("name", certificates.NAMES)
def test_a_client_that_trusts_the_ca_accepts_every_name(tmp_path: Path, name: str) -> None:
    """The certificate must be good for each way users write this machine's name."""
    files = ensure_certificates(tmp_path)
    assert handshake(files, files.ca, name) == "TLSv1.3"


def test_other_names_and_other_authorities_are_refused(tmp_path: Path) -> None:
    """The certificate must not be good for anything else, nor for clients that trust another stack."""
    files, other = ensure_certificates(tmp_path / "one"), ensure_certificates(tmp_path / "two")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, files.ca, "example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, other.ca, "localhost")


def test_keys_are_private_even_under_a_lax_umask(tmp_path: Path) -> None:
    """Nobody else on the machine may read a private key."""
    before = os.umask(0)
    try:
        files = ensure_certificates(tmp_path / "tls")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    for key in (files.key, tmp_path / "tls" / "ca-key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_good_certificates_are_kept(tmp_path: Path) -> None:
    """A restart must not make users trust a new authority."""
    files = ensure_certificates(tmp_path)
    before = [path.read_bytes() for path in (files.ca, files.cert, files.key)]
    ensure_certificates(tmp_path)
    assert [path.read_bytes() for path in (files.ca, files.cert, files.key)] == before


def test_new_names_renew_the_server_certificate_alone(tmp_path: Path) -> None:
    """Adding a host name must not change the authority that users trust."""
    files = ensure_certificates(tmp_path)
    ca = files.ca.read_bytes()
    ensure_certificates(tmp_path, (*certificates.NAMES, "bucky.example.org"))
    assert files.ca.read_bytes() == ca
    assert handshake(files, files.ca, "bucky.example.org") == "TLSv1.3"


def test_a_certificate_near_its_end_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that runs for years must not stop on the day its certificate expires."""
    monkeypatch.setattr(certificates, "SERVER_DAYS", 29)
    files = ensure_certificates(tmp_path)
    short = x509.load_pem_x509_certificate(files.cert.read_bytes())
    monkeypatch.undo()
    ensure_certificates(tmp_path)
    renewed = x509.load_pem_x509_certificate(files.cert.read_bytes())
    assert renewed.not_valid_after_utc - short.not_valid_after_utc > timedelta(days=300)
    assert handshake(files, files.ca, "localhost") == "TLSv1.3"


@pytest.mark.parametrize("name", ["server.pem", "server-key.pem", "ca.pem", "ca-key.pem"])
@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_damaged_files_are_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    """A crash or a careless hand in the folder must not leave a stack that cannot start."""
    files = ensure_certificates(tmp_path / "here")
    path = tmp_path / "here" / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "missing":
        path.unlink()
    else:
        ensure_certificates(tmp_path / "there")
        path.write_bytes((tmp_path / "there" / name).read_bytes())
    again = ensure_certificates(tmp_path / "here")
    assert again == files
    assert handshake(again, again.ca, "localhost") == "TLSv1.3"
