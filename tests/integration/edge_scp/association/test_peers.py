"""Real senders, unmodified, against the streaming upper layer: pynetdicom and DCMTK."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import pytest
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext

from bucky.dimse import Outcome, Peer, store_all
from edge_scp.association.sink import StoreStatus
from edge_scp.association.statuses import Status
from edge_scp.association.storage_syntaxes import VERIFICATION
from edge_scp.association.store_service import StoreCommand
from local_stack.servers import built
from tests.support.dicom.sample_instances import samples
from tests.support.edge.upper_layer_world import UpperLayerWorld, stage
from tests.support.waiting import eventually

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
FILES = Path(pydicom.data.__file__).parent / "test_files"
NAMES = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "rtplan.dcm", "image_dfl.dcm")


def test_our_own_sender() -> None:
    """Twenty instances over one association arrive byte for byte, and each is answered."""
    sent = samples(20)
    with stage() as upper:
        results = store_all(Peer("BUCKY", "127.0.0.1", upper.port, calling_aet="TEST"), [one.outgoing for one in sent])
        assert [result.outcome for result in results] == [Outcome.STORED] * 20
        kept = [hashlib.sha256(instance.data_set).hexdigest() for instance in upper.sink.instances]
        assert kept == [one.sha256 for one in sent]
        assert upper.sink.instances[0].caller.calling_aet == "TEST"
        eventually(lambda: upper.connections == 0, "the connection was closed")
    assert upper.outcomes.counts == {"accepted": 1, "released": 1}


def associate(upper: UpperLayerWorld, contexts: list[PresentationContext], **more: Any) -> Association:
    """Ask for an association by pynetdicom."""
    entity = AE("TEST")
    entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = 60
    return entity.associate("127.0.0.1", upper.port, contexts=contexts, ae_title="BUCKY", **more)


def test_pynetdicom_stores_and_echoes() -> None:
    """pynetdicom's SCU negotiates, verifies, stores and releases."""
    path = FILES / "CT_small.dcm"
    with stage() as upper:
        association = associate(upper, [build_context(CT, EXPLICIT), build_context(VERIFICATION)])
        assert association.is_established
        assert association.send_c_echo().Status == 0
        assert association.send_c_store(path).Status == 0
        association.release()
        (instance,) = upper.sink.instances
    assert instance.command == StoreCommand(CT, str(pydicom.dcmread(path).SOPInstanceUID), CT, EXPLICIT)
    assert pydicom.dcmread(path).PixelData[:1000] in instance.data_set


def test_a_status_of_the_sink_reaches_the_sender() -> None:
    """What the sink refuses is answered with its status and comment, and the association goes on."""
    with stage() as upper:
        upper.sink.answer = StoreStatus(Status.OUT_OF_RESOURCES, "The spool is full; send again later")
        association = associate(upper, [build_context(CT, EXPLICIT)])
        answer = association.send_c_store(FILES / "CT_small.dcm")
        assert answer.Status == 0xA700
        assert answer.ErrorComment == "The spool is full; send again later"
        upper.sink.answer = StoreStatus(Status.SUCCESS)
        assert association.send_c_store(FILES / "CT_small.dcm").Status == 0
        association.release()


def test_a_query_is_answered_not_supported_by_negotiation() -> None:
    """A context of another service is refused by itself, and leaves the rest of the association."""
    with stage() as upper:
        association = associate(upper, [build_context(STUDY_ROOT_FIND), build_context(CT, EXPLICIT)])
        assert [str(context.abstract_syntax) for context in association.accepted_contexts] == [CT]
        assert [context.result for context in association.rejected_contexts] == [3]
        association.release()


def test_roles_are_answered_as_scp_only() -> None:
    """A peer that would be SCP as well is told that it is SCU alone; one that would only be SCP is refused."""
    both = [build_context(CT, EXPLICIT), build_context(VERIFICATION)]
    roles = [build_role(CT, scu_role=True, scp_role=True), build_role(VERIFICATION, scp_role=True)]
    with stage() as upper:
        association = associate(upper, both, ext_neg=roles)
        (accepted,) = association.accepted_contexts
        assert (accepted.abstract_syntax, accepted.as_scu, accepted.as_scp) == (CT, True, False)
        assert [context.result for context in association.rejected_contexts] == [1]
        association.release()


def test_identity_and_extended_negotiation_are_read_past() -> None:
    """User identity, extended negotiation and an operations window change nothing, and nothing is answered."""
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 2
    identity.primary_field, identity.secondary_field = b"somebody", b"secret"
    identity.positive_response_requested = True
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 8
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = UID(CT), b"\x02\x00\x03\x00\x01\x00"
    with stage() as upper:
        association = associate(upper, [build_context(CT, EXPLICIT)], ext_neg=[identity, window, extended])
        assert association.is_established
        assert association.acceptor.user_identity is None
        assert association.acceptor.asynchronous_operations == (1, 1)
        assert not association.acceptor.sop_class_extended
        association.release()


def dcmtk(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of DCMTK's tools."""
    path = built(tool)
    assert path is not None
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.peer("dcmtk")
def test_dcmtk_echo_store_and_send() -> None:
    """echoscu, storescu and dcmsend are served, and dcmsend's files arrive over one association."""
    paths = [str(FILES / name) for name in NAMES]
    with stage() as upper:
        where = ("-aec", "BUCKY", "127.0.0.1", str(upper.port))
        assert dcmtk("echoscu", *where).returncode == 0
        assert dcmtk("storescu", "-x=", *where, paths[0]).returncode == 0
        sent = dcmtk("dcmsend", "--decompress-never", *where, *paths)
        assert sent.returncode == 0, sent.stderr
        assert len(upper.sink.instances) == 1 + len(paths)
        eventually(lambda: upper.connections == 0, "all connections were closed")
        assert upper.outcomes.counts == {"accepted": 3, "released": 3}


@pytest.mark.peer("dcmtk")
def test_dcmtk_aborts_and_is_aborted() -> None:
    """echoscu's --abort ends its association, and storescu is told when the edge ends its own."""
    with stage() as upper:
        where = ("-aec", "BUCKY", "127.0.0.1", str(upper.port))
        dcmtk("echoscu", "--abort", *where)
        eventually(lambda: upper.outcomes.counts["aborted"] == 1, "the abort was noticed")
        refused = dcmtk("echoscu", "-aec", "OTHER", "127.0.0.1", str(upper.port))
        assert "Called AE Title Not Recognized" in refused.stderr
