"""`bucky reindex`: the whole index anew, from the bucket alone.

Studies are read in the order they are listed, many headers at a time, and written some hundred instances in
a transaction, while the next are being read. A study that is written is noted in the same transaction, so a
run that was killed goes on where it was.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from bucky.errors import Retriable
from bucky.index import Index, InstanceRows, Rebuilt, StudyAttributes, StudyPart
from bucky.store.objects import ObjectStore
from keeper.bucket_studies import BucketStudies, InstanceObject, StudyObjects, read_decisions
from keeper.readers import Reader

WRITTEN_AT_ONCE = 500
# Enough for a process to be busy while the next are on their way to it, few enough to share among processes.
READ_TOGETHER = 25

Advance = Callable[[int], None]


@dataclass(slots=True)
class ReindexReport:
    """What a reindexing did; `missing` are digests of rows whose object is not in the bucket."""

    studies: int = 0
    objects: int = 0
    resumed: int = 0
    new: int = 0
    changed: int = 0
    same: int = 0
    missing: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    pruned: bool = False
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Objects for each second."""
        return self.objects / self.seconds if self.seconds else 0.0

    def as_data(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {**asdict(self), "seconds": round(self.seconds, 3), "objects_per_second": round(self.rate, 1)}


@dataclass(slots=True)
class _Work:
    """Parts of studies whose headers are being read, to be written in one transaction."""

    parts: list[tuple[StudyPart, list[InstanceObject]]] = field(default_factory=list)
    reads: list[Future[list[InstanceRows | None]]] = field(default_factory=list)

    @property
    def objects(self) -> int:
        """How many objects it is about."""
        return sum(len(some) for _, some in self.parts)


class Reindex:
    """One run; `restart` forgets how far an earlier one came, `prune` removes rows that have no object."""

    def __init__(
        self,
        objects: ObjectStore,
        index: Index,
        bucket: str,
        reader: Reader,
        *,
        restart: bool = False,
        prune: bool = False,
    ) -> None:
        self._objects, self._index, self._bucket, self._reader = objects, index, bucket, reader
        self._restart, self._prune = restart, prune

    def run(self, advance: Advance = lambda _count: None) -> ReindexReport:
        """Rebuild, and call `advance` with the number of objects done since the last call."""
        began = time.monotonic()
        report = ReindexReport(pruned=self._prune)
        started_at, done = self._index.begin_reindex(self._bucket, restart=self._restart)
        # Before any instance: which bytes are current is not decided anew.
        self._index.restore_decisions(read_decisions(self._objects))
        listed = BucketStudies(self._objects)
        under_way: deque[_Work] = deque()

        def write() -> None:
            work = under_way.popleft()
            self._add(report, self._index.rebuild(self._read(work, report), started_at, prune=self._prune))
            report.objects += work.objects
            advance(work.objects)

        for batch in _batches(self._still_to_do(listed, done, report, advance)):
            for work in self._works(batch):
                under_way.append(work)
                if len(under_way) > 1:
                    write()
        while under_way:
            write()
        report.missing += self._index.finish_reindex(started_at, prune=self._prune)
        report.foreign = listed.foreign
        report.seconds = time.monotonic() - began
        return report

    def _still_to_do(
        self, listed: BucketStudies, done: set[str], report: ReindexReport, advance: Advance
    ) -> Iterator[StudyObjects]:
        for study in listed:
            if study.study_instance_uid in done:
                report.resumed += len(study.objects)
                advance(len(study.objects))
            else:
                report.studies += 1
                yield study

    def _works(self, batch: Sequence[StudyObjects]) -> Iterator[_Work]:
        """Begin to read a batch of studies: all in one piece of work, or one large study in several."""
        received = self._index.received_times([study.study_instance_uid for study in batch])
        work = _Work()
        for study in batch:
            # The order that instances were received in, as far as anybody knows.
            ordered = sorted(
                study.objects,
                key=lambda one: (received.get(one.parts.sha256, one.object.modified), *one.parts),
            )
            attributes = StudyAttributes()
            for at in range(0, len(ordered), WRITTEN_AT_ONCE):
                some, last = ordered[at : at + WRITTEN_AT_ONCE], at + WRITTEN_AT_ONCE >= len(ordered)
                part = StudyPart(study.study_instance_uid, (), attributes, study.digests if last else None)
                work.parts.append((part, some))
                if work.objects >= WRITTEN_AT_ONCE:
                    yield self._begun(work)
                    work = _Work()
        if work.parts:
            yield self._begun(work)

    def _begun(self, work: _Work) -> _Work:
        objects = [one for _, some in work.parts for one in some]
        work.reads = [
            self._reader.read(objects[at : at + READ_TOGETHER]) for at in range(0, len(objects), READ_TOGETHER)
        ]
        return work

    def _read(self, work: _Work, report: ReindexReport) -> list[StudyPart]:
        reads = chain.from_iterable(_result(future) for future in work.reads)
        for part, some in work.parts:
            found = [(one, next(reads)) for one in some]
            part.instances = [read for _, read in found if read is not None]
            report.unreadable += [one.object.key for one, read in found if read is None]
        return [part for part, _ in work.parts]

    def _add(self, report: ReindexReport, done: Rebuilt) -> None:
        report.new += done.new
        report.changed += done.changed
        report.same += done.same
        report.missing += done.missing


def _result(future: Future[list[InstanceRows | None]]) -> list[InstanceRows | None]:
    try:
        return future.result()
    except BrokenExecutor:
        raise Retriable(
            "a process that read headers ended, perhaps for want of memory; what was written stays: run it again, "
            "and it goes on where it was"
        ) from None


def _batches(studies: Iterator[StudyObjects]) -> Iterator[list[StudyObjects]]:
    """Gather small studies, so that a transaction is worth its sync."""
    batch: list[StudyObjects] = []
    size = 0
    for study in studies:
        batch.append(study)
        size += len(study.objects)
        if size >= WRITTEN_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
