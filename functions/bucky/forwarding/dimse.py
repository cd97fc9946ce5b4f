"""Sending to a DICOM node by C-STORE (PS3.4 Annex B)."""

from collections.abc import Sequence

from bucky.destinations import DimseDestination
from bucky.forwarding.secrets import Secrets
from bucky.outgoing import Outgoing, StoreResult
from bucky.scu import Peer, store_all


class DimseSender:
    """Opens associations for each batch and keeps nothing in between."""

    def __init__(self, destination: DimseDestination, secrets: Secrets) -> None:
        identity = destination.tls_identity_secret
        self._associations = destination.max_associations
        self._peer = Peer(
            aet=destination.aet,
            host=destination.host,
            port=destination.port,
            calling_aet=destination.calling_aet,
            timeout=destination.timeout_seconds,
            tls_ca_file=destination.tls_ca_file,
            tls_identity_file=secrets.file(identity) if identity else None,
        )

    def send(self, items: Sequence[Outgoing], *, seconds: float) -> list[StoreResult]:
        """Send every item."""
        return store_all(self._peer, items, associations=self._associations, seconds=seconds)

    def close(self) -> None:
        """Do nothing: no association outlives its batch."""
