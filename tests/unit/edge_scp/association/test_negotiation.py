"""What is answered to an A-ASSOCIATE-RQ, and what is refused before it costs anything."""

import struct
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC

from bucky.dimse import Peer
from bucky.dimse.messages import acceptance, associate_request
from bucky.settings import Settings
from edge_scp.association.negotiation import AssociateRequest, Negotiator, PresentationContext, is_ae_title
from edge_scp.association.pdu import InvalidPdu
from edge_scp.association.storage_syntaxes import STORAGE_COMMITMENT, VERIFICATION, Syntaxes

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
SYNTAXES = Syntaxes(Settings())
FIXED = struct.pack(">HH16s16s32s", 1, 0, b"BUCKY".ljust(16), b"CT1".ljust(16), bytes(range(32)))


def item(kind: int, content: bytes) -> bytes:
    """Encode an item (PS3.8 §9.3.2)."""
    return struct.pack(">BxH", kind, len(content)) + content


def context(context_id: int, abstract: str = CT, transfer: tuple[str, ...] = (EXPLICIT,)) -> bytes:
    """Encode a presentation context item."""
    syntaxes = b"".join(item(0x40, uid.encode()) for uid in transfer)
    return item(0x20, bytes([context_id, 0, 0, 0]) + item(0x30, abstract.encode()) + syntaxes)


APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
LENGTH, CLASS = item(0x51, struct.pack(">I", 16384)), item(0x52, b"1.2.3")
USER = item(0x50, LENGTH + CLASS)


def asked(items: bytes) -> AssociateRequest:
    """Return a request with these items."""
    return AssociateRequest.read(FIXED + items)


def negotiator() -> Negotiator:
    """Return one that has seen nothing yet."""
    return Negotiator(SYNTAXES, 131072)


def test_each_context_is_answered_by_itself() -> None:
    """Known syntaxes are accepted in the caller's order; unknown ones have their own results."""
    contexts = [
        context(1, CT, ("9.9", IMPLICIT, EXPLICIT)),
        context(3, MR, ("9.9",)),
        context(5, "1.2.840.10008.5.1.4.1.2.2.1"),
        context(7, CT, (EXPLICIT,)),
        context(255, VERIFICATION, (IMPLICIT,)),
    ]
    agreement = negotiator().agreement(asked(APPLICATION + b"".join(contexts) + USER))
    assert agreement.contexts == {
        1: PresentationContext(CT, IMPLICIT),
        7: PresentationContext(CT, EXPLICIT),
        255: PresentationContext(VERIFICATION, IMPLICIT),
    }
    assert (agreement.refused, agreement.peer_max_pdu) == (2, 16384)


def test_the_reply_is_one_that_pynetdicom_reads() -> None:
    """The A-ASSOCIATE-AC says who we are and what we take, and sends the request's own fields back."""
    request = asked(APPLICATION + context(1) + context(3, MR, ("9.9",)) + USER)
    reply = negotiator().agreement(request).reply(request)
    assert reply[10:74] == FIXED[4:]
    decoded = A_ASSOCIATE_AC()
    decoded.decode(reply)
    assert decoded.protocol_version == 1
    assert [(one.context_id, one.result) for one in decoded.presentation_context] == [(1, 0), (3, 4)]
    assert decoded.user_information is not None
    assert decoded.user_information.maximum_length == 131072
    assert decoded.user_information.implementation_version_name == "BUCKY_0_1"


def test_a_proposal_that_comes_again_is_answered_from_memory() -> None:
    """The same proposal gets the same agreement, with its own AE titles; and memory is bounded."""
    same = negotiator()
    peer = Peer("BUCKY", "127.0.0.1", 1, calling_aet="CT1")
    request = associate_request(peer, [(CT, EXPLICIT)])
    agreement = same.agreement(AssociateRequest.read(request[6:]))
    other = associate_request(Peer("BUCKY", "127.0.0.1", 1, calling_aet="CT2"), [(CT, EXPLICIT)])
    read = AssociateRequest.read(other[6:])
    assert same.agreement(read) is agreement
    assert acceptance(agreement.reply(read), [(CT, EXPLICIT)]).accepted == {(CT, EXPLICIT): 1}
    for number in range(600):
        same.agreement(asked(APPLICATION + context(1, f"1.2.{number}") + USER))
    assert len(same._remembered) <= 256


