"""TLS on a listener: the BCP 195 profile, mutual authentication, renewal without a restart, stalled handshakes."""

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pydicom.data
import pytest

from bucky.dimse import Outcome, Peer, store_all
from bucky.errors import SettingsError
from bucky.text.listeners import Listener, ListenerTls
from edge_scp.association.tls import server_context
from local_stack.certificates import CertificateFiles, ensure_certificates
from local_stack.servers import built
from tests.support.dicom.sample_instances import samples
from tests.support.dimse.raw_peer import RawPeer, request, store
from tests.support.edge.upper_layer_world import UpperLayerWorld, stage
from tests.support.network.client_certificates import client, named_client
from tests.support.network.open_sockets import still_open
from tests.support.waiting import eventually

CT_FILE = Path(pydicom.data.__file__).parent / "test_files" / "CT_small.dcm"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """An authority, and the listener's certificate for localhost."""
    return ensure_certificates(tmp_path_factory.mktemp("tls"))


def tls_of(certificates: CertificateFiles, *, mutual: bool = False) -> Listener:
    """Return a listener with these certificates."""
    ca = certificates.ca if mutual else None
    return Listener(port=0, tls=ListenerTls(cert_file=certificates.cert, key_file=certificates.key, client_ca_file=ca))


def talk_over(upper: UpperLayerWorld, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a TLS connection, after its handshake."""
    plain = socket.create_connection(("127.0.0.1", upper.port), timeout=60)
    try:
        return context.wrap_socket(plain, server_hostname="localhost")
    except BaseException:
        plain.close()
        raise


def alert(upper: UpperLayerWorld, context: ssl.SSLContext) -> str:
    """Return the reason that a caller is given why its handshake failed."""
    # A TLS 1.3 client believes that its handshake succeeded until it reads.
    with pytest.raises(ssl.SSLError) as told, talk_over(upper, context) as caller:
        caller.recv(1)
    return str(told.value.reason)


def test_instances_over_tls(certificates: CertificateFiles) -> None:
    """A large instance over TLS arrives whole, and the association is released."""
    data_set = bytes(range(256)) * 20_000
    with stage(tls_of(certificates)) as upper:
        with RawPeer(upper.port) as peer:
            peer.socket = client(certificates).wrap_socket(peer.socket, server_hostname="localhost")
            assert peer.socket.version() == "TLSv1.3"
            peer.send(request())
            assert peer.receive()[0] == 0x02
            peer.send(store(data_set, 1) + store(data_set, 2))
            assert peer.stored() == (1, 0, "")
            assert peer.stored() == (2, 0, "")
        assert [bytes(instance.data_set) == data_set for instance in upper.sink.instances] == [True, True]
        there = Peer("BUCKY", "127.0.0.1", upper.port, calling_aet="TEST", tls_ca_file=certificates.ca)
        (result,) = store_all(there, [samples(1)[0].outgoing])
        assert result.outcome is Outcome.STORED


def test_a_client_certificate_is_asked_for_where_a_ca_is_set(certificates: CertificateFiles, tmp_path: Path) -> None:
    """With a client CA, whoever cannot name itself is told so and gets no association; who can, does."""
    stranger = client(certificates)
    named_client(ensure_certificates(tmp_path / "foreign"), tmp_path)
    stranger.load_cert_chain(tmp_path / "modality.pem")
    with stage(tls_of(certificates, mutual=True)) as upper:
        assert "ALERT_CERTIFICATE_REQUIRED" in alert(upper, client(certificates))
        assert "ALERT_UNKNOWN_CA" in alert(upper, stranger)
        eventually(lambda: upper.outcomes.counts == {"failed": 2}, "both callers were turned away")
        with talk_over(upper, named_client(certificates, tmp_path)) as named:
            named.sendall(request())
            assert named.recv(1) == b"\x02"
        eventually(lambda: upper.connections == 0, "all connections were closed")
    assert upper.outcomes.counts == {"failed": 2, "accepted": 1, "aborted": 1}


@pytest.mark.parametrize("cipher", ["AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA"])
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(
    certificates: CertificateFiles, cipher: str
) -> None:
    """RSA key exchange and CBC suites are not in the profile (RFC 9325 §4)."""
    weak = client(certificates)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers(cipher)
    with stage(tls_of(certificates)) as upper:
        assert "ALERT_HANDSHAKE_FAILURE" in alert(upper, weak)


def test_tls_1_2_is_accepted_and_1_1_is_not(certificates: CertificateFiles) -> None:
    """The profile begins at TLS 1.2 (PS3.15 §B.9)."""
    still, old = client(certificates), client(certificates)
    still.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with stage(tls_of(certificates)) as upper:
        with talk_over(upper, still) as connection:
            cipher = connection.cipher()
            assert cipher is not None
            assert cipher[0].startswith("ECDHE")
        assert "ALERT_PROTOCOL_VERSION" in alert(upper, old)


def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    """New files are used from the next handshake on; while they do not match, the old certificate is."""
    old = ensure_certificates(tmp_path / "old")
    new = ensure_certificates(tmp_path / "new")
    used = CertificateFiles(ca=old.ca, cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    shutil.copy(old.cert, used.cert)
    shutil.copy(old.key, used.key)
    with stage(tls_of(used)) as upper:
        talk_over(upper, client(old)).close()
        shutil.copy(new.cert, used.cert)
        talk_over(upper, client(old)).close()
        shutil.copy(new.key, used.key)
        talk_over(upper, client(new)).close()
        with pytest.raises(ssl.SSLCertVerificationError):
            talk_over(upper, client(old))


def test_a_stalled_handshake_delays_nobody_and_is_given_up(certificates: CertificateFiles) -> None:
    """Whoever opens a connection and never shakes hands is dropped after ARTIM; others are served meanwhile."""
    with stage(tls_of(certificates), artim_seconds=4) as upper:
        with socket.create_connection(("127.0.0.1", upper.port), timeout=60) as silent:
            talk_over(upper, client(certificates)).close()
            assert still_open(silent), "the silent connection was closed first"
            assert silent.recv(1) == b""
        eventually(lambda: upper.connections == 0, "the slot is free")
    assert upper.outcomes.counts == {"failed": 2}


def test_a_certificate_that_is_not_there_names_the_setting(certificates: CertificateFiles, tmp_path: Path) -> None:
    """A wrong path is one sentence at start."""
    with pytest.raises(SettingsError, match="BUCKY_EDGE_LISTENERS"):
        server_context(ListenerTls(cert_file=tmp_path / "none.pem", key_file=certificates.key))


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize(
    "profile", ["+py", "+px", "+pz"], ids=["non-downgrading BCP 195", "BCP 195", "extended BCP 195"]
)
def test_dcmtk_over_tls(certificates: CertificateFiles, profile: str) -> None:
    """storescu stores with each of DCMTK's BCP 195 profiles."""
    path = built("storescu")
    assert path is not None
    options = ("+tla", profile, "+cf", str(certificates.ca), "-aec", "BUCKY")
    with stage(tls_of(certificates)) as upper:
        sent = subprocess.run(
            [path, *options, "127.0.0.1", str(upper.port), str(CT_FILE)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert sent.returncode == 0, sent.stderr
        assert len(upper.sink.instances) == 1
