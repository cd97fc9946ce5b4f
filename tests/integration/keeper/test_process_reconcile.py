"""A processing that was decided, and that nobody was told of, is asked for again; one that waits is left alone."""

from datetime import timedelta

import pytest

from bucky.broker.connection import connect, jetstream
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent, utc_now
from bucky.deciding.grouping import of_study
from bucky.events import ProcessingRequested, payload_of
from bucky.index import Index
from bucky.routing.document import Routing
from bucky.settings import Settings
from keeper.findings import FindingKind, ReconcileReport
from keeper.open_deliveries import reconcile_deliveries
from keeper.republisher import Republisher
from keeper.waiting import read
from tests.support.index.rows import indexed

pytestmark = pytest.mark.index


async def test_a_lost_request_is_published_once_more(nats_settings: Settings, index: Index) -> None:
    """After a crash between the record and the event, the reconciler gives the study to the function."""
    index.save_routing(
        Routing.from_yaml("rules: [{name: r, trigger: study_stable, process: {function: f}}]"), 0, "test"
    )
    index.upsert_instances([indexed("a"), indexed("b")])
    gathered = of_study(index, index.routing(), "1.2")
    index.request_deliveries(gathered.requests, members=gathered.members)
    client = await connect(nats_settings, "test")
    try:
        await ensure_streams(jetstream(client))
        publisher, before = Republisher(jetstream(client)), utc_now() + timedelta(minutes=1)
        found = []
        for _ in range(2):
            report = ReconcileReport(dry_run=False)
            await reconcile_deliveries(index, publisher, report, before)
            found.append(report.count(FindingKind.REQUEST_LOST))
        subject = f"{ProcessingRequested.TYPE}.f"
        told: list[CloudEvent] = [one.event async for one in read(jetstream(client), "DELIVERIES", subject)]
    finally:
        await client.close()
    assert found == [1, 0]
    assert [payload_of(event) for event in told] == gathered.requests
