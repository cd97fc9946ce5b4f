"""The edge alone against a real broker and a real object store, and without them."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from pynetdicom import AE

from bucky.dicom.identity import Identity, read_identity
from bucky.dicom.part10 import split
from bucky.dimse import Outcome, Outgoing, store_all
from bucky.errors import InvalidInstance
from bucky.events import InstanceStored, payload_of
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.edge.edge_process import EdgeProcess, edge_process, stored_events
from tests.support.servers import Running
from tests.support.waiting import eventually

pytestmark = pytest.mark.store

FOLDER = Path(pydicom.data.__file__).parent


@dataclass(frozen=True)
class RealFile:
    """A bundled file the edge must keep."""

    identity: Identity
    transfer_syntax_uid: str
    data_set: bytes

    @property
    def outgoing(self) -> Outgoing:
        """The file as the sender takes it."""
        return Outgoing(
            self.identity.sop_class_uid,
            self.identity.sop_instance_uid,
            self.transfer_syntax_uid,
            partial(BytesIO, self.data_set),
        )


def real_files() -> list[RealFile]:
    """Return every bundled file that is a whole instance, each data set once."""
    found: dict[str, RealFile] = {}
    for path in sorted(FOLDER.rglob("*.dcm")):
        content = path.read_bytes()
        with contextlib.suppress(InvalidInstance):
            meta, offset = split(content)
            data_set = content[offset:]
            identity = read_identity(data_set, meta.transfer_syntax_uid)
            found[sha256(data_set).hexdigest()] = RealFile(identity, meta.transfer_syntax_uid, data_set)
    return list(found.values())


async def _assert_all_arrived(store: Settings, broker: Settings, expected: set[str]) -> None:
    """Each digest is in the bucket under its own bytes, and in the stream exactly once."""
    events = await stored_events(broker)
    digests = [event.id for event in events]
    assert sorted(digests) == sorted(set(digests)), "an event is in the stream twice"
    missing = expected - set(digests)
    assert not missing, f"{len(missing)} acknowledged instances have no event"
    objects = S3ObjectStore(store)
    by_key = {key.rpartition("/")[2].removesuffix(".dcm"): key for key in objects.keys("studies/")}
    for event in events:
        payload = payload_of(event)
        assert isinstance(payload, InstanceStored)
        assert by_key[payload.sha256] == payload.key
        content = objects.get(payload.key)
        meta, offset = split(content)
        assert sha256(content[offset:]).hexdigest() == payload.sha256
        assert meta.transfer_syntax_uid == payload.transfer_syntax_uid


async def test_real_files_arrive_with_their_bytes_and_one_event_each(
    tmp_path: Path, store_settings: Settings, nats_settings: Settings
) -> None:
    """Every real file, sent twice, is one object with the sender's bytes and one event."""
    files = real_files()
    assert len(files) > 70
    assert len({file.transfer_syntax_uid for file in files}) >= 10
    with edge_process(tmp_path, store_settings, nats_settings) as edge:
        items = [file.outgoing for file in files] * 2
        results = store_all(edge.peer(), items, associations=4)
        assert [result for result in results if result.outcome is not Outcome.STORED] == []
        eventually(lambda: edge.spooled() == 0, "the spool is empty")
        health = edge.health()
        assert (health["status"], health["store"]["ok"], health["broker"]["ok"]) == ("ok", True, True)
        lines = edge.log_lines()
    expected = {sha256(file.data_set).hexdigest() for file in files}
    await _assert_all_arrived(store_settings, nats_settings, expected)
    for name, count in (("instance.acknowledged", 2), ("instance.released", 2)):
        assert sum(line["event"] == name for line in lines) == count * len(files)


async def test_outages_of_store_and_broker_cost_nothing(
    tmp_path: Path, store_server: tuple[Running, Settings], nats_server: tuple[Running, Settings]
) -> None:
    """With the store down, then the broker too, the edge acknowledges into the spool and drains by itself."""
    (store, store_settings), (broker, nats_settings) = store_server, nats_server
    first, second, third = samples(15), samples(15), samples(15)
    with edge_process(tmp_path, store_settings, nats_settings) as edge:
        _send_all(edge, first)
        eventually(lambda: edge.spooled() == 0, "the first instances are through")
        store.kill()
        _send_all(edge, second)
        eventually(lambda: not edge.health()["store"]["ok"], "the edge knows that the store is down")
        broker.kill()
        _send_all(edge, third)
        assert edge.until_counted(30)["accepting"]
        assert edge.health_status() == 200
        store.start()
        eventually(lambda: edge.health()["store"]["ok"], "the store is back for the edge")
        edge.until_counted(30)
        broker.start()
        eventually(lambda: edge.spooled() == 0, "the spool has drained")
        downs = [line["dependency"] for line in edge.log_lines() if line["event"] == "dependency.down"]
        assert 1 <= downs.count("store") <= 3
    expected = {sample.sha256 for sample in (*first, *second, *third)}
    await _assert_all_arrived(store_settings, nats_settings, expected)


