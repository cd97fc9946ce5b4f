"""What functions need, loaded once for all that are forked."""

# ruff: noqa: F401
import bucky.decisions
import bucky.forwarding
import bucky.index
import bucky.nearby
import bucky.serve.__main__
from bucky.memory import settle

settle()
