"""Conversations that once broke a rule, found by fuzzing; each is tested from then on."""

from tests.support.dimse.raw_peer import echo

FINDINGS: tuple[bytes, ...] = (
    # An A-ASSOCIATE-RQ shorter than its protocol version raised struct.error.
    bytes([0, 255]) + b"\x01\0\0\0\0\0",
    bytes([0, 255]) + b"\x01\0\0\0\0\x01\0",
    # We asked for release within a P-DATA-TF, whose request then was answered when nothing could be sent any more.
    b"\xa0\x07" + echo(),
    b"\xa1\x07" + echo(),
)
