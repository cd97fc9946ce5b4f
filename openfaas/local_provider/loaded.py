"""What functions need, loaded once for all that are forked."""

# ruff: noqa: F401
import bucky.deciding.requests
import bucky.forwarding
import bucky.index
import bucky.serve.__main__
import bucky.store.local_cache
from bucky.runtime.garbage import freeze_loaded

freeze_loaded()
