"""What a home had when it last ran: its index, its objects and its streams; a start that finds others refuses.

An empty index has no routing, so that what waits in the streams would become dead letters; an empty bucket has no
bytes; streams made anew have forgotten what waited. Each may be meant, and somebody must say so.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from bucky.broker.streams import STREAMS
from bucky.errors import BuckyError, NotFound
from bucky.index import Index
from bucky.store.objects import ObjectStore
from local_stack.layout import CannotStart

SAMPLE = 5
GO_ON = "If this is meant, start once with `bucky up --accept-changes`"


@dataclass(frozen=True)
class Belongings:
    """The routing version of the index, whether it has instances, a sample of their keys, and each stream's birth."""

    routing_version: int = 0
    routing_began: str = ""
    has_instances: bool = False
    keys: tuple[str, ...] = ()
    streams: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what was noted; a home that never ran has nothing."""
        if not file.is_file():
            return cls()
        noted = json.loads(file.read_text())
        return cls(**{**noted, "keys": tuple(noted["keys"])})

    def write(self, file: Path) -> None:
        """Note it, replacing what was noted before as one step."""
        draft = file.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self), indent=2))
        draft.replace(file)


def in_index(index: Index, streams: dict[str, str]) -> Belongings:
    """Return what an index has, with the births of the streams beside it."""
    routing = index.routing()
    began: datetime | None = index.routing_version(1).created_at if routing.version else None
    rows = [row for study_uid in index.study_uids(limit=SAMPLE) for row in index.instances(study_uid, limit=1)]
    return Belongings(
        routing.version,
        began.isoformat() if began is not None else "",
        has_instances=bool(rows),
        keys=tuple(sorted(row.key for row in rows)),
        streams=streams,
    )


async def stream_births(js: JetStreamContext) -> dict[str, str]:
    """Return when each of Bucky's streams was made, without those that are not there."""
    births = {}
    for stream in STREAMS:
        try:
            info = await js.stream_info(str(stream.name))
        except NotFoundError:
            continue
        births[str(stream.name)] = str(info.created)
    return births


def check(had: Belongings, found: Belongings, objects: ObjectStore) -> None:
    """Raise `CannotStart` when an index, a bucket or a stream is not what this home had."""
    for problem in (*_index(had, found), *_bucket(had, objects), *_streams(had, found)):
        raise CannotStart(problem)


def _index(had: Belongings, found: Belongings) -> Iterator[str]:
    other_routing = found.routing_version < had.routing_version or (
        bool(had.routing_began) and found.routing_began != had.routing_began
    )
    if not other_routing and (found.has_instances or not had.has_instances):
        return
    lacks = (
        f"it has routing version {found.routing_version or 'none'}, and version {had.routing_version} was in force"
        if other_routing
        else "it has no instances, and it had some"
    )
    yield (
        f"the index is another one than this home had: {lacks}. Started so, what waits to be delivered would become "
        f"dead letters. Put the index back, or correct BUCKY_INDEX_URL. {GO_ON}; `bucky reindex` then fills it from "
        "the bucket, and `bucky routing apply` restores the routing"
    )


def _bucket(had: Belongings, objects: ObjectStore) -> Iterator[str]:
    if had.keys and not any(_is_there(objects, key) for key in had.keys):
        yield (
            f"the bucket is another one than this home had: it has none of {len(had.keys)} objects that were in it, "
            "such as " + had.keys[0] + ". Put the objects back, or correct BUCKY_STORE_ENDPOINT and "
            f"BUCKY_STORE_BUCKET. {GO_ON}; what is missing then stays missing"
        )


def _streams(had: Belongings, found: Belongings) -> Iterator[str]:
    others = sorted(name for name, birth in had.streams.items() if found.streams.get(name) != birth)
    if others:
        yield (
            f"the broker has not the streams that this home had: {', '.join(others)} are missing or others. What "
            "waited in them would wait for the next reconciling. Put the broker's folder back, or correct "
            f"BUCKY_NATS_URL. {GO_ON}; `bucky reconcile` then publishes again what waited"
        )


def _is_there(objects: ObjectStore, key: str) -> bool:
    try:
        return objects.size(key) >= 0
    except NotFound:
        return False


def index_of(url: str, streams: dict[str, str]) -> Belongings | None:
    """Return what the index at a URL has, or None while it does not answer."""
    index = Index.open(url)
    try:
        return in_index(index, streams)
    except BuckyError:
        return None
    finally:
        index.close()
