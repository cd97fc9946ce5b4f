"""Tells people when the spool begins to refuse, and when it accepts again."""

import asyncio

from bucky.log import get_logger
from edge_scp.spool.capacity import SharedCounters, SpoolLimits

log = get_logger("edge")

_LOOK_SECONDS = 0.5


async def watch_spool(counters: SharedCounters, limits: SpoolLimits) -> None:
    """Log each change, until cancelled; `bucky_edge_spool_accepting` and the health page show the state."""
    refusing = False
    while True:
        # Looking also ends the refusal when the spool has become empty enough and nobody sends.
        limits.room()
        if counters.refusing != refusing:
            refusing = counters.refusing
            state = {"bytes": counters.held_bytes, "instances": counters.instances}
            if refusing:
                log.error("spool.refusing", reason="the spool or its disk is full", **state)
            else:
                log.info("spool.accepting", **state)
        await asyncio.sleep(_LOOK_SECONDS)
