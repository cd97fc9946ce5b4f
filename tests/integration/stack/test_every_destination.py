"""The whole way to a destination of each kind at once, on a running stack, with secrets where users put them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucky.dimse import Outcome, Peer, store_all
from bucky.index import DeliveryState
from bucky.routing.document import Routing
from tests.support.destinations.destination_worlds import data_set_sha256
from tests.support.destinations.stow_server import StowServer
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

pytestmark = pytest.mark.store


@pytest.fixture(scope="module")
def server() -> Iterator[StowServer]:
    """A DICOMweb server that takes everything."""
    running = StowServer()
    running.open()
    yield running
    running.close()


@pytest.fixture(scope="module", autouse=True)
def _routed(stack: RunningStack, server: StowServer) -> None:
    """Route everything to a folder, a bucket, a DICOMweb server and the stack's own demo node."""
    (stack.home.path / "teaching").mkdir()
    _apply(stack, server)


def _apply(stack: RunningStack, server: StowServer) -> None:
    current = stack.api.get("/api/routing")
    document = Routing.model_validate(current["document"])
    demo = document.destination("demo")
    assert demo is not None
    destinations: list[Any] = [
        demo.model_dump(mode="json"),
        {"name": "teaching", "type": "folder", "folder": str(stack.home.path / "teaching")},
        {
            "name": "archive",
            "type": "stow",
            "url": server.url,
            "auth": {"type": "bearer", "token_secret": "destination-archive-token"},
        },
        {
            "name": "research",
            "type": "s3",
            "bucket": stack.settings.store_bucket,
            "key": "copies/{SHA256}.dcm",
            "endpoint": stack.settings.store_endpoint,
            "access_key_id_secret": "destination-research-key-id",
            "secret_access_key_secret": "destination-research-key",
        },
    ]
    names = [each["name"] for each in destinations]
    wanted = Routing.model_validate(
        {"destinations": destinations, "rules": [{"name": "everything", "destinations": names}]}
    )
    stack.api.put("/api/routing", wanted.model_dump(mode="json", by_alias=True, exclude_none=True), current["version"])


def _sent(stack: RunningStack, count: int) -> list[Sample]:
    sent = samples(count)
    edge = Peer("BUCKY", "127.0.0.1", stack.ports.dicom, calling_aet="EVERY")
    assert {one.outcome for one in store_all(edge, [sample.outgoing for sample in sent])} == {Outcome.STORED}
    return sent


def _delivered(stack: RunningStack, study: str) -> dict[str, set[str]]:
    rows = stack.deliveries(study, DeliveryState.DELIVERED)
    return {name: {row.sha256 for row in rows if row.destination == name} for name in {row.destination for row in rows}}


def _waiting(stack: RunningStack, study: str) -> dict[str, str]:
    return {row.destination: row.reason for row in stack.deliveries(study, DeliveryState.RETRYING)}


def test_every_kind_gets_every_instance(stack: RunningStack, server: StowServer) -> None:
    """What one sender sent is, byte for byte, at four destinations; those without their secret wait and say so."""
    sent = _sent(stack, 12)
    study, digests = sent[0].study_instance_uid, {sample.sha256 for sample in sent}
    eventually(
        lambda: _delivered(stack, study) == {"demo": digests, "teaching": digests},
        "those without secrets have all",
        seconds=90,
    )
    eventually(lambda: len(_waiting(stack, study)) == 2, "the others wait")
    waiting = _waiting(stack, study)
    assert "there is no secret destination-archive-token" in waiting["archive"]
    assert str(stack.home.destination_secrets) in waiting["archive"]

    (stack.home.destination_secrets / "destination-archive-token").write_text("token\n")
    for name, field in (
        ("destination-research-key-id", "store_access_key"),
        ("destination-research-key", "store_secret_key"),
    ):
        (stack.home.destination_secrets / name).write_text(getattr(stack.settings, field).get_secret_value())
    eventually(
        lambda: _delivered(stack, study) == dict.fromkeys(("demo", "teaching", "archive", "research"), digests),
        "every destination has every instance",
        seconds=120,
    )
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer token"}
    assert {data_set_sha256(file) for file in server.kept.values()} == digests
    files = (stack.home.path / "teaching").rglob("*.dcm")
    assert {data_set_sha256(path.read_bytes()) for path in files} == digests
    assert {data_set_sha256(stack.store.get(key)) for key in stack.store.keys("copies/")} == digests


def test_the_list_of_destinations_shows_where_each_is(stack: RunningStack, server: StowServer) -> None:
    """`bucky destinations` tells each kind's address in one column, and no secret."""
    listed = subprocess.run(
        (sys.executable, "-m", "bucky.cli", "destinations", "--home", str(stack.home.path)),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    rows = {line.split("\t")[0]: line.split("\t")[1:3] for line in listed.splitlines()[1:]}
    assert rows == {
        "demo": ["dimse", f"DEMO@127.0.0.1:{stack.ports.destination}"],
        "teaching": ["folder", str(Path(stack.home.path) / "teaching")],
        "archive": ["stow", server.url],
        "research": ["s3", f"s3://{stack.settings.store_bucket} at {stack.settings.store_endpoint}"],
    }
