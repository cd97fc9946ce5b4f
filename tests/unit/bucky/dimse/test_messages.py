import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucky.dimse import Outgoing, Peer, messages
from bucky.dimse.association_items import item
from bucky.dimse.batch import association_groups, contexts_for
from bucky.errors import Permanent


def values_of(pdus: list[bytes]) -> list[tuple[int, int, bytes]]:
    """Take P-DATA-TF PDUs apart by PS3.8 §9.3.5, written here a second time."""
    values = []
    for pdu in pdus:
        kind, length, value_length, context_id, control = struct.unpack_from(">BxIIBB", pdu)
        assert kind == 0x04
        assert length == len(pdu) - 6 == value_length + 4
        values.append((context_id, control, pdu[12:]))
    return values


@given(st.binary(max_size=4000), st.integers(8, 600))
def test_fragments_carry_every_byte_and_respect_the_peer(content: bytes, max_pdu: int) -> None:
    """A data set cut into fragments arrives whole, in PDUs the peer allows, the last one marked."""
    pdus = list(messages.data_pdus(3, io.BytesIO(content), max_pdu))
    values = values_of(pdus)
    assert b"".join(value for _, _, value in values) == content
    assert all(len(pdu) - 6 <= max_pdu for pdu in pdus)
    assert [control for _, control, _ in values] == [0] * (len(values) - 1) + [2]
    assert all(len(value) % 2 == 0 for _, _, value in values[:-1])


def test_a_peer_without_a_limit_gets_bounded_fragments() -> None:
    """A peer that allows any length must not make the sender hold a whole instance in memory."""
    content = bytes(messages.MAX_FRAGMENT * 2 + 1)
    assert [len(value) for _, _, value in values_of(list(messages.data_pdus(1, io.BytesIO(content), 0)))] == [
        messages.MAX_FRAGMENT,
        messages.MAX_FRAGMENT,
        1,
    ]


@pytest.mark.parametrize("max_pdu", [1, 6, 7])
def test_an_impossible_maximum_is_refused(max_pdu: int) -> None:
    """A peer that allows no fragment at all must be an error, not an endless loop."""
    with pytest.raises(ValueError, match="no PDU longer"):
        messages.fragment_size(max_pdu)


@given(st.binary(max_size=200))
def test_random_bytes_never_pass_for_a_response(command: bytes) -> None:
    """Whatever a peer sends, reading it ends in a response or in `ValueError`, never in anything else."""
    try:
        messages.store_response(command)
    except ValueError:
        return


@given(st.binary(max_size=200))
def test_random_bytes_never_break_the_reading_of_fragments(body: bytes) -> None:
    """Malformed presentation data values end in `ValueError`, never in anything else."""
    try:
        list(messages.command_fragments(b"\x04\x00" + struct.pack(">I", len(body)) + body))
    except ValueError:
        return


@given(st.binary(max_size=400))
def test_random_bytes_never_pass_for_an_acceptance(body: bytes) -> None:
    """A malformed A-ASSOCIATE-AC ends in `ValueError`, whatever pynetdicom's decoder raised."""
    try:
        accepted = messages.acceptance(b"\x02\x00" + struct.pack(">I", len(body)) + body, [("1.2", "1.3")])
    except ValueError:
        return
    assert accepted.accepted == {}


CT, MR, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"
PROPOSED = [(CT, EXPLICIT), (MR, EXPLICIT)]
LENGTH, CLASS = item(0x51, struct.pack(">I", 30000)), item(0x52, b"1.2.3")
BOTH = [(1, 0, item(0x40, EXPLICIT.encode())), (3, 0, item(0x40, EXPLICIT.encode()))]


def answer(contexts: list[tuple[int, int, bytes]], user: bytes, fixed: bytes = bytes(68)) -> bytes:
    """Encode an A-ASSOCIATE-AC; each context has its id, its result and its sub-items."""
    results = b"".join(item(0x21, bytes([number, 0, result, 0]) + subs) for number, result, subs in contexts)
    body = fixed + item(0x10, b"1.2.840.10008.3.1.1.1") + results + user
    return struct.pack(">BxI", 2, len(body)) + body


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        (item(0x55, b"A VERY LONG VERSION NAME 1"), "Implementation Version Name is not 1 to 16 ASCII characters"),
        (item(0x55, b"PACS\xdc"), "Implementation Version Name is not 1 to 16 ASCII characters"),
        (item(0x52, b"1.2.3.VENDOR"), "Implementation Class UID is no UID"),
        (item(0x52, b"1." * 40), "Implementation Class UID is no UID"),
        (item(0x53, b"\0"), "Asynchronous Operations Window is not 4 bytes long"),
        (item(0x54, b"\0\xff1.2"), "an SCP/SCU Role Selection is malformed"),
        (item(0x59, b"\0\0"), None),
        (item(0x7E, b"new"), None),
        (b"\x55\0\xff\xffPACS", "in the user information, an item is longer than what holds it"),
    ],
)
def test_what_only_informs_ends_no_association(odd: bytes, told: str | None) -> None:
    """A destination whose A-ASSOCIATE-AC says something odd of itself is sent to all the same; the log hears of it."""
    read = messages.acceptance(answer(BOTH, item(0x50, LENGTH + CLASS + odd)), PROPOSED)
    assert read.accepted == {PROPOSED[0]: 1, PROPOSED[1]: 3}
    assert read.max_pdu == 30000
    assert read.oddities == (() if told is None else (told,))


