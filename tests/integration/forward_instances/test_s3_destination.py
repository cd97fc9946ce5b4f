"""Sending to a bucket of a real S3 server: what an object carries, and that what it holds was verified."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult
from bucky.errors import DestinationUnavailable
from bucky.forwarding import Secrets, Senders, s3
from bucky.forwarding.s3 import S3Sender
from bucky.routing.destinations import S3Destination
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore, put_bytes
from tests.support.destinations.destination_worlds import S3World
from tests.support.functions.forwarding import CT, EXPLICIT
from tests.support.network.way_to_store import WayToStore

pytestmark = pytest.mark.store

KEY = "1.2/1.2.3/1.2.3.1.dcm"
STORE = os.environ.get("TEST_STORE")
needs_locks = pytest.mark.skipif(STORE == "versitygw", reason="Versity S3 Gateway locks nothing without versions")


@pytest.fixture
def world(store_settings: Settings, tmp_path: Path) -> Iterator[S3World]:
    """A bucket behind a way that can fail."""
    running = S3World(store_settings, tmp_path)
    yield running
    running.leave()


@pytest.fixture
def way(world: S3World) -> WayToStore:
    """The way to the bucket."""
    return world.way


@pytest.fixture
def store(store_settings: Settings) -> S3ObjectStore:
    """The bucket as its owner sees it."""
    return S3ObjectStore(store_settings)


def instance(content: bytes = b"data set") -> Outgoing:
    """Return an instance."""
    return Outgoing(CT, "1.2.3.1", EXPLICIT, lambda: io.BytesIO(content), {}, "1.2", "1.2.3", "a" * 64)


def sender(world: S3World, tmp_path: Path, **changes: Any) -> S3Sender:
    """Open the bucket with some fields changed."""
    return S3Sender(S3Destination.model_validate({**world.destination.model_dump(), **changes}), Secrets(tmp_path))


def sent(world: S3World, tmp_path: Path, item: Outgoing, **changes: Any) -> StoreResult:
    """Send one instance to the bucket with some fields changed."""
    opened = sender(world, tmp_path, **changes)
    (result,) = opened.send([item], seconds=60)
    opened.close()
    return result


def test_an_object_lies_where_its_key_says(world: S3World, store: S3ObjectStore, tmp_path: Path) -> None:
    """Whoever reads the bucket finds each instance by what the key's template says."""
    result = sent(world, tmp_path, instance(), key="images/{SHA256}/{SOPInstanceUID}.dcm")
    assert (result.outcome, result.answer) == (Outcome.STORED, "its SHA-256 verified")
    assert list(store.keys()) == [f"images/{'a' * 64}/1.2.3.1.dcm"]


@pytest.mark.parametrize("size", [20, 500_000, 3_000_000])
def test_bytes_changed_on_the_way_are_refused_and_sent_again(
    world: S3World, way: WayToStore, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a broken network card did to an upload never counts as delivered, in parts or whole."""
    monkeypatch.setattr(s3, "PART_BYTES", 1_000_000)
    item = instance(b"FLIPME" + bytes(size))
    way.change = lambda body: body.replace(b"FLIPME", b"FLIPNE")
    result = sent(world, tmp_path, item)
    assert result.outcome is Outcome.UNAVAILABLE
    assert world.held() == []


def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send what is larger than a part, the smallest that S3 knows, in parts."""
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 1024 * 1024)


