"""Sending a batch of instances to one destination of any kind: one result for each instance.

senders.py       the seam: what a kind must do, and the open senders of a process, one for each destination
places.py        where destinations may be
secrets.py       what destinations name and do not hold
in_units.py      a few units of a batch at once, and when to leave a destination alone
part10_file.py   an instance as a DICOM file, and its place among others
dimse.py         C-STORE, through `bucky.dimse`; transcoder.py converts what a node does not accept
folder.py        files in a mounted directory
s3.py            objects in a bucket
stow.py          STOW-RS; stow_request.py and stow_answer.py are its messages

A new kind is a model in `bucky.routing.destinations`, a module here, a line in `senders.py`, and a world in
`tests/support/destinations/destination_worlds.py`, where every kind passes the same suite.
"""

from bucky.forwarding.places import Places
from bucky.forwarding.secrets import Secrets
from bucky.forwarding.senders import Sender, Senders

__all__ = ["Places", "Secrets", "Sender", "Senders"]
