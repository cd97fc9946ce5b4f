"""Sending instances by DICOM C-STORE with byte identity: the data set goes out exactly as it is stored.

status.py        what each DIMSE status means for a delivery (pure)
messages.py      the PDUs and command sets a C-STORE sender writes and reads (pure)
association.py   one association, requested by us, over one blocking socket
batch.py         many instances to one peer: contexts, associations, one result per instance
"""

from bucky.scu.batch import Outgoing, StoreResult, store_all
from bucky.scu.peer import Peer
from bucky.scu.status import Outcome

__all__ = ["Outcome", "Outgoing", "Peer", "StoreResult", "store_all"]
