"""How much longer than usual the soaks last: `make test-soak` sets it."""

import os

SOAK = int(os.environ.get("TEST_SOAK", "1"))
