"""What a reconciler can find, what each means for the data, and what it did about it."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MOST_KEPT = 100


class FindingKind(StrEnum):
    """What was found; `MEANING` says it for people."""

    REINDEXING = "reindexing"
    INDEX_LOST = "index_lost"
    OBJECT_NOT_INDEXED = "object_not_indexed"
    OBJECT_MISSING = "object_missing"
    OBJECT_DIFFERS = "object_differs"
    OBJECT_UNREADABLE = "object_unreadable"
    OBJECT_FOREIGN = "object_foreign"
    COUNTS_DIFFER = "counts_differ"
    NOT_ROUTED = "not_routed"
    REQUEST_LOST = "request_lost"
    DEAD_LETTER_NOT_RECORDED = "dead_letter_not_recorded"
    FAILURE_WITHOUT_LETTER = "failure_without_letter"
    DELIVERY_WITHOUT_INSTANCE = "delivery_without_instance"


MEANING = {
    FindingKind.REINDEXING: "a reindexing is under way, or stopped: nothing was compared; go on with `bucky reindex`",
    FindingKind.INDEX_LOST: "too much is not in the index: nothing was published; `bucky reindex` sends nothing",
    FindingKind.OBJECT_NOT_INDEXED: "in the bucket, not in the index",
    FindingKind.OBJECT_MISSING: "in the index, not in the bucket: it is lost; find it in a backup or at its sender",
    FindingKind.OBJECT_DIFFERS: "the object's size is not the recorded one: it may be damaged",
    FindingKind.OBJECT_UNREADABLE: "under an instance's key, but no DICOM file",
    FindingKind.OBJECT_FOREIGN: "not Bucky's; left alone",
    FindingKind.COUNTS_DIFFER: "a study's counts are not those of its instances",
    FindingKind.NOT_ROUTED: "indexed, but the rules were never asked",
    FindingKind.REQUEST_LOST: "a delivery is to be done, but nobody was told",
    FindingKind.DEAD_LETTER_NOT_RECORDED: "a dead letter is there, but its delivery does not say so",
    FindingKind.FAILURE_WITHOUT_LETTER: "refused for good, but there is no dead letter",
    FindingKind.DELIVERY_WITHOUT_INSTANCE: "a delivery is to be done of an instance that is lost",
}
NOT_REPAIRABLE = {
    FindingKind.REINDEXING,
    FindingKind.INDEX_LOST,
    FindingKind.OBJECT_MISSING,
    FindingKind.OBJECT_DIFFERS,
    FindingKind.OBJECT_UNREADABLE,
    FindingKind.DELIVERY_WITHOUT_INSTANCE,
}


class Did(StrEnum):
    """What was done about a finding."""

    PUBLISHED = "published again"
    INDEXED = "indexed"
    RECORDED = "recorded"
    COUNTED = "counted"
    NOTHING = "reported"


@dataclass(slots=True)
class FindingCount:
    """The findings of one kind: how many, what was done, and the first of them."""

    count: int = 0
    done: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ReconcileReport:
    """What one run looked at and found; digests, keys and UIDs only. `dry_run`: what would be done."""

    dry_run: bool
    objects: int = 0
    instances: int = 0
    deliveries: int = 0
    seconds: float = 0.0
    found: dict[FindingKind, FindingCount] = field(default_factory=dict)
    too_recent: FindingCount = field(default_factory=FindingCount)
    """Differences between bucket and index that are younger than the grace time: they may mend by themselves."""

    def defer(self, subject: str) -> None:
        """Note a difference that is too recent to judge."""
        self.too_recent.count += 1
        if len(self.too_recent.first) < MOST_KEPT:
            self.too_recent.first.append(subject)

    def add(self, kind: FindingKind, subject: str, did: Did = Did.NOTHING) -> None:
        """Note a finding."""
        found = self.found.setdefault(kind, FindingCount())
        found.count += 1
        found.done[did] += 1
        if len(found.first) < MOST_KEPT:
            found.first.append(subject)

    def count(self, kind: FindingKind) -> int:
        """Return how many of a kind were found."""
        return self.found[kind].count if kind in self.found else 0

    @property
    def wrong(self) -> bool:
        """Whether something is wrong that this run did not put right."""
        unrepaired = {kind for kind in self.found if self.dry_run and kind is not FindingKind.OBJECT_FOREIGN}
        return bool(unrepaired | (NOT_REPAIRABLE & self.found.keys()))

    def as_data(self) -> dict[str, Any]:
        """Return plain data for `--json`."""
        return {
            "dry_run": self.dry_run,
            "wrong": self.wrong,
            "looked_at": {"objects": self.objects, "instances": self.instances, "deliveries": self.deliveries},
            "seconds": round(self.seconds, 3),
            "too_recent": {"count": self.too_recent.count, "first": self.too_recent.first},
            "found": {
                kind.value: {
                    "meaning": MEANING[kind],
                    "count": found.count,
                    "done": dict(found.done),
                    "first": found.first,
                }
                for kind, found in self.found.items()
            },
        }
