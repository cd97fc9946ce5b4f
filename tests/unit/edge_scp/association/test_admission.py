"""Who may open an association, and which syntaxes are negotiated."""

from ipaddress import ip_network

import pytest

from bucky.settings import Settings
from bucky.text.listeners import Listener
from edge_scp.association.admission import (
    CALLED_AET_UNKNOWN,
    CALLING_AET_UNKNOWN,
    NETWORK_NOT_ALLOWED,
    TOO_MANY_ASSOCIATIONS,
    Rejection,
    refusal,
)
from edge_scp.association.storage_syntaxes import Syntaxes

OPEN = Listener()
STRICT = Listener(allow_aets=("CT1", "MR1"), allow_networks=(ip_network("10.1.0.0/16"), ip_network("fd00::/8")))


@pytest.mark.parametrize(
    ("listener", "address", "calling", "called", "too_many", "expected"),
    [
        (OPEN, "127.0.0.1", "ANYONE", "BUCKY", False, None),
        (OPEN, "127.0.0.1", "ANYONE ", " BUCKY ", False, None),
        (OPEN, "192.0.2.1", "ANYONE", "BUCKY", False, NETWORK_NOT_ALLOWED),
        (OPEN, "127.0.0.1", "ANYONE", "bucky", False, CALLED_AET_UNKNOWN),
        (OPEN, "127.0.0.1", "ANYONE", "", False, CALLED_AET_UNKNOWN),
        (OPEN, "127.0.0.1", "ANYONE", "BUCKY", True, TOO_MANY_ASSOCIATIONS),
        (STRICT, "10.1.2.3", "CT1", "BUCKY", False, None),
        (STRICT, "::ffff:10.1.2.3", "CT1", "BUCKY", False, None),
        (STRICT, "fd00::1%eth0", "MR1", "BUCKY", False, None),
        (STRICT, "10.1.2.3", "US1", "BUCKY", False, CALLING_AET_UNKNOWN),
        (STRICT, "10.1.2.3", "", "BUCKY", False, CALLING_AET_UNKNOWN),
        (STRICT, "127.0.0.1", "US1", "WRONG", True, NETWORK_NOT_ALLOWED),
        (STRICT, "::ffff:10.2.2.3", "CT1", "BUCKY", False, NETWORK_NOT_ALLOWED),
    ],
)
def test_admission(
    listener: Listener, address: str, calling: str, called: str, too_many: bool, expected: Rejection | None
) -> None:
    """Network first, then called, then calling AE title, then room: each refused with its own diagnostic."""
    answer = refusal(listener, address=address, calling_aet=calling, called_aet=called, too_many=too_many)
    assert answer == expected


def test_every_storage_class_and_encoding_is_negotiated() -> None:
    """Current, retired and private-by-setting syntaxes are taken, and what is no storage or data set is not."""
    syntaxes = Syntaxes(
        Settings(
            edge_private_transfer_syntaxes=("1.2.840.113619.5.2",),
            edge_private_sop_classes=("1.3.12.2.1107.5.9.1",),
        )
    )
    every = ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.110", "9.9"]
    proposed = [
        ("1.2.840.10008.1.1", ["1.2.840.10008.1.2"]),
        ("1.2.840.10008.5.1.4.1.1.2", every),
        ("1.2.840.10008.5.1.4.1.1.2", ["1.2.840.113619.5.2", "1.2.840.10008.1.2"]),
        ("1.2.840.10008.5.1.4.1.1.6", ["1.2.840.10008.1.2.2"]),  # retired ultrasound
        ("1.3.12.2.1107.5.9.1", ["1.2.840.10008.1.2.1.99"]),
        ("1.2.840.10008.5.1.4.1.2.2.1", every),  # query
        ("1.2.840.10008.5.1.4.38.1", every),  # a hanging protocol belongs to no study
        ("1.2.840.10008.1.3.10", every),  # a DICOMDIR
        ("1.2.840.10008.5.1.4.1.1.4", ["9.9"]),
    ]
    takes = [(uid, syntaxes.known(uid, uids)) for uid, uids in proposed if syntaxes.serves(uid)]
    assert takes == [
        ("1.2.840.10008.1.1", ["1.2.840.10008.1.2"]),
        ("1.2.840.10008.5.1.4.1.1.2", every[:3]),
        ("1.2.840.10008.5.1.4.1.1.2", ["1.2.840.113619.5.2", "1.2.840.10008.1.2"]),
        ("1.2.840.10008.5.1.4.1.1.6", ["1.2.840.10008.1.2.2"]),
        ("1.3.12.2.1107.5.9.1", ["1.2.840.10008.1.2.1.99"]),
        ("1.2.840.10008.5.1.4.1.1.4", []),
    ]
    for uid in ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5"):
        assert uid in syntaxes.transfer_syntaxes
    assert len(syntaxes.storage_sop_classes) > 180
