"""Command sets, against pynetdicom's encoding and decoding of the same."""

from io import BytesIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode
from pynetdicom.pdu import P_DATA_TF

from edge_scp.association import dimse
from edge_scp.association.dimse import MalformedCommand, Request, read_request, response_pdus

CT = "1.2.840.10008.5.1.4.1.1.2"
uids = st.lists(st.integers(0, 10**6).map(str), min_size=2, max_size=6).map(".".join)


def store_command(sop_class: str, sop_instance: str, message_id: int, *, move: bool = False) -> bytes:
    """Return the command set of a C-STORE-RQ as pynetdicom encodes it."""
    request = C_STORE()
    request.MessageID, request.Priority = message_id, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = UID(sop_class), UID(sop_instance)
    if move:
        request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID = "MOVER", 3
    request.DataSet = BytesIO(b"data")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    primitive = next(iter(message.encode_msg(1, 0)))
    return bytes(primitive.presentation_data_value_list[0][1][1:])


@given(uids, uids, st.integers(0, 65535), st.booleans())
def test_requests_that_pynetdicom_encodes(sop_class: str, sop_instance: str, message_id: int, move: bool) -> None:
    """Odd and even UIDs, any message id, with and without the elements of a C-MOVE behind it."""
    command = store_command(sop_class, sop_instance, message_id, move=move)
    assert read_request(command) == Request(dimse.C_STORE_RQ, message_id, True, sop_class, sop_instance)


@given(uids, uids, st.integers(0, 65535), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4))
@example("1.20", "1.30", 1, [(8 + 4 + 4, 3)])
def test_the_usual_request_is_read_as_any_other(
    sop_class: str, sop_instance: str, message_id: int, damage: list[tuple[int, int]]
) -> None:
    """Whole or damaged, the short way for a C-STORE-RQ finds what the long way does, or the same fault."""
    command = bytearray(store_command(sop_class, sop_instance, message_id))
    for at, value in damage:
        command[at % len(command)] = value
    expected: Request | str
    try:
        expected = dimse._read_any_request(bytes(command))
    except MalformedCommand as error:
        expected = str(error)
    found: Request | str
    try:
        found = read_request(bytes(command))
    except MalformedCommand as error:
        found = str(error)
    assert found == expected


@given(
    uids, uids, st.integers(0, 65535), st.sampled_from([0x0000, 0xA700, 0xC000]), st.sampled_from(["", "full", "odd"])
)
@pytest.mark.parametrize("max_pdu", [0, 64, 16384])
def test_responses_are_those_that_pynetdicom_reads(
    max_pdu: int, sop_class: str, sop_instance: str, message_id: int, status: int, comment: str
) -> None:
    """The response, in as many PDUs as the peer takes, says what was answered and to what."""
    request = Request(dimse.C_STORE_RQ, message_id, True, sop_class, sop_instance)
    stream = response_pdus(3, request, status, comment, max_pdu)
    command_set, at = b"", 0
    while at < len(stream):
        length = 6 + int.from_bytes(stream[at + 2 : at + 6], "big")
        assert not max_pdu or length - 6 <= max_pdu
        pdu = P_DATA_TF()
        pdu.decode(stream[at : at + length])
        for item in pdu.presentation_data_value_items:
            assert item.presentation_context_id == 3
            command_set += (item.presentation_data_value or b" ")[1:]
        at += length
    command = decode(BytesIO(command_set), True, True)
    assert command.CommandField == 0x8001
    assert command.CommandGroupLength == len(command_set) - 12
    assert (command.MessageIDBeingRespondedTo, command.Status) == (message_id, status)
    assert (command.AffectedSOPClassUID, command.AffectedSOPInstanceUID) == (sop_class, sop_instance)
    assert command.get("ErrorComment", "") == comment
    assert command.CommandDataSetType == 0x0101
