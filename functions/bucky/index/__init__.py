"""The index: what is in the object store, what was decided about it, and how far that has come.

Everything about instances can be rebuilt from the objects. Open it with `Index.open(url)`.
"""

from bucky.index.api import Index
from bucky.index.delivery_rows import (
    AttemptOutcome,
    Backlog,
    DeliveryAttempt,
    DeliveryCount,
    DeliveryRow,
    DeliveryState,
    Reference,
    Settlement,
)
from bucky.index.rebuild import InstanceRows, Rebuilt, StudyAttributes, StudyPart
from bucky.index.rows import (
    Counts,
    Declaration,
    IndexedInstance,
    InstanceRow,
    KnownInstance,
    Noticed,
    PatientRow,
    Routed,
    RoutingVersion,
    SeriesRow,
    StudyQuery,
    StudyRow,
    TimelineStep,
    UpsertOutcome,
    UpsertResult,
)

__all__ = [
    "AttemptOutcome",
    "Backlog",
    "Counts",
    "Declaration",
    "DeliveryAttempt",
    "DeliveryCount",
    "DeliveryRow",
    "DeliveryState",
    "Index",
    "IndexedInstance",
    "InstanceRow",
    "InstanceRows",
    "KnownInstance",
    "Noticed",
    "PatientRow",
    "Rebuilt",
    "Reference",
    "Routed",
    "RoutingVersion",
    "SeriesRow",
    "Settlement",
    "StudyAttributes",
    "StudyPart",
    "StudyQuery",
    "StudyRow",
    "TimelineStep",
    "UpsertOutcome",
    "UpsertResult",
]
