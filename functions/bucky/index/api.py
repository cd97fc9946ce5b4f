"""The index as the other parts see it: each method is one transaction and blocks.

Raises `IndexUnavailable` when the database does not answer, `NotFound` for what is not there.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Self

from bucky.cloudevents import CloudEvent, utc_now
from bucky.events import DeliveryRequested, InstanceStored
from bucky.index import (
    attention,
    bandwidth,
    commitments,
    completeness,
    decisions,
    decisions_in_force,
    deliveries,
    gaps,
    instances,
    migrate,
    processing,
    rebuild,
    routing_versions,
    routings,
    studies,
    timeline,
)
from bucky.index.database import Database
from bucky.index.delivery_rows import (
    Backlog,
    DeliveryAttempt,
    DeliveryCount,
    DeliveryRow,
    DeliveryState,
    Reference,
    Settlement,
)
from bucky.index.rebuild import Rebuilt, StudyPart
from bucky.index.rows import (
    Arrival,
    Counts,
    Declaration,
    IndexedInstance,
    InstanceRow,
    KnownInstance,
    Noticed,
    Routed,
    RoutingVersion,
    SeriesRow,
    StudyQuery,
    StudyRow,
    TimelineStep,
    UpsertResult,
)
from bucky.routing.corrections import ConflictDecision, Verdict
from bucky.routing.document import Routing


class Index:
    """Studies, series, instances, deliveries and routing, in SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Return an index that connects when first used; `url` is `sqlite:///PATH` or `postgresql+psycopg://…`."""
        return cls(Database(url))

    def migrate(self) -> None:
        """Bring the tables up to date; any number of processes may do so at once."""
        migrate.migrate(self._db)

    def check(self) -> None:
        """Raise `IndexUnavailable` unless the database answers and its tables are up to date."""
        migrate.check(self._db)

    def close(self) -> None:
        """Close every connection."""
        self._db.close()

    # Instances

    def upsert_instances(self, batch: Sequence[IndexedInstance]) -> list[UpsertResult]:
        """Index a batch in one transaction; one result for each, in order. Doing it again changes nothing."""
        return self._db.write(instances.upsert, batch, utc_now())

    def instance(self, sha256: str) -> InstanceRow:
        """Return an instance with its header."""
        return self._db.read(instances.one, sha256)

    def instances_by_digest(self, digests: Iterable[str]) -> dict[str, InstanceRow]:
        """Return those of these instances that are there, each with its header, in one query."""
        return self._db.read(instances.by_digest, digests)

    def instances(
        self, study_uid: str, series_uid: str | None = None, *, limit: int = 100, offset: int = 0
    ) -> list[InstanceRow]:
        """Return a page of a series', or a whole study's, instances by number; conflicts are marked."""
        return self._db.read(instances.of_series, study_uid, series_uid, limit, offset)

    def newest_instances(
        self, *, study_uid: str | None = None, damaged: bool = False, limit: int = 100, offset: int = 0
    ) -> list[InstanceRow]:
        """Return a page of all instances, or of a study's, or of those that came `damaged`, the newest first."""
        return self._db.read(instances.listed, study_uid, damaged, limit, offset)

    def instances_received(
        self, since: datetime, until: datetime, *, after: str | None = None, limit: int = 500
    ) -> list[InstanceRow]:
        """Return a page of the current instances received in a time, with headers; `after` is the last page's last."""
        return self._db.read(instances.received_between, since, until, after, limit)

    def study_with_headers(
        self, study_uid: str, series_uid: str | None = None, *, after: str = "", limit: int = 500
    ) -> list[InstanceRow]:
        """Return a page of a study's, or one series', current instances, with headers; `after` is the last digest."""
        return self._db.read(instances.headers_of_study, study_uid, series_uid, after, limit)

    # Conflicts

    def conflicts(self, *, decided: bool | None = False, limit: int = 100, offset: int = 0) -> list[InstanceRow]:
        """Return a page of the bytes that others are current in place of, the newest first.

        Those that await a decision, or those that are `decided`, or, with None, all.
        """
        return self._db.read(decisions.conflicts, decided, limit, offset)

    def conflict_digest(self, prefix: str) -> str:
        """Return the digest that begins so, of bytes in a conflict or of those that are current in its place."""
        return self._db.read(decisions.digest, prefix)

    def open_conflicts(self) -> int:
        """Return how many await a decision."""
        return self._db.read(decisions.count_open)

    def conflicts_to_examine(self, version: int, *, limit: int = 20) -> list[InstanceRow]:
        """Return those that the conflict rules of this version were not asked about."""
        return self._db.read(decisions.not_examined, version, limit)

    def conflict_examined(self, sha256: str, version: int) -> None:
        """Record that the conflict rules of a version leave it open."""
        self._db.write(decisions.examined, sha256, version)

    def current_instance(self, sop_instance_uid: str) -> InstanceRow | None:
        """Return the instance that is current under a SOP Instance UID, without its header."""
        return self._db.read(decisions.current, sop_instance_uid)

    def decide(self, sha256: str, verdict: Verdict, author: str, note: str = "") -> ConflictDecision:
        """Decide about bytes in one transaction; deciding the same again changes nothing."""
        return self._db.write(decisions.decide, sha256, verdict, author, note, utc_now())

    def decisions(self, *, limit: int = 100, offset: int = 0) -> list[ConflictDecision]:
        """Return a page of decisions, the newest first."""
        return self._db.read(decisions.listed, limit, offset)

    def decisions_about(self, sop_instance_uid: str) -> list[ConflictDecision]:
        """Return the decisions about a SOP Instance UID, the first first."""
        return self._db.read(decisions_in_force.of_instance, sop_instance_uid)

    def corrections(self, digests: Sequence[str]) -> dict[str, frozenset[str]]:
        """Return, for those of these bytes that a decision made current, the digests that were sent in their place."""
        return self._db.read(decisions.corrections, digests)

    def decisions_to_carry_out(self, before: datetime, *, limit: int = 100) -> list[ConflictDecision]:
        """Return decisions from before a time of which what follows may not have been done."""
        return self._db.read(decisions.not_carried_out, before, limit)

    def decision_carried_out(self, decision: ConflictDecision) -> None:
        """Record that the bucket has it, and that what follows was requested."""
        self._db.write(decisions.carried_out, decision, utc_now())

    def restore_decisions(self, found: Sequence[ConflictDecision]) -> None:
        """Take the bucket's decisions that the index does not have."""
        self._db.write(decisions_in_force.restore, found)

    # Rebuilding

    def begin_reindex(self, bucket: str, *, restart: bool = False) -> tuple[datetime, set[str]]:
        """Return when the reindexing under way began and the studies it has done, or begin one."""
        return self._db.write(rebuild.begin, bucket, utc_now(), restart=restart)

    def reindexing_since(self) -> datetime | None:
        """Return when a reindexing was begun that has not ended, or None."""
        return self._db.read(rebuild.under_way)

    def received_times(self, study_uids: Sequence[str]) -> dict[str, datetime]:
        """Return when each known instance of these studies was received, by digest."""
        return self._db.read(rebuild.received_times, study_uids)

    def rebuild(self, parts: Sequence[StudyPart], started_at: datetime, *, prune: bool = False) -> Rebuilt:
        """Make the rows of these instances, studies and series what their objects say, in one transaction."""
        return self._db.write(rebuild.write, parts, started_at, utc_now(), prune=prune)

    def finish_reindex(self, started_at: datetime, *, prune: bool = False) -> list[str]:
        """End the reindexing; return the digests of rows whose whole study is not in the bucket."""
        return self._db.write(rebuild.finish, started_at, prune=prune)

    # Reconciling

    def known_instances(self, study_uids: Sequence[str]) -> list[KnownInstance]:
        """Return what the index has of these studies' instances."""
        return self._db.read(gaps.known, study_uids)

    def study_uids(self, *, after: str = "", limit: int = 1000) -> list[str]:
        """Return a page of the studies' UIDs, in order."""
        return self._db.read(gaps.study_uids, after, limit)

    def decided(self, digests: Iterable[str]) -> set[str]:
        """Return those of these instances that the rules were asked about."""
        return self._db.read(gaps.decided, digests)

    def not_routed(self, before: datetime, *, after: str = "", limit: int = 500) -> list[InstanceRow]:
        """Return a page of instances indexed before a time that the rules were never asked about."""
        return self._db.read(routings.not_routed, before, after, limit)

    def unsettled_deliveries(self, before: datetime, *, after: str = "", limit: int = 500) -> list[DeliveryRow]:
        """Return a page of deliveries that are neither delivered nor dead, and changed before a time."""
        return self._db.read(gaps.unsettled, before, after, limit)

    def miscounted_studies(self) -> list[str]:
        """Return the studies whose counts are not those of their instances."""
        return self._db.read(gaps.miscounted)

    def recount(self, study_uids: Sequence[str]) -> None:
        """Make the counts of these studies those of their instances."""
        self._db.write(gaps.recount, study_uids)

    def restore_instances(self, batch: Sequence[IndexedInstance]) -> None:
        """Index instances that the rules decided on before their rows were lost."""
        self._db.write(gaps.restore, batch, utc_now())

    # Studies

    def search_studies(self, query: StudyQuery) -> list[StudyRow]:
        """Return a page of the studies that match, those that got an instance last first."""
        return self._db.read(studies.search, query)

    def count_studies(self, query: StudyQuery) -> int:
        """Return how many studies match."""
        return self._db.read(studies.count_matching, query)

    def study(self, study_uid: str) -> StudyRow:
        """Return a study."""
        return self._db.read(studies.one, study_uid)

    def series(self, study_uid: str) -> list[SeriesRow]:
        """Return a study's series by number."""
        return self._db.read(studies.series_of, [study_uid])

    def counts(self) -> Counts:
        """Return how much there is."""
        return self._db.read(studies.counts)

    # Completeness

    def still_arriving(self, quiet_since: datetime, *, after: Arrival | None = None, limit: int = 500) -> list[Arrival]:
        """Return a page of the studies and series that wait to be stable and got nothing since a time."""
        return self._db.read(completeness.still_open, quiet_since, after, limit)

    def declare_stable(self, declaration: Declaration) -> bool:
        """Record that a study or series is stable, and its event; False when something came meanwhile."""
        return self._db.write(completeness.declare, declaration, utc_now())

    def close_arrival(self, arrival: Arrival) -> None:
        """Record that nobody waits for a longer quiet of this."""
        self._db.write(completeness.close, arrival)

    def unpublished_declarations(self, *, limit: int = 500) -> list[CloudEvent]:
        """Return the events of declarations that the broker may not have."""
        return self._db.read(completeness.unpublished, limit)

    def declarations_published(self, events: Sequence[CloudEvent]) -> None:
        """Record that the broker has these events."""
        self._db.write(completeness.published, events, utc_now())

    # Deliveries

    def request_deliveries(
        self,
        requests: Sequence[DeliveryRequested],
        traces: Mapping[str, str] | None = None,
        routed: Sequence[Routed] = (),
        members: Mapping[str, Sequence[str]] | None = None,
    ) -> list[str]:
        """Record deliveries, with the trace id of each where known; return the ids of those still to be done.

        A delivery already recorded keeps its state. Delivered, failed and dead ones are not to be done.
        `routed` are the instances that the rules were asked about to decide them, `members` the digests of those
        that a delivery of a series or study is of.
        """
        return self._db.write(deliveries.request, requests, traces or {}, routed, members or {}, utc_now())

    def delivery_attempted(
        self, attempts: Sequence[DeliveryAttempt], results: Mapping[str, Sequence[InstanceStored]] | None = None
    ) -> None:
        """Record the outcome of attempts, in one transaction; `COMES_FROM` says what may follow what.

        `results` is what functions made, by delivery.
        """
        self._db.write(deliveries.attempted, attempts, results or {})

    def given(self, delivery_id: str) -> list[InstanceRow]:
        """Return the instances that a function is given, without headers, in the order of their numbers."""
        return self._db.read(processing.given, delivery_id)

    def results_of(self, delivery_id: str) -> list[InstanceStored]:
        """Return what a function made of what it was given."""
        return self._db.read(processing.results_of, delivery_id)

    def dead_letter(self, delivery_id: str, reason: str, attempts: int, at: datetime | None = None) -> bool:
        """Record that a delivery became a dead letter at a time; False when it is settled or redriven since."""
        return self._db.write(deliveries.dead_letter, delivery_id, reason, attempts, at or utc_now())

    def redriven(self, delivery_ids: Iterable[str]) -> list[str]:
        """Set deliveries to be done again, before their requests are published; return the ids that exist."""
        return self._db.write(deliveries.redriven, delivery_ids, utc_now())

    def dismiss_deliveries(self, delivery_ids: Iterable[str], author: str, note: str) -> list[str]:
        """Record that deliveries which were given up are not to be made any more; return the ids of those that were."""
        return self._db.write(deliveries.dismiss, delivery_ids, author, note, utc_now())

    def delivered(self, delivery_ids: Sequence[str]) -> set[str]:
        """Return those of these deliveries, at most some thousands, that were made."""
        return self._db.read(deliveries.delivered, delivery_ids)

    def take_bandwidth(self, destination: str, count: int, bytes_per_second: int) -> float:
        """Give out bytes of a destination's bandwidth; return the seconds until they may be sent."""
        return self._db.write(bandwidth.take, destination, count, bytes_per_second, time.time())

    def delivery(self, delivery_id: str) -> DeliveryRow:
        """Return a delivery."""
        return self._db.read(deliveries.one, delivery_id)

    def deliveries(
        self,
        *,
        state: DeliveryState | None = None,
        destination: str | None = None,
        study_uid: str | None = None,
        sha256: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[DeliveryRow]:
        """Return a page of deliveries, those requested last first; `after` is the last page's last id."""
        return self._db.read(
            deliveries.listed,
            state=state,
            destination=destination,
            study_uid=study_uid,
            sha256=sha256,
            limit=limit,
            after=after,
        )

    def deliveries_of(self, digests: Iterable[str]) -> list[DeliveryRow]:
        """Return every delivery of these instances, those requested first first."""
        return self._db.read(deliveries.of_instances, digests)

    def delivery_counts(self) -> list[DeliveryCount]:
        """Return how many deliveries to each destination are in each state."""
        return self._db.read(deliveries.counts)

    def timeline(self, of: str, *, each: bool = False, limit: int = 1000, offset: int = 0) -> list[TimelineStep]:
        """Return a page of what happened to a study (its UID) or an instance (its UID or digest), in time's order."""
        return self._db.read(timeline.steps, of, each=each, limit=limit, offset=offset)

    # What needs attention

    def backlog(self) -> list[Backlog]:
        """Return how many deliveries are not made, by destination and state, and since when."""
        return self._db.read(attention.backlog)

    def unmatched(self, since: datetime, before: datetime) -> Noticed:
        """Return how many instances no rule matched in a time, and that go nowhere since."""
        return self._db.read(attention.unmatched, since, before)

    def conflicts_noticed(self) -> Noticed:
        """Return how many instances came with other content and await a decision, and when the first of them did."""
        return self._db.read(attention.conflicts)

    # Commitments of destinations, and deliveries that wait too long

    def in_transaction(self, transaction_uid: str) -> list[DeliveryRow]:
        """Return the deliveries that were last asked about in a transaction, whatever became of them since."""
        return self._db.read(commitments.of, transaction_uid)

    def commitment_references(self, transaction_uid: str) -> list[Reference]:
        """Return the instances that a transaction is about."""
        return self._db.read(commitments.references, transaction_uid)

    def commitment_asked(self, transaction_uid: str, due_at: datetime, said: str) -> None:
        """Record that a destination was asked in a transaction, and until when it is to answer."""
        self._db.write(commitments.asked, transaction_uid, due_at, said, utc_now())

    def commitment_noted(self, transaction_uid: str, said: str) -> None:
        """Record what people are to know of a transaction that waits."""
        self._db.write(commitments.note, transaction_uid, said)

    def commitment_settled(
        self,
        transaction_uid: str,
        committed: Collection[str],
        failed: Mapping[str, str],
        *,
        sends: int,
        due_at: datetime,
    ) -> Settlement:
        """Record what a destination said of a transaction's instances, by UID; what it says later changes nothing."""
        return self._db.write(commitments.settle, transaction_uid, committed, failed, sends, due_at, utc_now())

    def due_deliveries(self, *, limit: int = 500) -> list[DeliveryRow]:
        """Return deliveries whose commitment is late, or which are to be sent again now."""
        return self._db.read(commitments.due, utc_now(), limit)

    def put_off(self, rows: Sequence[DeliveryRow], due_at: datetime | None) -> None:
        """Look after due deliveries at another time, or not again."""
        self._db.write(commitments.put_off, rows, due_at)

    def ask_anew(self, rows: Sequence[DeliveryRow], transaction_uid: str, due_at: datetime, said: str) -> list[str]:
        """Put uncommitted deliveries into a new transaction; return the ids of those that still waited."""
        return self._db.write(commitments.ask_anew, rows, transaction_uid, due_at, said, utc_now())

    def give_up(self, reasons: Mapping[str, str], states: Collection[DeliveryState]) -> list[str]:
        """Let deliveries that are in one of these states fail, by id, each for its reason; return which did."""
        return self._db.write(commitments.give_up, reasons, states, utc_now())

    def waiting_too_long(
        self, before: datetime, destination: str | None, others: Collection[str] = (), *, limit: int = 500
    ) -> list[DeliveryRow]:
        """Return deliveries that wait to be sent since before a time: to a destination, or to none of the others."""
        return self._db.read(commitments.waiting_too_long, before, destination, others, limit)

    def last_tried(self, destination: str | None, others: Collection[str] = ()) -> datetime | None:
        """Return when a delivery to a destination, or to none of the others, last came back to be tried again."""
        return self._db.read(commitments.last_tried, destination, others)

    # Routing

    def routing(self) -> RoutingVersion:
        """Return the routing in force; version 0, which is empty, when none was ever saved."""
        return self._db.read(routing_versions.newest)

    def routing_version(self, version: int) -> RoutingVersion:
        """Return one version of the routing."""
        return self._db.read(routing_versions.one, version)

    def routing_versions(self, *, limit: int = 100) -> list[RoutingVersion]:
        """Return the versions, the newest first."""
        return self._db.read(routing_versions.listed, limit)

    def save_routing(self, document: Routing, expected_version: int, author: str, note: str = "") -> int:
        """Append a version and return its number; raise `Conflict` when somebody else was first."""
        return self._db.write(routing_versions.save, document, expected_version, author, utc_now(), note)