def test_a_large_instance_goes_in_parts_and_once(
    world: S3World, way: WayToStore, store: S3ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object of many parts is whole, each part verified; sending it again is seen to be needless."""
    parts(monkeypatch)
    content = bytes(range(256)) * 50_000
    assert sent(world, tmp_path, instance(content)) == StoreResult(Outcome.STORED, answer="its SHA-256 verified")
    assert store.get(KEY).endswith(content)
    assert sum("partNumber=" in path for _method, path in way.requests) == 3
    again = sent(world, tmp_path, instance(content))
    assert (again.outcome, again.answer) == (Outcome.STORED, "already there, its SHA-256 verified")
    assert not [path for method, path in way.requests if method == "GET" and path.endswith(".dcm")]


def test_a_broken_upload_in_parts_leaves_no_object(
    world: S3World, way: WayToStore, store: S3ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of an upload that failed are given up, so that nobody pays for them."""
    parts(monkeypatch)
    way.hindered.add("partNumber=3")
    assert sent(world, tmp_path, instance(bytes(12_000_000))).outcome is Outcome.UNAVAILABLE
    assert way.requests[-1][0] == "DELETE"
    assert list(store.keys()) == []


@pytest.mark.parametrize("size", [8, 12_000_000])
def test_where_a_server_names_no_checksum_the_object_is_read_back(
    world: S3World, way: WayToStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A server that does not say what it holds is asked for the bytes before they count as delivered."""
    parts(monkeypatch)
    way.hide_checksums = True
    item = instance(bytes(size))
    assert sent(world, tmp_path, item).outcome is Outcome.STORED
    assert [path for method, path in way.requests if method == "GET"] == [f"/{world.destination.bucket}/{KEY}"]
    assert sent(world, tmp_path, item).answer.startswith("already there")


def test_an_object_that_reads_back_otherwise_is_not_delivered(world: S3World, way: WayToStore, tmp_path: Path) -> None:
    """A server that names no checksum and keeps other bytes than it was sent is found out."""
    way.hide_checksums = True
    way.change_answer = lambda body: body.replace(b"data set", b"date set")
    result = sent(world, tmp_path, instance())
    assert result.outcome is Outcome.UNAVAILABLE
    assert "holds other bytes than it was sent" in result.reason


def test_other_bytes_are_overwritten_only_when_that_is_wanted(
    world: S3World, store: S3ObjectStore, tmp_path: Path
) -> None:
    """An older object by the same key is kept, unless the destination says that it may be replaced."""
    put_bytes(store, KEY, b"old")
    refused = sent(world, tmp_path, instance())
    assert refused.outcome is Outcome.REFUSED
    assert "not overwritten" in refused.reason
    assert store.get(KEY) == b"old"
    assert sent(world, tmp_path, instance(), existing="replace").outcome is Outcome.STORED
    assert store.get(KEY).endswith(b"data set")


@pytest.mark.skipif(STORE in ("minio", "versitygw"), reason="neither has classes and encryption as it comes")
def test_an_object_has_the_class_and_encryption_that_were_asked_for(world: S3World, tmp_path: Path) -> None:
    """What an object costs and how it is encrypted is the destination's to say."""
    result = sent(world, tmp_path, instance(), storage_class="STANDARD_IA", encryption="AES256")
    assert result.outcome is Outcome.STORED
    client = sender(world, tmp_path)._client
    head = client.head_object(Bucket=world.destination.bucket, Key=KEY)
    assert (head["StorageClass"], head["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")


@needs_locks
def test_a_locked_object_cannot_be_deleted(world: S3World, tmp_path: Path) -> None:
    """What the law says must be kept is kept by the store itself, whoever has the keys."""
    opened = sender(world, tmp_path)
    bucket = f"{world.destination.bucket}-locked"
    opened._client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    fields = {"bucket": bucket, "object_lock": {"mode": "COMPLIANCE", "days": 1}, "legal_hold": True}
    assert sent(world, tmp_path, instance(), **fields).outcome is Outcome.STORED
    head = opened._client.head_object(Bucket=bucket, Key=KEY)
    assert (head["ObjectLockMode"], head["ObjectLockLegalHoldStatus"]) == ("COMPLIANCE", "ON")
    with pytest.raises(opened._client.exceptions.ClientError, match=r"AccessDenied|[Ll]ocked|WORM"):
        opened._client.delete_object(Bucket=bucket, Key=KEY, VersionId=head["VersionId"])


@needs_locks
def test_a_bucket_without_locks_does_not_take_what_must_be_locked(world: S3World, tmp_path: Path) -> None:
    """An object that was to be kept for years must not become one that anybody can delete."""
    result = sent(world, tmp_path, instance(), object_lock={"mode": "GOVERNANCE", "days": 1})
    assert (result.outcome, world.held()) == (Outcome.UNAVAILABLE, [])
    assert "Invalid" in result.reason


def test_a_bucket_that_is_not_there_is_not_made(world: S3World, tmp_path: Path) -> None:
    """A typing error in a bucket's name must be seen: SeaweedFS would make a bucket of that name."""
    result = sent(world, tmp_path, instance(), bucket="misspelled")
    assert (result.outcome, result.retry_after) == (Outcome.UNAVAILABLE, 30.0)
    assert "there is no such bucket" in result.reason


def test_wrong_secrets_are_named_and_lose_nothing(world: S3World, tmp_path: Path) -> None:
    """Keys that expired are for an administrator to put right; until then everything waits."""
    (tmp_path / "destination-key").write_text("wrong")
    result = sent(world, tmp_path, instance())
    assert (result.outcome, result.retry_after) == (Outcome.UNAVAILABLE, 30.0)
    assert "check the secrets" in result.reason


def test_secrets_that_change_are_used_at_once(world: S3World, tmp_path: Path) -> None:
    """Keys are rotated without a restart."""
    senders = Senders(Secrets(tmp_path))
    right = (tmp_path / "destination-key").read_text()
    (tmp_path / "destination-key").unlink()
    (missing,) = senders.send(world.destination, [instance()], seconds=10)
    assert "there is no secret destination-key" in missing.reason
    (tmp_path / "destination-key").write_text("old")
    (wrong,) = senders.send(world.destination, [instance()], seconds=10)
    assert wrong.outcome is Outcome.UNAVAILABLE
    (tmp_path / "destination-key").write_text(right)
    (result,) = senders.send(world.destination, [instance()], seconds=10)
    assert result.outcome is Outcome.STORED
    assert senders._sender(world.destination) is senders._sender(world.destination)
    senders.close()


def test_a_server_that_is_away_says_so(world: S3World, tmp_path: Path) -> None:
    """The reason that people read must say what to look at."""
    result = sent(world, tmp_path, instance(), endpoint=f"http://127.0.0.1:{free_port()}")
    assert result.reason.endswith("cannot be reached")


def test_an_authority_that_is_not_there_says_so(world: S3World, tmp_path: Path) -> None:
    """A missing CA file must not make the client trust anybody."""
    with pytest.raises(DestinationUnavailable, match="certificate authority"):
        sender(world, tmp_path, tls_ca_file="/nowhere/ca.pem")


def test_the_environment_of_other_programs_changes_nothing(
    world: S3World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and addresses meant for other S3 clients do not leak into a destination that has its own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_SESSION_TOKEN": "z",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_REGION": "eu-west-9",
    }.items():
        monkeypatch.setenv(name, value)
    assert sent(world, tmp_path, instance()).outcome is Outcome.STORED