async def test_kill_in_the_middle_of_a_send_loses_nothing_acknowledged(
    tmp_path: Path, store_settings: Settings, nats_settings: Settings
) -> None:
    """After kill -9 while sending and a restart, everything acknowledged is in bucket and stream."""
    sent = samples(120)
    acknowledged: set[str] = set()
    enough = threading.Event()

    def note(index: int, result: object) -> None:
        if getattr(result, "outcome", None) is Outcome.STORED:
            acknowledged.add(sent[index].sha256)
            if len(acknowledged) >= 40:
                enough.set()

    with edge_process(tmp_path, store_settings, nats_settings) as edge, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(store_all, edge.peer(), [s.outgoing for s in sent], associations=4, on_result=note)
        assert enough.wait(30)
        edge.kill()
        sending.result()
        assert 40 <= len(acknowledged) < len(sent)
        (edge.spool / "ready" / "00000000000000000001-half.dcm").write_bytes(b"torn by a power cut")
        edge.start()
        eventually(lambda: edge.spooled() == 0, "the resumed spool has drained")
        assert edge.health()["spool"]["quarantined"] == 1
        (reason,) = (edge.spool / "quarantine").glob("*.reason")
        assert "cut short" in reason.read_text() or "shorter" in reason.read_text()
    await _assert_all_arrived(store_settings, nats_settings, acknowledged)


async def test_a_full_spool_refuses_and_recovers(
    tmp_path: Path, store_server: tuple[Running, Settings], nats_settings: Settings
) -> None:
    """With no room left the edge answers 0xA700 and says so; when the store is back it accepts again."""
    store, store_settings = store_server
    store.kill()
    sent = samples(12)
    with edge_process(tmp_path, store_settings, nats_settings, spool_max_bytes=200_000) as edge:
        results = store_all(edge.peer(), [sample.outgoing for sample in sent])
        refused = [result for result in results if result.status == 0xA700]
        kept = [result for result in results if result.status == 0]
        assert kept
        assert refused
        assert len(kept) + len(refused) == len(sent)
        assert "full" in refused[0].comment
        edge.until_counted(len(kept))
        store.start()
        eventually(lambda: edge.spooled() == 0, "the spool has drained")
        _send_all(edge, [sample for sample, result in zip(sent, results, strict=True) if result.status][:4])
        eventually(lambda: edge.spooled() == 0, "the later ones are through")
    expected = {sample.sha256 for sample, result in zip(sent, results, strict=True) if result.status == 0}
    await _assert_all_arrived(store_settings, nats_settings, expected)


def test_starts_and_receives_with_nothing_to_upload_to(tmp_path: Path) -> None:
    """Without store and broker the edge starts, acknowledges, says what is missing, and stops cleanly."""
    with edge_process(tmp_path) as edge:
        _send_all(edge, samples(3))
        eventually(lambda: "cannot be reached" in edge.health()["store"]["error"], "store known down")
        health = edge.until_counted(3)
        assert health["status"] == "degraded"
        assert health["spool"]["bytes"] > 3 * 30_000
        edge.terminate()
        assert edge.process is not None
        assert edge.process.wait(15) == 0
        assert edge.log_lines()[-1]["event"] == "edge.stopped"


def test_sigterm_lets_an_open_association_finish(tmp_path: Path) -> None:
    """After SIGTERM no new association is accepted, and the one that is open may finish its work."""
    with edge_process(tmp_path) as edge:
        entity = AE("TEST")
        entity.add_requested_context("1.2.840.10008.1.1")
        association = entity.associate("127.0.0.1", edge.port, ae_title="BUCKY")
        assert association.is_established
        edge.terminate()
        eventually(lambda: not _answers(edge.port), "the port is closed")
        edge.assert_finishes(association)


def test_a_store_that_never_answers_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    """SIGTERM ends the edge within seconds though an upload hangs; the instance stays in the spool."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with edge_process(tmp_path, store_endpoint=endpoint) as edge:
            _send_all(edge, samples(1))
            edge.terminate()
            assert edge.process is not None
            assert edge.process.wait(12) == 0
            assert edge.log_lines()[-1]["spooled"] == 1
    assert len(list((edge.spool / "ready").iterdir())) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"edge_http_port": "x"}, "BUCKY_EDGE_HTTP_PORT"),
        ({"store_barrier": "syncfs"}, "BUCKY_STORE_BARRIER_PATH"),
        ({"spool_dir": "/proc/spool"}, "BUCKY_SPOOL_DIR"),
    ],
)
def test_what_is_wrong_at_start_is_one_sentence(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    """A setting that cannot work ends the process with a sentence that names it, not a traceback."""
    edge = EdgeProcess(tmp_path, None, None, **more)
    with pytest.raises(Exception, match="ended with code 1"):
        edge.start()
    text = edge.log.read_text()
    assert words in text
    assert "Traceback" not in text


def _send_all(edge: EdgeProcess, sent: list[Sample]) -> None:
    results = store_all(edge.peer(), [sample.outgoing for sample in sent], associations=2)
    assert [result for result in results if result.outcome is not Outcome.STORED] == []


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
