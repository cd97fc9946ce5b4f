"""Who is let in, what is refused and how, over real associations."""

import socket
import ssl
import struct
from collections.abc import Iterator
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from bucky.dimse import Outcome, Peer, store_all
from bucky.errors import SettingsError
from bucky.text.listeners import Listener, ListenerTls
from edge_scp.receive.instance import SpooledInstance
from local_stack.certificates import CertificateFiles, ensure_certificates
from tests.support.dicom.sample_instances import samples
from tests.support.dimse.raw_peer import RELEASE_RP, RELEASE_RQ, RawPeer, request
from tests.support.edge.edge_process import ListenerAlone, listener_alone
from tests.support.network.client_certificates import client, named_client
from tests.support.network.open_sockets import still_open
from tests.support.waiting import eventually

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


pytestmark = pytest.mark.usefixtures("requestors_close_their_sockets")


def associate(port: int, **more: Any) -> Association:
    """Ask for an association that may send CT images."""
    entity = AE("TEST")
    entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = 60
    contexts = more.pop("contexts", [build_context(CT, EXPLICIT)])
    return entity.associate("127.0.0.1", port, contexts=contexts, ae_title="BUCKY", **more)


def rejection(port: int, called: str = "BUCKY") -> tuple[int, ...]:
    """Ask for an association; return result, source and diagnostic of the A-ASSOCIATE-RJ."""
    # pynetdicom's requestor takes some for a lost connection, when its thread closes the socket first.
    with RawPeer(port) as peer:
        peer.send(request(called))
        answer = peer.receive()
    assert answer[:1] == b"\x03"
    return tuple(answer[7:])


@pytest.mark.parametrize(
    ("listener", "called", "expected"),
    [
        (Listener(port=0), "WRONG", (1, 1, 7)),
        (Listener(port=0, allow_aets=("CT1",)), "BUCKY", (1, 1, 3)),
        (Listener(port=0, allow_networks=(ip_network("192.0.2.0/24"),)), "BUCKY", (1, 1, 1)),
    ],
    ids=["called AE title", "calling AE title", "network"],
)
def test_strangers_are_rejected_with_the_reason(
    tmp_path: Path, listener: Listener, called: str, expected: tuple[int, int, int]
) -> None:
    """A wrong called AE title, an unknown calling AE title and a foreign network are each told why."""
    with listener_alone(tmp_path, listener) as alone:
        assert rejection(alone.port, called) == expected
        eventually(lambda: alone.connections == 0, "the rejected association is over")


def test_one_association_too_many_is_rejected_as_transient(tmp_path: Path) -> None:
    """Past its limit the listener rejects with local-limit-exceeded, and accepts again when one has ended."""
    with listener_alone(tmp_path, edge_max_associations=2) as alone, RawPeer(alone.port) as first:
        first.associate()
        with RawPeer(alone.port) as second:
            second.associate()
            assert rejection(alone.port) == (2, 3, 2)
            first.send(RELEASE_RQ)
            assert first.receive() == RELEASE_RP
            first.socket.close()
            eventually(lambda: alone.connections == 1, "the first association is over")
            with RawPeer(alone.port) as third:
                third.associate()