def test_items_of_unknown_types_are_passed_over() -> None:
    """What a later edition of the standard adds does not end the association (PS3.8 §9.3.1)."""
    user = item(0x50, item(0x7E, b"new") + LENGTH + CLASS + item(0x58, b"\x02\x01\0\x04user\0\x06secret"))
    agreement = negotiator().agreement(asked(item(0x77, b"new") + APPLICATION + context(1) + user))
    assert list(agreement.contexts) == [1]


def test_odd_uids_are_refused_by_themselves_and_warned_of_nowhere() -> None:
    """A context with an odd UID is refused and the others are not; no warning repeats what a stranger sent."""
    odd = context(1, "1.02.x") + context(3, CT, ("abc", EXPLICIT)) + context(5)
    with warnings.catch_warnings(record=True) as warned:
        agreement = negotiator().agreement(asked(APPLICATION + odd + USER))
    assert list(agreement.contexts) == [3, 5]
    assert warned == []


def results(items: bytes) -> list[tuple[int, int, str]]:
    """Return id, result and transfer syntax of each context answered, as pynetdicom reads the A-ASSOCIATE-AC."""
    request = asked(items)
    decoded = A_ASSOCIATE_AC()
    decoded.decode(negotiator().agreement(request).reply(request))
    return [(one.context_id or 0, one.result or 0, str(one.transfer_syntax)) for one in decoded.presentation_context]


ROLE = struct.pack(">H", len(CT)) + CT.encode()


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (item(0x55, b"VENDOR_WORKSTATION_7.0.12"), "Implementation Version Name is not 1 to 16 ASCII characters"),
        (item(0x55, "PACS-SÜD".encode("latin-1")), "Implementation Version Name is not 1 to 16 ASCII characters"),
        (item(0x55, b""), "Implementation Version Name is not 1 to 16 ASCII characters"),
        (item(0x52, b"1.2.3.VENDOR"), "Implementation Class UID is no UID"),
        (item(0x52, b"1." * 40), "Implementation Class UID is no UID"),
        (item(0x52, b""), "Implementation Class UID is no UID"),
        (item(0x51, b"\0"), "Maximum Length Received is not 4 bytes long"),
        (item(0x53, b"\0\x05"), "Asynchronous Operations Window is not 4 bytes long"),
        (item(0x53, b"\0\x05\0\x05"), None),
        (item(0x54, ROLE[:9]), "an SCP/SCU Role Selection is malformed"),
        (item(0x54, b""), "an SCP/SCU Role Selection is malformed"),
        (item(0x54, ROLE + b"\0\0"), "an SCP/SCU Role Selection is malformed"),
        (item(0x56, b"\xff\xff"), None),
        (item(0x57, b"\0"), None),
        (item(0x58, b"\x09\x01\xff\xff"), None),
        (item(0x59, b"\0\0"), None),
        (item(0x00, b""), None),
        (b"\x55\0\xff\xffPACS", "in the user information, an item is longer than what holds it"),
        (b"\x55\0", "in the user information, an item is cut short"),
    ],
)
def test_what_only_informs_refuses_nothing(odd: bytes, told: str | None) -> None:
    """Whatever the user information says of the peer, its images are taken (PS3.7 §D.3.3.2); the log hears of it."""
    items = APPLICATION + context(1) + context(3, MR) + item(0x50, LENGTH + CLASS + odd)
    assert results(items) == [(1, 0, EXPLICIT), (3, 0, EXPLICIT)]
    assert negotiator().agreement(asked(items)).oddities == (() if told is None else (told,))
    alone = APPLICATION + context(1) + item(0x50, odd)
    assert results(alone) == [(1, 0, EXPLICIT)]


@pytest.mark.parametrize("ending", [b"", item(0x50, b""), b"\x50\0\xff\xff" + LENGTH, b"\x50\0\xff\xff"])
def test_user_information_that_is_missing_or_cut_refuses_nothing(ending: bytes) -> None:
    """User information that is not there, or ends with its PDU, says less and ends nothing."""
    assert results(APPLICATION + context(1) + ending) == [(1, 0, EXPLICIT)]


