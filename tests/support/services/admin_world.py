"""What the admin API's tests stand on: sample rows, and the real application answering in this process."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from nats.js import JetStreamContext

from admin_api.app import create_app
from admin_api.authentication import Authenticator
from admin_api.broker_link import BrokerConnection
from admin_api.dead_letters import DeadLetterBox
from admin_api.health import HealthBoard, checks_of
from admin_api.index_link import migrated
from bucky.cloudevents import utc_now
from bucky.events import DeliveryRequested, ReceivedInstance
from bucky.forwarding.places import Places
from bucky.index import Index, IndexedInstance
from bucky.routing.crosswalk import Crosswalks
from bucky.settings import Settings
from bucky.store.keys import object_key
from bucky.store.objects import MemoryObjectStore, put_bytes
from bucky.text.identifiers import delivery_id

KEY = "key-of-the-test"
STUDY, SERIES = "1.2.3", "1.2.3.4"
CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
PATIENT = "Müller^Änne"


def file_of(number: int) -> bytes:
    """Return the bytes that stand for an instance's file."""
    return f"instance {number}".encode() * 1000


def received(number: int) -> ReceivedInstance:
    """Return an instance as the edge describes it."""
    sop, sha256 = f"{SERIES}.{number}", hashlib.sha256(file_of(number)).hexdigest()
    return ReceivedInstance(
        study_instance_uid=STUDY,
        series_instance_uid=SERIES,
        sop_instance_uid=sop,
        sop_class_uid=CT_IMAGE_STORAGE,
        transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
        sha256=sha256,
        size=len(file_of(number)),
        bucket="bucky",
        key=object_key(STUDY, SERIES, sop, sha256),
        calling_aet="CT1",
        called_aet="BUCKY",
        source_address="127.0.0.1",
        association_id="association",
        received_at=utc_now(),
    )


def indexed(number: int) -> IndexedInstance:
    """Return an instance with a header that names a patient."""
    header = {
        "00080060": {"vr": "CS", "Value": ["CT"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": PATIENT}]},
        "00100020": {"vr": "LO", "Value": ["4711"]},
        "00200013": {"vr": "IS", "Value": [number]},
    }
    return IndexedInstance(received(number), header, trace_id="a" * 32)


def requested(number: int, destination: str = "pacs") -> DeliveryRequested:
    """Return a delivery of an instance."""
    instance = received(number)
    return DeliveryRequested(
        delivery_id=delivery_id(instance.sha256, destination, 1),
        destination=destination,
        rule="all",
        rule_version=1,
        instance=instance,
    )


@dataclass
class AdminWorld:
    """The application, a client that has the key, and what stands behind it."""

    api: httpx.AsyncClient
    index: Index
    objects: MemoryObjectStore
    link: BrokerConnection

    @property
    def jetstream(self) -> JetStreamContext:
        """The application's own connection to the broker."""
        return self.link.jetstream()

    def fill(self, count: int) -> None:
        """Put instances in the index and the store."""
        self.index.upsert_instances([indexed(number) for number in range(1, count + 1)])
        for number in range(1, count + 1):
            put_bytes(self.objects, received(number).key, file_of(number))


@asynccontextmanager
async def world(settings: Settings, index_url: str, key: str | None = KEY) -> AsyncIterator[AdminWorld]:
    """Run the application on a fresh index; the broker is the one in the settings, if it runs."""
    index, objects, link = Index.open(index_url), MemoryObjectStore(), BrokerConnection(settings)
    index.migrate()
    http = httpx.AsyncClient(trust_env=False)
    app = create_app(
        authenticator=Authenticator(KEY),
        index=index,
        objects=objects,
        dead_letters=DeadLetterBox(link),
        health=HealthBoard(checks_of(settings, index, objects, link, http)),
        link=link,
        crosswalks=Crosswalks(settings.crosswalk_dir),
        places=Places.of(settings),
    )
    headers = {"X-Api-Key": key} if key else {}
    transport = httpx.ASGITransport(app)
    async with (
        http,
        migrated(index),
        link.open(),
        httpx.AsyncClient(transport=transport, base_url="http://admin", headers=headers) as api,
    ):
        yield AdminWorld(api, index, objects, link)