def raw_store(association: Association, sop_class: str, sop_instance: str, data_set: bytes) -> Dataset:
    """Send a C-STORE request with any UIDs and any bytes; return the response."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = sop_instance
    request.Priority = 0
    request.DataSet = BytesIO(data_set)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id or 1)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    assert isinstance(response, C_STORE)
    answer = Dataset()
    answer.Status, answer.ErrorComment = response.Status, response.ErrorComment
    return answer


@pytest.mark.filterwarnings("ignore:.*UI.*:UserWarning")
@pytest.mark.parametrize(
    ("sop_class", "sop_instance", "change", "status", "words"),
    [
        (CT, "../../x", b"", 0xC000, "AffectedSOPInstanceUID"),
        (CT, "1.2.3", b"", 0xA900, "SOP Instance UID"),
        ("1.2.840.10008.5.1.4.1.1.4", "", b"", 0x0122, "presentation context"),
        (CT, "", b"\x00\x01\x02 no data set", 0xC000, "SOPClassUID is missing"),
        (CT, "", b"\x08\0\x16\0\x1a\0\0\0" + CT.encode() + b"\0", 0xC000, "transfer syntax"),
    ],
    ids=["path in UID", "other instance", "other class", "garbage", "implicit VR"],
)
def test_what_does_not_fit_is_refused_and_the_association_lives_on(
    tmp_path: Path, sop_class: str, sop_instance: str, change: bytes, status: int, words: str
) -> None:
    """Each mismatch gets its status and an Error Comment; nothing is spooled, and a good instance still is."""
    good = samples(1)[0]
    data_set = good.outgoing.content().read()
    with listener_alone(tmp_path) as alone:
        association = associate(alone.port)
        answer = raw_store(association, sop_class, sop_instance or good.sop_instance_uid, change or data_set)
        assert answer.Status == status
        assert words in answer.ErrorComment
        assert alone.instances == 0
        assert raw_store(association, CT, good.sop_instance_uid, data_set).Status == 0
        association.release()
        ((record, kept),) = alone.records()
    assert kept == data_set
    assert record.sha256 == good.sha256
    assert (record.calling_aet, record.called_aet, record.source_address) == ("TEST", "BUCKY", "127.0.0.1")


@pytest.mark.filterwarnings("ignore:.*UI.*:UserWarning")
def test_an_unforeseen_failure_is_a_status_not_an_abort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the receiver meets an error nobody foresaw, the sender is told, and may send the next."""

    def broken(_self: SpooledInstance, _fragment: memoryview) -> None:
        raise RuntimeError("nobody foresaw this")

    good = samples(1)[0]
    data_set = good.outgoing.content().read()
    with listener_alone(tmp_path, edge_fast_path=False) as alone:
        association = associate(alone.port)
        with monkeypatch.context() as patch:
            patch.setattr(SpooledInstance, "_keep", broken)
            answer = raw_store(association, CT, good.sop_instance_uid, data_set)
        assert answer.Status == 0x0110
        assert answer.ErrorComment
        assert raw_store(association, CT, good.sop_instance_uid, data_set).Status == 0
        association.release()


def test_echo_and_a_private_class_and_syntax(tmp_path: Path) -> None:
    """C-ECHO answers, and a vendor's own SOP class in its own transfer syntax is kept when a setting says so."""
    private_class, private_syntax = "1.3.12.2.1107.5.9.1", "1.2.840.113619.5.2.9"
    good = samples(1)[0]
    data_set = (
        good.outgoing.content().read().replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.3.12.2.1107.5.9.1\0\0\0\0\0\0\0")
    )
    settings = {
        "edge_private_sop_classes": (private_class,),
        "edge_private_transfer_syntaxes": (private_syntax,),
    }
    with listener_alone(tmp_path, None, slots=0, **settings) as alone:
        contexts = [build_context(private_class, private_syntax), build_context("1.2.840.10008.1.1")]
        association = associate(alone.port, contexts=contexts)
        assert len(association.accepted_contexts) == 2
        assert association.send_c_echo().Status == 0
        assert raw_store(association, private_class, good.sop_instance_uid, data_set).Status == 0
        association.release()
        ((record, _),) = alone.records()
    assert (record.sop_class_uid, record.transfer_syntax_uid) == (private_class, private_syntax)


def test_the_senders_first_choice_of_transfer_syntax_is_taken(tmp_path: Path) -> None:
    """A sender that offers its own encoding first may send it, rather than be made to convert."""
    offered = ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
    with listener_alone(tmp_path) as alone:
        association = associate(alone.port, contexts=[build_context(CT, offered)])
        (context,) = association.accepted_contexts
        assert context.transfer_syntax == [offered[0]]
        association.release()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """An authority, and the listener's certificate for localhost."""
    return ensure_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def caller(certificates: CertificateFiles) -> ssl.SSLContext:
    """The TLS context of a caller whose certificate the authority signed."""
    return named_client(certificates, certificates.ca.parent)


@pytest.fixture
def tls_listener(tmp_path: Path, certificates: CertificateFiles) -> Iterator[ListenerAlone]:
    """A listener that asks for a client certificate."""
    tls = ListenerTls(cert_file=certificates.cert, key_file=certificates.key, client_ca_file=certificates.ca)
    with listener_alone(tmp_path, Listener(port=0, tls=tls)) as alone:
        yield alone


