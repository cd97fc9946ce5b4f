"""Conversations that once broke a rule, found by fuzzing; each is tested from then on."""

FINDINGS: tuple[bytes, ...] = (
    # An A-ASSOCIATE-RQ shorter than its protocol version raised struct.error.
    bytes([0, 255]) + b"\x01\0\0\0\0\0",
    bytes([0, 255]) + b"\x01\0\0\0\0\x01\0",
)
