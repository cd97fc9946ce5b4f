"""The bandwidth of a destination, shared by all that send to it: a token bucket in one row.

The row says when the bandwidth that was given out so far will have been used up. Who wants to send takes
the next piece of time behind that, in one statement, and sends when its time has come.
"""

from sqlalchemy import Connection, case

from bucky.index.database import insert_into
from bucky.index.schema import bandwidth

# What lies further ahead was written by a clock that was wrong, or at another rate.
MOST_SECONDS_AHEAD = 120.0


def take(connection: Connection, destination: str, count: int, bytes_per_second: int, now: float) -> float:
    """Give out a number of bytes; return the seconds from `now` (Unix time) until they may be sent."""
    lasts = count / bytes_per_second
    free_at = bandwidth.c.free_at
    begins = case(((free_at > now) & (free_at < now + MOST_SECONDS_AHEAD), free_at), else_=now)
    statement = (
        insert_into(connection, bandwidth)
        .values(destination=destination, free_at=now + lasts)
        .on_conflict_do_update(index_elements=["destination"], set_={"free_at": begins + lasts})
        .returning(bandwidth.c.free_at)
    )
    ends: float = connection.execute(statement).scalar_one()
    return max(0.0, ends - lasts - now)