def test_tls_needs_a_client_certificate_where_a_ca_is_set(
    tls_listener: ListenerAlone, certificates: CertificateFiles, caller: ssl.SSLContext
) -> None:
    """With a client CA, a caller without a certificate gets no association; one with it stores as usual."""
    with (
        socket.create_connection(("127.0.0.1", tls_listener.port), timeout=60) as plain,
        client(certificates).wrap_socket(plain, server_hostname="localhost") as unnamed,
        # In TLS 1.3 a client hears of it after its own side of the handshake.
        pytest.raises(ssl.SSLError, match="ALERT_CERTIFICATE_REQUIRED"),
    ):
        unnamed.recv(1)
    assert not associate(tls_listener.port).is_established
    association = associate(tls_listener.port, tls_args=(caller, "localhost"))
    assert association.is_established
    good = samples(1)[0]
    data_set = good.outgoing.content().read()
    assert raw_store(association, CT, good.sop_instance_uid, data_set).Status == 0
    association.release()
    assert tls_listener.records()[0][0].sha256 == good.sha256


def test_tls_before_1_2_is_refused(tmp_path: Path, certificates: CertificateFiles) -> None:
    """The listener speaks TLS 1.2 and later only (BCP 195)."""
    tls = ListenerTls(cert_file=certificates.cert, key_file=certificates.key)
    with listener_alone(tmp_path, Listener(port=0, tls=tls)) as alone:
        peer = Peer("BUCKY", "127.0.0.1", alone.port, calling_aet="TEST", tls_ca_file=certificates.ca)
        (result,) = store_all(peer, [samples(1)[0].outgoing])
        assert result.outcome is Outcome.STORED
        old = client(certificates)
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLS"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", alone.port), timeout=60) as plain,
            pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"),
        ):
            old.wrap_socket(plain, server_hostname="localhost")


def test_a_slow_tls_handshake_delays_nobody(tls_listener: ListenerAlone, caller: ssl.SSLContext) -> None:
    """A caller that opens a connection and says nothing does not hold up the next one's handshake."""
    with socket.create_connection(("127.0.0.1", tls_listener.port)) as silent:
        association = associate(tls_listener.port, tls_args=(caller, "localhost"))
        assert association.is_established
        assert still_open(silent), "the silent connection was closed first"
        association.release()


@pytest.mark.parametrize(
    "opening",
    [
        b"\x01",
        b"\x01\x00" + struct.pack(">I", 300_000_000) + b"\0" * 1000,
        b"\x01\x00" + struct.pack(">I", 100) + b"\0" * 10,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x04\x00" + struct.pack(">I", 4) + b"\0" * 4,
    ],
    ids=["one byte", "300 MB announced", "stalled", "HTTP", "data before association"],
)
def test_connections_that_lead_nowhere_are_closed(tmp_path: Path, opening: bytes) -> None:
    """Garbage, stalls and absurd lengths end in a closed connection, and others are served meanwhile."""
    with listener_alone(tmp_path, edge_artim_seconds=1) as alone:
        with socket.create_connection(("127.0.0.1", alone.port), timeout=60) as stranger:
            stranger.sendall(opening)
            association = associate(alone.port)
            assert association.is_established
            association.release()
            received = bytearray()
            while chunk := _received(stranger):
                received += chunk
            assert len(received) < 100
        eventually(lambda: alone.connections == 0, "nothing is left open")


def _received(stranger: socket.socket) -> bytes:
    try:
        return stranger.recv(1000)
    except ConnectionResetError:
        return b""


def test_an_idle_association_is_aborted(tmp_path: Path) -> None:
    """An association on which nothing happens is aborted after the idle time, so that it holds no place."""
    with listener_alone(tmp_path, edge_idle_seconds=0.5) as alone, RawPeer(alone.port) as idle:
        idle.associate()
        assert idle.receive()[:1] == b"\x07"


def test_two_listeners_have_their_own_rules(tmp_path: Path) -> None:
    """Each listener answers to its own AE title only, and the instance says which one it came through."""
    first, second = Listener(aet="FIRST", port=0), Listener(aet="SECOND", port=0)
    with listener_alone(tmp_path / "1", first) as one, listener_alone(tmp_path / "2", second) as two:
        assert rejection(one.port, "SECOND") == (1, 1, 7)
        peer = Peer("SECOND", "127.0.0.1", two.port, calling_aet="TEST")
        (result,) = store_all(peer, [samples(1)[0].outgoing])
        assert result.outcome is Outcome.STORED
        assert two.records()[0][0].called_aet == "SECOND"


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    """A port that is in use ends the start with a sentence that names the setting."""
    with listener_alone(tmp_path / "1") as alone:
        taken = Listener(port=alone.port)
        with (
            pytest.raises(SettingsError, match="BUCKY_EDGE_LISTENERS"),
            listener_alone(tmp_path / "2", taken),
        ):
            pass
