"""What the sender's own message code and the PDU classes it borrows must agree on with pynetdicom 3.0.4."""

import importlib.metadata
import io

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import P_DATA, MaximumLengthNotification
from pynetdicom.presentation import build_context

from bucky.dimse import Peer, messages

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
CONTEXTS = [(CT, EXPLICIT), (CT, JPEG), (MR, EXPLICIT)]


def test_pynetdicom_is_the_version_this_was_written_for() -> None:
    """These tests speak for one version: another must be looked at before it is used."""
    assert importlib.metadata.version("pynetdicom") == "3.0.4"


def test_a_request_is_the_one_pynetdicom_would_send() -> None:
    """Our C-STORE-RQ command set is byte for byte what pynetdicom encodes."""
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 7, 0
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = UID(CT), UID("1.2.3.4")
    primitive.DataSet = io.BytesIO(b"data")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    assert messages.store_request(7, CT, "1.2.3.4") == encode(message.command_set, True, True)


def test_pynetdicom_reads_our_message_as_the_bytes_we_gave() -> None:
    """A whole message of ours, reassembled by pynetdicom, holds the very data set bytes."""
    content = bytes(range(256)) * 1000
    receiving = C_STORE_RQ()
    command = io.BytesIO(messages.store_request(1, CT, "1.2.3.4"))
    pdus = [*messages.data_pdus(5, command, 512, command=True), *messages.data_pdus(5, io.BytesIO(content), 512)]
    complete = False
    for pdu in pdus:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((pdu[10], pdu[11:]))
        complete = receiving.decode_msg(primitive)
    assert complete
    assert receiving.context_id == 5
    assert receiving.data_set is not None
    assert receiving.data_set.getvalue() == content


@pytest.mark.parametrize(("status", "comment"), [(0x0000, None), (0xA700, "disk full"), (0xB000, "coerced ")])
def test_pynetdicoms_response_is_read(status: int, comment: str | None) -> None:
    """The status and Error Comment of a C-STORE-RSP come out as they went in."""
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = 7
    primitive.Status = status
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = UID(CT), UID("1.2.3.4")
    if comment:
        setattr(primitive, "ErrorComment", comment)  # noqa: B010  its annotation says None
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    response = messages.store_response(encode(message.command_set, True, True) or b"")
    assert (response.message_id, response.status) == (7, status)
    assert response.comment == (comment or "").strip()


def test_the_association_request_proposes_one_transfer_syntax_per_context() -> None:
    """A peer that may choose among syntaxes would get bytes in another one than it chose."""
    request = A_ASSOCIATE_RQ()
    request.decode(messages.associate_request(Peer("PACS", "127.0.0.1", 104, "ME"), CONTEXTS))
    primitive = request.to_primitive()
    assert (primitive.called_ae_title, primitive.calling_ae_title) == ("PACS", "ME")
    proposed = [
        (item.context_id, str(item.abstract_syntax), [str(ts) for ts in item.transfer_syntax])
        for item in primitive.presentation_context_definition_list
    ]
    assert proposed == [(1, CT, [EXPLICIT]), (3, CT, [JPEG]), (5, MR, [EXPLICIT])]


def accepted(result: int, transfer_syntax: str, max_pdu: int = 16384) -> bytes:
    """Return pynetdicom's answer: the first context accepted, the second with this result and syntax."""
    request = A_ASSOCIATE_RQ()
    request.decode(messages.associate_request(Peer("PACS", "127.0.0.1", 104), CONTEXTS))
    primitive = request.to_primitive()
    first, second = build_context(CT, EXPLICIT), build_context(CT, transfer_syntax)
    first.context_id, first.result = 1, 0
    second.context_id, second.result = 3, result
    primitive.presentation_context_definition_results_list = [first, second]
    primitive.result = 0
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    primitive.user_information = [length]
    answer = A_ASSOCIATE_AC()
    answer.from_primitive(primitive)
    return bytes(answer.encode())


def test_acceptance_is_read_per_context() -> None:
    """What the peer refused, or left out, must not be sent; what it accepted goes under its id."""
    read = messages.acceptance(accepted(4, JPEG, 4096), CONTEXTS)
    assert read.accepted == {(CT, EXPLICIT): 1}
    assert read.refused == {(CT, JPEG): 4, (MR, EXPLICIT): -1}
    assert read.max_pdu == 4096


def test_an_acceptance_in_another_syntax_counts_as_refused() -> None:
    """A peer that answers with a syntax nobody proposed must not get bytes it would misread."""
    assert (CT, JPEG) in messages.acceptance(accepted(0, EXPLICIT), CONTEXTS).refused


@pytest.mark.parametrize(
    ("result", "source", "reason", "words"),
    [
        (1, 1, 7, "Rejected (Permanent): Called AE title not recognised"),
        (2, 3, 1, "Rejected (Transient): Temporary congestion"),
        (9, 9, 9, "result 9, source 9, reason 9"),
    ],
)
def test_a_rejection_is_said_in_words(result: int, source: int, reason: int, words: str) -> None:
    """Whoever configures a destination must read why it does not let us in, odd codes too."""
    pdu = A_ASSOCIATE_RJ()
    pdu.decode(bytes((3, 0, 0, 0, 0, 4, 0, result, source, reason)))
    assert messages.rejection(bytes((3, 0, 0, 0, 0, 4, 0, result, source, reason))) == words


def test_a_response_with_a_data_set_is_not_a_response() -> None:
    """A message that is something else must end the association rather than count as an answer."""
    command = decode(io.BytesIO(messages.store_request(1, CT, "1.2.3")), True, True)
    assert isinstance(command, Dataset)
    with pytest.raises(ValueError, match="not a C-STORE response"):
        messages.store_response(messages.store_request(1, CT, "1.2.3"))