CUT = bytes([3, 0, 0, 0]) + item(0x30, CT.encode()) + b"\x40\0\xff\xff1.2"


@pytest.mark.parametrize(
    ("odd", "answers", "told"),
    [
        (context(2, MR), [(1, 0), (2, 2), (5, 0)], "presentation context 2 has an even id"),
        (context(0, MR), [(1, 0), (0, 2), (5, 0)], "presentation context 0 has an even id"),
        (context(1, MR), [(1, 0), (5, 0)], "presentation context 1 has the id of another"),
        (context(1), [(1, 0), (5, 0)], "presentation context 1 has the id of another"),
        (item(0x20, CUT), [(1, 0), (3, 2), (5, 0)], "presentation context 3 has items that do not fit in it"),
        (
            item(0x20, b"\x03"),
            [(1, 0), (3, 2), (5, 0)],
            "presentation context 3 has not one abstract syntax and some transfer syntax",
        ),
        (
            item(0x20, b"\x03\0\0\0" + item(0x30, CT.encode())),
            [(1, 0), (3, 2), (5, 0)],
            "presentation context 3 has not one abstract syntax and some transfer syntax",
        ),
        (item(0x20, b""), [(1, 0), (5, 0)], "a presentation context has no id"),
    ],
    ids=["even", "zero", "twice", "the same twice", "cut", "only an id", "no transfer syntax", "nothing"],
)
def test_an_odd_context_is_refused_alone(odd: bytes, answers: list[tuple[int, int]], told: str) -> None:
    """The other contexts are served; of two with one id, the first is, and is answered once (PS3.8 §9.3.2.2)."""
    items = APPLICATION + context(1) + odd + context(5) + USER
    assert [(number, result) for number, result, _ in results(items)] == answers
    agreement = negotiator().agreement(asked(items))
    assert agreement.contexts == {1: PresentationContext(CT, EXPLICIT), 5: PresentationContext(CT, EXPLICIT)}
    assert agreement.oddities == (told,)


def test_unknown_sub_items_and_padding_are_passed_over() -> None:
    """What is padded, or of a type not known, is read as DCMTK reads it."""
    padded = item(0x30, CT.encode() + b"\0") + item(0x77, b"new") + item(0x40, b"1.2.840.10008.1.2 ")
    items = item(0x10, b"1.2.840.10008.3.1.1.1\0") + item(0x20, b"\x01\0\0\0" + padded) + USER
    assert results(items) == [(1, 0, IMPLICIT)]
    assert negotiator().agreement(asked(items)).oddities == ()


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ((BIG, EXPLICIT, IMPLICIT), EXPLICIT),
        ((BIG, IMPLICIT), IMPLICIT),
        ((IMPLICIT, BIG, EXPLICIT), IMPLICIT),
        ((BIG, "9.9"), BIG),
        ((BIG,), BIG),
    ],
)
def test_little_endian_is_preferred(proposed: tuple[str, ...], chosen: str) -> None:
    """Big endian, retired in 2006, is agreed on only with a caller that has nothing else."""
    assert results(APPLICATION + context(1, CT, proposed) + USER) == [(1, 0, chosen)]


@pytest.mark.parametrize(("scu", "scp", "result"), [(1, 1, 0), (1, 0, 0), (0, 1, 1), (0, 0, 0)])
def test_storage_is_served_to_scus(scu: int, scp: int, result: int) -> None:
    """A caller that would only be the SCP of a storage class is told no; roles of nobody mean the usual ones."""
    items = APPLICATION + context(1) + item(0x50, LENGTH + CLASS + item(0x54, ROLE + bytes([scu, scp])))
    assert [answer for _, answer, _ in results(items)] == [result]


def test_a_peer_without_a_maximum_length_has_none() -> None:
    """A maximum length left out is no limit (PS3.8 §D.1)."""
    assert negotiator().agreement(asked(APPLICATION + context(1) + item(0x50, CLASS))).peer_max_pdu == 0


