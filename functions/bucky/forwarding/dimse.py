"""Sending to a DICOM node by C-STORE (PS3.4 Annex B)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bucky.dimse import Peer, store_all
from bucky.dimse.outgoing import Outgoing, StoreResult
from bucky.forwarding.secrets import Secrets
from bucky.forwarding.transcoder import Transcoder
from bucky.routing.destinations import DimseDestination
from bucky.transcode import ALTERNATIVES

LEAST_IN_ASSOCIATION = 16
"""For fewer instances no further association is opened: a small batch is soon sent, a large one has many."""


def peer_of(destination: DimseDestination, secrets: Secrets) -> Peer:
    """Return whom to call; raise `DestinationUnavailable` when a secret is missing."""
    identity = destination.tls_identity_secret
    return Peer(
        aet=destination.aet,
        host=destination.host,
        port=destination.port,
        calling_aet=destination.calling_aet,
        timeout=destination.timeout_seconds,
        tls_ca_file=destination.tls_ca_file,
        tls_identity_file=secrets.file(identity) if identity else None,
    )


class DimseSender:
    """Opens associations for each batch; keeps only what converts, once there was something to convert."""

    def __init__(self, destination: DimseDestination, secrets: Secrets) -> None:
        self._associations = destination.max_associations
        self._transcoder = Transcoder() if destination.transcode == "when-refused" else None
        self._peer = peer_of(destination, secrets)

    def send(self, items: Sequence[Outgoing], *, seconds: float) -> list[StoreResult]:
        """Send every item: as it is, or converted where the node accepts nothing else."""
        offered = [self._with_conversions(item) for item in items]
        associations = min(self._associations, math.ceil(len(items) / LEAST_IN_ASSOCIATION))
        return store_all(self._peer, offered, associations=associations, seconds=seconds)

    def close(self) -> None:
        """End what converts; no association outlives its batch."""
        if self._transcoder is not None:
            self._transcoder.close()

    def _with_conversions(self, item: Outgoing) -> Outgoing:
        own = item.transfer_syntax_uid
        if self._transcoder is None:
            return item
        conversions = {
            syntax: partial(self._transcoder.converted, item.content, own, syntax)
            for syntax in ALTERNATIVES.get(own, ())
        }
        return replace(item, conversions=conversions)
