import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucky.errors import Permanent
from bucky.scu import Outgoing, Peer, messages
from bucky.scu.batch import association_groups, contexts_for


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