@pytest.mark.parametrize(
    "items",
    [
        b"",
        APPLICATION + USER,
        APPLICATION + item(0x20, b"") + USER,
        APPLICATION + context(1) + item(0x50, item(0x51, struct.pack(">I", 5)) + CLASS),
        APPLICATION + context(1) + b"\x20\0\xff\xff",
        APPLICATION + context(1) + b"\x50\0",
        APPLICATION + b"".join(context(1) for _ in range(257)) + USER,
        APPLICATION + item(0x20, b"\x01\0\0\0" + item(0x40, b"") * 16000) + USER,
        item(0x77, b"") * 60000,
    ],
    ids=[
        "nothing",
        "no context",
        "a context without an id",
        "useless maximum length",
        "item too long",
        "cut item",
        "257 contexts",
        "16000 syntaxes",
        "60000 unknown items",
    ],
)
def test_malformed_and_absurd_requests_are_invalid_at_once(items: bytes) -> None:
    """Each is refused in well under the time that would hold up the other associations of a process."""
    began = time.thread_time()
    with pytest.raises(InvalidPdu):
        negotiator().agreement(asked(items))
    assert time.thread_time() - began < 0.5


def test_a_request_shorter_than_its_fixed_fields_is_invalid() -> None:
    """An A-ASSOCIATE-RQ that ends within its AE titles is no request."""
    with pytest.raises(InvalidPdu):
        AssociateRequest.read(FIXED[:67])


@given(st.binary(max_size=300), st.integers(0, 400))
def test_random_items_are_answered_or_invalid(noise: bytes, at: int) -> None:
    """Noise written over a good request is answered or refused, and nothing else."""
    good = APPLICATION + context(1) + context(3, MR) + USER
    items = good[:at] + noise + good[at + len(noise) :]
    try:
        negotiator().agreement(asked(items))
    except InvalidPdu:
        return


@pytest.mark.parametrize(
    ("title", "valid"),
    [("CT1", True), ("A B", True), ("", False), ("A\\B", False), ("A\nB", False), ("Ä", False), ("�", False)],
)
def test_ae_titles(title: str, valid: bool) -> None:
    """Only what VR AE allows is let in, since it is written to files and logs (PS3.5 §6.2)."""
    assert is_ae_title(title) is valid


@pytest.mark.parametrize(
    ("scu", "scp", "result", "answered"), [(0, 1, 0, (0, 1)), (1, 1, 0, (0, 1)), (1, 0, 3, None), (None, None, 3, None)]
)
def test_storage_commitment_is_for_those_that_report(
    scu: int | None, scp: int | None, result: int, answered: tuple[int, int] | None
) -> None:
    """A node may be the SCP, which reports; one that would ask us for a commitment is refused before it asks."""
    proposed = context(1, STORAGE_COMMITMENT, (EXPLICIT, IMPLICIT))
    uid = STORAGE_COMMITMENT.encode()
    role = b"" if scu is None else item(0x54, struct.pack(">H", len(uid)) + uid + bytes([scu, scp or 0]))
    request = asked(APPLICATION + proposed + item(0x50, LENGTH + CLASS + role))
    agreement = negotiator().agreement(request)
    reply = A_ASSOCIATE_AC()
    reply.decode(agreement.reply(request))
    (answer,) = reply.presentation_context
    assert answer.result == result
    assert reply.user_information is not None
    assert [(one.scu_role, one.scp_role) for one in reply.user_information.role_selection.values()] == (
        [] if answered is None else [answered]
    )


@pytest.mark.parametrize("field", [b"CT1", b"  CT1", b"CT1\0\0", b"CT1\0rest", b"\0CT1 \0x", b"CT1 "])
def test_padding_of_ae_titles_means_nothing(field: bytes) -> None:
    """Titles padded with NULs, or with what a buffer held behind one, are those that were meant."""
    fixed = FIXED[:4] + field.ljust(16) + field.ljust(16, b"\0") + FIXED[36:]
    request = AssociateRequest.read(fixed + APPLICATION + context(1) + USER)
    assert (request.called_aet, request.calling_aet) == ("CT1", "CT1")
