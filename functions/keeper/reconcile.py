"""`bucky reconcile`: bucket, index, streams and deliveries compared, and put right where that can be done.

Truth runs: bucket, index, streams. Each repair is one step that may be done twice, so a run that was killed,
or two at once, do no harm. What is younger than the grace time is counted and left alone: it may be on its way.

    the bucket has it, the index has not    its event again; or, when the rules decided on it before, its row
    the index has it, the bucket has not    reported: the instance is lost
    the rules were never asked about it     its event again
    a delivery is open, nobody was told     its request again
    a dead letter nobody recorded           recorded
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from bucky.cloudevents import CloudEvent, utc_now
from bucky.errors import NotFound
from bucky.events import InstanceIndexed, InstanceStored, payload_of
from bucky.index import Index, IndexedInstance, KnownInstance
from bucky.store.objects import ObjectStore
from bucky.trace import trace_id, within
from keeper.bucket_studies import BucketStudies, InstanceObject, StudyObjects, read_instance
from keeper.findings import Did, FindingKind, ReconcileReport
from keeper.open_deliveries import reconcile_deliveries
from keeper.republisher import SOURCE, Republisher
from keeper.waiting import last_told, waiting_ids

STUDIES_AT_ONCE = 100
# When the index lacks more than this share of the bucket, it was lost: publishing all again would send all again.
LOST_SHARE = 0.1
LOST_LEAST = 1000
# An instance is stored before its event is published: its event cannot be earlier by more than this.
EARLIER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Reconcile:
    """One run over everything; `grace` in seconds."""

    objects: ObjectStore
    index: Index
    publisher: Republisher
    bucket: str
    grace: float
    dry_run: bool = False

    async def run(self) -> ReconcileReport:
        """Compare and repair; return what was found."""
        began, report = time.monotonic(), ReconcileReport(self.dry_run)
        before = utc_now() - timedelta(seconds=self.grace)
        since = await asyncio.to_thread(self.index.reindexing_since)
        if since is not None:
            # What it has not come to yet would be taken for lost, and be sent again.
            report.add(FindingKind.REINDEXING, since.isoformat())
            return report
        not_indexed = await asyncio.to_thread(self._compare_objects, report, before)
        await self._index(not_indexed, report)
        await self._route(report, before)
        report.deliveries = await reconcile_deliveries(self.index, self.publisher, report, before)
        for uid in await asyncio.to_thread(self.index.miscounted_studies):
            report.add(FindingKind.COUNTS_DIFFER, uid, Did.COUNTED)
            if not self.dry_run:
                await asyncio.to_thread(self.index.recount, [uid])
        report.seconds = time.monotonic() - began
        return report

    def _compare_objects(self, report: ReconcileReport, before: datetime) -> list[InstanceObject]:
        """Return the objects that the index does not have; report the rows that have no object."""
        listed, not_indexed = BucketStudies(self.objects), []
        seen: set[str] = set()
        for studies in _several(iter(listed)):
            seen.update(study.study_instance_uid for study in studies)
            not_indexed += self._compare_studies(studies, report, before)
        after = ""
        while page := self.index.study_uids(after=after, limit=STUDIES_AT_ONCE):
            after = page[-1]
            rows = self.index.known_instances([uid for uid in page if uid not in seen])
            report.instances += len(rows)
            self._report_missing(rows, report, before)
        for key in listed.foreign:
            report.add(FindingKind.OBJECT_FOREIGN, key)
        return not_indexed

    def _compare_studies(
        self, studies: Sequence[StudyObjects], report: ReconcileReport, before: datetime
    ) -> list[InstanceObject]:
        rows = {row.sha256: row for row in self.index.known_instances([one.study_instance_uid for one in studies])}
        objects = {one.parts.sha256: one for study in studies for one in study.objects}
        report.objects += len(objects)
        report.instances += len(rows)
        for digest in rows.keys() & objects.keys():
            if rows[digest].size != objects[digest].object.size:
                report.add(FindingKind.OBJECT_DIFFERS, objects[digest].object.key)
        self._report_missing([row for digest, row in rows.items() if digest not in objects], report, before)
        not_indexed = [one for digest, one in objects.items() if digest not in rows]
        for one in not_indexed:
            if one.object.modified > before:
                report.defer(one.object.key)
        return [one for one in not_indexed if one.object.modified <= before]

    def _report_missing(self, rows: Sequence[KnownInstance], report: ReconcileReport, before: datetime) -> None:
        for row in rows:
            if self._is_there(row.key):
                continue
            if row.indexed_at <= before:
                report.add(FindingKind.OBJECT_MISSING, row.key)
            else:
                report.defer(row.key)

    def _is_there(self, key: str) -> bool:
        """Ask once more: the object may have come after the listing passed its place."""
        try:
            self.objects.size(key)
        except NotFound:
            return False
        return True

    async def _index(self, missing: Sequence[InstanceObject], report: ReconcileReport) -> None:
        """See to it that the index gets these, by the usual way unless they were decided on before."""
        if not missing:
            return
        waiting = await waiting_ids(self.publisher.js, "INSTANCES", InstanceStored.TYPE, "parse-instance")
        missing = [one for one in missing if one.parts.sha256 not in waiting]
        if len(missing) > max(LOST_LEAST, report.objects * LOST_SHARE):
            report.add(FindingKind.INDEX_LOST, f"{len(missing)} of {report.objects} objects")
            return
        decided = await asyncio.to_thread(self.index.decided, [one.parts.sha256 for one in missing])
        since = min((one.object.modified for one in missing), default=utc_now()) - EARLIER
        told = await last_told(
            self.publisher.js, "INSTANCES", InstanceStored.TYPE, {one.parts.sha256 for one in missing}, since
        )
        for one in missing:
            event = told.get(one.parts.sha256)
            read = await asyncio.to_thread(read_instance, self.objects, one, self.bucket)
            if read is None:
                report.add(FindingKind.OBJECT_UNREADABLE, one.object.key)
                continue
            known_before = one.parts.sha256 in decided
            report.add(FindingKind.OBJECT_NOT_INDEXED, one.object.key, Did.INDEXED if known_before else Did.PUBLISHED)
            if not self.dry_run and known_before:
                await asyncio.to_thread(self.index.restore_instances, [_with_event(read, event)])
            elif not self.dry_run:
                stored = InstanceStored(**read.received.model_dump())
                await self.publisher.publish(event or CloudEvent.of(stored, source=SOURCE, traceparent=within(None)))

    async def _route(self, report: ReconcileReport, before: datetime) -> None:
        waiting: set[str] | None = None
        after = ""
        while page := await asyncio.to_thread(self.index.not_routed, before, after=after):
            after = page[-1].sha256
            if waiting is None:
                waiting = await waiting_ids(self.publisher.js, "INSTANCES", InstanceIndexed.TYPE, "route-instance")
            for row in page:
                if row.sha256 in waiting:
                    continue
                report.add(FindingKind.NOT_ROUTED, row.sha256, Did.PUBLISHED)
                indexed = InstanceIndexed(**row.received().model_dump())
                if not self.dry_run:
                    event = CloudEvent.of(indexed, source=SOURCE, traceparent=within(row.trace_id))
                    await self.publisher.publish(event)


def _with_event(read: IndexedInstance, event: CloudEvent | None) -> IndexedInstance:
    """Return what was read, with what only its event knew while the stream still has it."""
    if event is None:
        return read
    payload = payload_of(event)
    if not isinstance(payload, InstanceStored):
        return read
    return IndexedInstance(payload, read.header, read.header_error, trace_id(event.traceparent), event.time)


def _several(studies: Iterator[StudyObjects]) -> Iterator[list[StudyObjects]]:
    while some := list(islice(studies, STUDIES_AT_ONCE)):
        yield some
