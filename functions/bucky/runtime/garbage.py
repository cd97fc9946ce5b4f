"""How the garbage collector works in what runs for long."""

import gc

# Python's own are 700, 10 and 10: a service that handles hundreds of events a second then spends its time on
# looking for cycles among the classes and statements it keeps for ever.
_THRESHOLDS = (20_000, 20, 10)


def freeze_loaded() -> None:
    """Leave what has been loaded to the end of the process, and look for cycles in the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
