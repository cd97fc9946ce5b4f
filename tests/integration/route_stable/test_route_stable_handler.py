"""route-stable against a real index: what waits for a whole series or study goes when that is stable, once."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from bucky.cloudevents import CloudEvent, utc_now
from bucky.errors import Permanent
from bucky.events import DeliveryRequested, SeriesStable, StudyStable, payload_of
from bucky.index import AttemptOutcome, DeliveryAttempt, Index
from bucky.log import get_logger
from bucky.routing.document import Routing
from bucky.serve.handlers import Context
from route_stable import handler
from route_stable.handler import handle
from tests.support.index.rows import digest, header, indexed

CONTEXT = Context("route-stable", get_logger("test"))
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
ROUTING = """
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: 127.0.0.1, port: 104}
  - {name: research, type: dimse, aet: RESEARCH, host: 127.0.0.1, port: 105}
rules:
  - {name: at-once, destinations: [pacs]}
  - {name: long-series, trigger: series, when: {series: instance_count, ge: 2}, destinations: [pacs]}
  - name: axial-of-ct-studies
    trigger: study_stable
    priority: urgent
    when: {all: [{study: modalities, equals: CT}, {attribute: ImageType, equals: AXIAL}]}
    destinations: [research]
  - {name: after-an-hour, trigger: study_stable, quiet_seconds: 3600, destinations: [pacs]}
"""


@pytest.fixture
def index(index_url: str) -> Iterator[Index]:
    """An index with a study of three instances, in two series, one of them not axial."""
    index = Index.open(index_url)
    index.migrate()
    index.save_routing(Routing.from_yaml(ROUTING), 0, "test")
    index.upsert_instances(
        [
            indexed("axial", header(Modality="CT", ImageType="AXIAL")),
            indexed("axial2", header(Modality="CT", ImageType="AXIAL")),
            indexed("scout", header(Modality="CT", ImageType="LOCALIZER"), series_instance_uid="1.2.4"),
        ]
    )
    yield index
    index.close()


def stable(**changes: Any) -> CloudEvent:
    """Return the declaration that study 1.2 is stable, or with a series UID that this series is."""
    now = utc_now()
    values: dict[str, Any] = {
        "study_instance_uid": "1.2",
        "revision": 1,
        "quiet_seconds": 60.0,
        "is_default": True,
        "stable_at": now,
        "last_instance_at": now,
        "reason": "quiet for 60 s",
        "instance_count": 3,
        "added": 3,
        **changes,
    }
    payload: StudyStable | SeriesStable
    if "series_instance_uid" in changes:
        payload = SeriesStable(**{"modality": "CT", **values})
    else:
        study = {"modalities": ("CT",), "series_count": 2, "quarantined_count": 0, "changed_series": ()}
        payload = StudyStable(**{**study, **values})
    return CloudEvent.of(payload, source="/test", traceparent=TRACE)


def asked(index: Index, event: CloudEvent) -> dict[str, tuple[str, str, str]]:
    """Return destination, rule and priority of what is requested, by digest."""
    found: dict[str, tuple[str, str, str]] = {}
    for returned in handle(event, CONTEXT, index):
        delivery = payload_of(returned)
        assert isinstance(delivery, DeliveryRequested)
        assert (returned.traceparent or "").split("-")[1] == "ab" * 16
        found[delivery.instance.sha256] = (delivery.destination, delivery.rule, delivery.priority)
    return found


def test_a_stable_study_asks_its_rules_for_each_instance(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's facts open the rule, each instance's attributes decide; rules of other triggers stay asleep."""
    monkeypatch.setattr(handler, "AT_ONCE", 1)
    goes = ("research", "axial-of-ct-studies", "urgent")
    assert asked(index, stable()) == {digest("axial"): goes, digest("axial2"): goes}
    assert asked(index, stable(modalities=("MR",))) == {}
    row = index.deliveries(destination="research")[0]
    assert (row.rule_version, row.priority, row.trace_id) == (1, "urgent", "ab" * 16)


def test_a_series_and_a_longer_quiet_have_rules_of_their_own(index: Index) -> None:
    """A declaration is for the rules that wait for just this: a series, or so long a quiet."""
    goes = ("pacs", "long-series", "routine")
    series = stable(series_instance_uid="1.2.3", instance_count=2)
    assert asked(index, series) == {digest("axial"): goes, digest("axial2"): goes}
    assert asked(index, stable(series_instance_uid="1.2.4", instance_count=1)) == {}
    hour = asked(index, stable(quiet_seconds=3600.0, is_default=False))
    assert hour[digest("scout")] == ("pacs", "after-an-hour", "routine")


def test_what_comes_late_goes_with_the_next_revision_and_alone(index: Index) -> None:
    """A late instance waits until the study is stable again, and then takes nothing along that has gone before."""
    before = utc_now() - timedelta(seconds=1)
    first = stable()
    delivered = list(handle(first, CONTEXT, index))
    index.delivery_attempted([DeliveryAttempt(event.id, AttemptOutcome.DELIVERED) for event in delivered])
    index.upsert_instances([indexed("late", header(Modality="CT", ImageType="AXIAL"))])
    assert asked(index, stable(last_instance_at=before)) == {}
    assert set(asked(index, stable(revision=2, instance_count=4, added=1))) == {digest("late")}


def test_asking_again_returns_what_is_not_settled(index: Index) -> None:
    """After a crash before the events were published, the same declaration returns them again."""
    event = stable()
    assert asked(index, event) == asked(index, event) != {}


def test_another_event_is_refused(index: Index) -> None:
    """What strayed into the subject is refused for good."""
    with pytest.raises(Permanent, match="route-stable takes"):
        list(handle(CloudEvent(id="x", source="/x", type="deadletter", data=dead_letter()), CONTEXT, index))


def dead_letter() -> dict[str, Any]:
    """Return the data of another event that is known here."""
    return {"function": "f", "reason": "r", "attempts": 1, "subject": "s", "stream_sequence": 1, "event": {}}
