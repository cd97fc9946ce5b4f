"""Sending instances by DICOM C-STORE with byte identity: the data set goes out exactly as it is stored.

outgoing.py      an instance to be sent, and what came of it
status.py        what each DIMSE status means for a delivery (pure)
messages.py      the PDUs and command sets a C-STORE sender writes and reads (pure)
association.py   one association, requested by us, over one blocking socket
batch.py         many instances to one peer: contexts, associations, one result per instance
commitment.py    the data sets of storage commitment (PS3.4 §J); commitment_scu.py asks a peer to commit
"""

from bucky.dimse.batch import store_all
from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult
from bucky.dimse.peer import Peer

__all__ = ["Outcome", "Outgoing", "Peer", "StoreResult", "store_all"]
