"""Looks after conflicts: decides what the routing's conflict rules decide, and finishes what a decision began.

Deciding and carrying out may both be done twice: whoever is killed in between, the next run does the rest.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from bucky.broker.connection import Publisher
from bucky.cloudevents import utc_now
from bucky.deciding.correcting import carry_out
from bucky.differences import in_words
from bucky.differences.stored import compared_objects
from bucky.errors import Conflict, NotFound
from bucky.index import Index, InstanceRow, RoutingVersion
from bucky.log import get_logger
from bucky.routing.conflicts import rule_for
from bucky.routing.corrections import ConflictDecision, Verdict
from bucky.store.objects import ObjectStore

SOURCE = "/bucky/keeper"
# Who decided usually carries it out at once.
GRACE = timedelta(seconds=10)
KEPT = "the first bytes are kept, and their deliveries count for these"

log = get_logger("keeper")


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Looks when told to."""

    index: Index
    objects: ObjectStore
    publisher: Publisher
    grace: timedelta = GRACE

    async def run(self) -> int:
        """Decide what rules decide, carry out what is not; return how many decisions were carried out."""
        made = await asyncio.to_thread(self._decide)
        found = await asyncio.to_thread(self.index.decisions_to_carry_out, utc_now() - self.grace)
        pending = {decision.key: decision for decision in (*made, *found)}
        for decision in pending.values():
            gone = await carry_out(decision, self.index, self.objects, self.publisher, SOURCE)
            if gone:
                log.warning("conflict.destinations_gone", sha256=decision.sha256, destinations=gone)
        return len(pending)

    def _decide(self) -> list[ConflictDecision]:
        routing = self.index.routing()
        if not routing.document.conflicts:
            return []
        rows = self.index.conflicts_to_examine(routing.version)
        made = [self._decide_one(row, routing) for row in rows]
        return [one for one in made if one is not None]

    def _decide_one(self, row: InstanceRow, routing: RoutingVersion) -> ConflictDecision | None:
        current = self.index.current_instance(row.sop_instance_uid)
        decision = None
        try:
            if current is not None:
                decision = self._by_rule(row, current, routing)
        except (NotFound, Conflict) as error:  # an object is lost, or somebody else decided meanwhile
            log.warning("conflict.not_decided", sha256=row.sha256, reason=str(error))
        if decision is None:
            self.index.conflict_examined(row.sha256, routing.version)
        return decision

    def _by_rule(self, row: InstanceRow, current: InstanceRow, routing: RoutingVersion) -> ConflictDecision | None:
        found = compared_objects(self.objects, current.key, row.key)
        rule = rule_for(routing.document.conflicts, found)
        if rule is None:
            return None
        note = in_words(found) + (f": {KEPT}" if rule.verdict is Verdict.REJECTED else "")
        author = f"rule {rule.name} v{routing.version}"
        decision = self.index.decide(row.sha256, rule.verdict, author, note)
        log.info(
            "conflict.decided",
            sop_instance_uid=row.sop_instance_uid,
            sha256=row.sha256,
            verdict=str(rule.verdict),
            rule=rule.name,
            rule_version=routing.version,
        )
        return decision