@pytest.mark.parametrize(
    ("user", "max_pdu"),
    [(b"", 16384), (item(0x50, b""), 0), (item(0x50, item(0x51, b"\0")), 16384), (b"\x50\0\xff\xff" + LENGTH, 30000)],
    ids=["none", "empty", "a cut maximum length", "cut"],
)
def test_user_information_that_says_too_little_ends_nothing(user: bytes, max_pdu: int) -> None:
    """Where the maximum length cannot be read, a peer gets PDUs that every peer takes."""
    read = messages.acceptance(answer(BOTH, user), PROPOSED)
    assert (len(read.accepted), read.max_pdu) == (2, max_pdu)


@pytest.mark.parametrize(
    ("first", "result"),
    [
        ((1, 3, b""), 3),
        ((1, 3, item(0x40, b"")), 3),
        ((1, 4, b"\x40\0\xff\xff"), 4),
        ((1, 0, b"\x40\0\xff\xff"), -1),
        ((1, 0, b""), 0),
        ((1, 0, item(0x40, b"1.2.840.10008.1.2")), 0),
        ((2, 0, item(0x40, EXPLICIT.encode())), -1),
    ],
    ids=["no syntax", "empty", "cut refusal", "cut acceptance", "as nothing", "as another", "even id"],
)
def test_a_malformed_answer_refuses_one_context(first: tuple[int, int, bytes], result: int) -> None:
    """What is wrong with the answer to one context says nothing about the others."""
    read = messages.acceptance(answer([first, BOTH[1]], item(0x50, LENGTH)), PROPOSED)
    assert read.accepted == {PROPOSED[1]: 3}
    assert read.refused == {PROPOSED[0]: result}


def test_padding_unknown_items_and_second_answers_change_nothing() -> None:
    """A transfer syntax padded with a NUL is the one that was proposed, and the first answer to a context counts."""
    padded = (1, 0, item(0x77, b"new") + item(0x40, EXPLICIT.encode() + b"\0"))
    read = messages.acceptance(answer([padded, (1, 4, b""), BOTH[1]], item(0x77, b"") + item(0x50, LENGTH)), PROPOSED)
    assert read.accepted == {PROPOSED[0]: 1, PROPOSED[1]: 3}


@pytest.mark.parametrize("cut", [1, 13, 50, 80])
def test_an_answer_cut_short_is_none(cut: int) -> None:
    """What ends within its fixed fields or its contexts does not tell what was agreed on."""
    whole = answer(BOTH, item(0x50, LENGTH))
    with pytest.raises(ValueError, match=r"cut short|longer than"):
        messages.acceptance(whole[: len(whole) - cut] if cut > 1 else whole[:50], PROPOSED)


def response(*left_out: int, data_set_type: int = 0x0101) -> bytes:
    """Encode a C-STORE-RSP without some of its elements."""
    elements = {0x0100: 0x8001, 0x0120: 7, 0x0800: data_set_type, 0x0900: 0}
    return b"".join(
        messages.element(number, struct.pack("<H", value))
        for number, value in elements.items()
        if number not in left_out
    )


def test_a_response_without_a_data_set_type_is_one() -> None:
    """A C-STORE-RSP never has a data set, so one that does not say so is understood, as DCMTK does."""
    assert messages.store_response(response(0x0800)) == messages.StoreResponse(7, 0, "")
    assert messages.store_response(response()) == messages.StoreResponse(7, 0, "")


@pytest.mark.parametrize("wrong", [response(data_set_type=1), response(0x0100), response(0x0120), response(0x0900)])
def test_a_response_that_lacks_more_is_none(wrong: bytes) -> None:
    """Without its status or its message id nobody knows what became of an instance."""
    with pytest.raises(ValueError, match="response"):
        messages.store_response(wrong)


def outgoing(sop_class: int, syntax: int) -> Outgoing:
    """Return an item that can go in its own transfer syntax, and in one more."""
    return Outgoing(f"1.2.{sop_class}", "1.2.3", f"1.3.{syntax}", io.BytesIO, {"1.4": io.BytesIO})


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=400))
def test_groups_keep_every_item_once_in_order_within_128_contexts(pairs: list[tuple[int, int]]) -> None:
    """An association proposes at most 128 contexts, and cutting a batch into several loses no instance."""
    items = [outgoing(*pair) for pair in pairs]
    groups = list(association_groups(items, range(len(items))))
    assert [index for group in groups for index in group] == list(range(len(items)))
    assert all(len({context for index in group for context in contexts_for(items[index])}) <= 128 for group in groups)


def test_an_address_is_read_as_people_write_it() -> None:
    """`bucky send --to` takes AET@host:port, names and IPv6 addresses alike."""
    assert Peer.parse("BUCKY@localhost:11112") == Peer("BUCKY", "localhost", 11112)
    assert Peer.parse("OLD PACS@[::1]:104") == Peer("OLD PACS", "::1", 104)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "BUCKY",
        "BUCKY@host",
        "@host:104",
        "B@host:0",
        "B@host:70000",
        "A" * 17 + "@h:1",
        " @h:1",
        "ÄET@h:1",
        "A\\B@h:1",
    ],
)
def test_a_wrong_address_says_what_is_right(address: str) -> None:
    """A typing error in `--to` must be answered with the form that is expected."""
    with pytest.raises(Permanent, match="AET@host:port"):
        Peer.parse(address)
