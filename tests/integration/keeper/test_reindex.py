"""`bucky reindex` rebuilds the index from the bucket alone, row by row what it was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from bucky.cloudevents import CloudEvent
from bucky.deciding.correcting import carry_out
from bucky.index import Counts, Index, Routed
from bucky.index.delivery_schema import deliveries, routings
from bucky.index.schema import arrivals, instances, reindexed_studies, series, studies
from bucky.routing.corrections import Verdict
from bucky.settings import Settings
from bucky.store.objects import MemoryObjectStore, ObjectStore, S3ObjectStore, put_bytes
from keeper.readers import DirectReader
from keeper.reindex import Reindex
from tests.support.index.rows import requested
from tests.support.services.keeper_world import ONLY_THE_INDEX_KNOWS, Tables, indexed, store_files, store_samples

pytestmark = [pytest.mark.store, pytest.mark.index]

STUDY = "1.2.3.900"


@dataclass
class Filled:
    """A store and an index with 40 instances, and the index's tables."""

    objects: ObjectStore
    index: Index
    tables: Tables

    def reindex(self, **options: bool) -> Reindex:
        """Return a reindexing of these."""
        return Reindex(self.objects, self.index, "bucky", DirectReader(self.objects, "bucky"), **options)


@pytest.fixture
def filled(index_url: str) -> Iterator[Filled]:
    """Real files of six kinds and one study of 33 images in two series, received in this order."""
    index, tables, objects = Index.open(index_url), Tables(index_url), MemoryObjectStore()
    index.migrate()
    indexed(objects, index, [*store_files(objects), *store_samples(objects, STUDY, 33)])
    yield Filled(objects, index, tables)
    index.close()
    tables.close()


def test_a_right_index_is_left_as_it_is(filled: Filled) -> None:
    """Reindexing what is right changes no column of no row."""
    before = filled.tables.rows()
    report = filled.reindex().run()
    assert filled.tables.rows() == before
    assert (report.objects, report.same, report.new, report.changed) == (40, 40, 0, 0)
    assert filled.index.counts() == Counts(studies=7, series=8, instances=39, conflicts=1)


def test_a_damaged_index_is_made_identical(filled: Filled) -> None:
    """Lost and falsified rows of every table come back, whatever the index alone knows staying as it was."""
    before = filled.tables.rows()
    filled.tables.execute(
        update(instances).where(instances.c.study_instance_uid == STUDY).values(header=b"x", rows=1, key="elsewhere"),
        update(studies).values(patient_id="somebody else", study_date=None),
        update(series).values(instance_count=99, modality="XX", series_number=None),
    )
    report = filled.reindex().run()
    assert filled.tables.rows() == before
    assert report.changed == 33


def test_a_lost_index_is_rebuilt_from_the_bucket_alone(filled: Filled) -> None:
    """With no row left, all comes back but what the documentation names; the first bytes are current again."""
    before = filled.tables.rows(without=ONLY_THE_INDEX_KNOWS)
    filled.tables.empty()
    report = filled.reindex().run()
    assert filled.tables.rows(without=ONLY_THE_INDEX_KNOWS) == before
    assert (report.new, report.same, report.changed) == (40, 0, 0)
    row = filled.index.instances(STUDY)[0]
    assert (row.association_id, row.source_address, row.trace_id) == ("", "", None)
    assert row.received_at == row.stored_at is not None


def test_nothing_is_sent_because_of_a_rebuild(filled: Filled) -> None:
    """What is rebuilt counts as routed and as stable, and deliveries are not touched."""
    request = requested("a")
    filled.index.request_deliveries([request], routed=[Routed(request.instance.sha256, 3, 1)])
    before = filled.tables.rows(deliveries)
    filled.tables.execute(delete(instances), delete(series), delete(studies), delete(arrivals))
    filled.reindex().run()
    rows = filled.tables.rows(deliveries, routings, arrivals)
    assert rows["deliveries"] == before["deliveries"]
    assert len(rows["routings"]) == 39 + 1
    assert [row["open"] for row in rows["arrivals"]] == [False] * (7 + 8)


def test_rows_without_an_object_are_evidence_until_pruned(filled: Filled) -> None:
    """A lost object's row is reported and kept; `prune` removes it and counts anew, whole studies too."""
    kept, lost = MemoryObjectStore(), []
    for one in filled.objects.listing():
        if f"/{STUDY}.1/" in one.key or "1.3.6.1.4.1.5962.1.2.4.20040826185059.5457" in one.key:
            lost.append(one.key.rpartition("/")[2].removesuffix(".dcm"))
        else:
            put_bytes(kept, one.key, filled.objects.get(one.key))
    assert len(lost) == 16 + 1
    filled.objects = kept
    before = filled.tables.rows()
    report = filled.reindex().run()
    assert sorted(report.missing) == sorted(lost)
    assert filled.tables.rows() == before
    pruned = filled.reindex(prune=True).run()
    assert sorted(pruned.missing) == sorted(lost)
    assert filled.index.counts() == Counts(studies=6, series=6, instances=22, conflicts=1)
    assert filled.index.study(STUDY).instance_count == 17
    assert not filled.reindex().run().missing


def test_what_is_no_instance_is_reported_and_left_alone(filled: Filled) -> None:
    """A foreign object, and one that is no DICOM file under an instance's key, stop nothing."""
    key = f"studies/1.2/1.2.3/1.2.3.4/{'a' * 64}.dcm"
    put_bytes(filled.objects, key, b"not a DICOM file")
    put_bytes(filled.objects, "backup/notes.txt", b"x")
    before = filled.tables.rows()
    report = filled.reindex().run()
    assert (report.unreadable, report.foreign) == ([key], ["backup/notes.txt"])
    assert filled.tables.rows() == before


class Unheard:
    """A publisher to nobody."""

    async def publish(self, event: CloudEvent) -> None:
        """Drop an event."""


@pytest.mark.parametrize("verdict", [Verdict.ACCEPTED, Verdict.REJECTED])
async def test_a_lost_index_comes_back_as_it_was_decided(filled: Filled, verdict: Verdict) -> None:
    """From the bucket alone the accepted bytes are current and the rejected not open, and nothing is foreign."""
    (other,) = filled.index.conflicts()
    decision = filled.index.decide(other.sha256, verdict, "me", "why")
    await carry_out(decision, filled.index, filled.objects, Unheard(), "/test")
    before = filled.tables.rows(without=ONLY_THE_INDEX_KNOWS)
    filled.tables.empty()
    report = filled.reindex().run()
    assert filled.tables.rows(without=ONLY_THE_INDEX_KNOWS) == before
    assert (report.foreign, filled.index.conflicts()) == ([], [])
    assert filled.index.decisions_about(other.sop_instance_uid) == [decision]
    assert filled.index.decide(other.sha256, verdict, "somebody else") == decision


def test_an_event_that_comes_later_completes_a_rebuilt_row(filled: Filled) -> None:
    """An instance that was rebuilt before its event came gets from it what only the event knows."""
    late = store_samples(filled.objects, STUDY, 1, first=33)
    filled.reindex().run()
    assert filled.index.instance(late[0].sha256).association_id == ""
    indexed(filled.objects, filled.index, late)
    row = filled.index.instance(late[0].sha256)
    assert (row.association_id, row.received_at) == ("association-1", late[0].received_at)
    assert row.trace_id is not None
    assert filled.index.study(STUDY).instance_count == 34


def test_what_arrives_meanwhile_is_kept(filled: Filled) -> None:
    """An instance indexed while the index is rebuilt, and listed too late, is neither removed nor miscounted."""
    started, _ = filled.index.begin_reindex("bucky")
    indexed(filled.objects, filled.index, store_samples(filled.objects, STUDY, 2, first=50))
    hidden = MemoryObjectStore()
    for one in filled.objects.listing():
        if filled.index.instance(one.key.rpartition("/")[2][:64]).indexed_at < started:
            put_bytes(hidden, one.key, filled.objects.get(one.key))
    report = Reindex(hidden, filled.index, "bucky", DirectReader(hidden, "bucky"), prune=True).run()
    assert (report.missing, filled.index.study(STUDY).instance_count) == ([], 35)


RUN = """
import os, sys
from bucky.index import Index
from bucky.store.objects import S3ObjectStore
from bucky.settings import Settings
from keeper import reindex
from keeper.readers import ProcessReader

def advance(count):
    print(count, flush=True)
    sys.stdin.readline()

if __name__ == "__main__":
    reindex.WRITTEN_AT_ONCE = 20
    settings = Settings.load(os.environ)
    with ProcessReader(settings, processes=2) as reader:
        objects, index = S3ObjectStore(settings), Index.open(sys.argv[1])
        report = reindex.Reindex(objects, index, settings.store_bucket, reader).run(advance)
    print(report.resumed, report.objects, flush=True)
"""


def test_a_killed_run_goes_on_where_it_was(store_settings: Settings, index_url: str, tmp_path: Path) -> None:
    """kill -9 between any two transactions loses none of the work and makes nothing wrong."""
    objects, index, tables = S3ObjectStore(store_settings), Index.open(index_url), Tables(index_url)
    index.migrate()
    for number in range(6):
        indexed(objects, index, store_samples(objects, f"1.2.3.{number}", 25, bucket=store_settings.store_bucket))
    before = tables.rows(without=ONLY_THE_INDEX_KNOWS)
    tables.empty()
    done = 0
    for _ in range(3):
        process = _started(store_settings, index_url, tmp_path / "run.py")
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        while len(tables.rows(reindexed_studies)["reindexed_studies"]) <= done:
            assert process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = len(tables.rows(reindexed_studies)["reindexed_studies"])
    process = _started(store_settings, index_url, tmp_path / "run.py")
    out, err = process.communicate("\n" * 1000, timeout=300)
    assert process.returncode == 0, err
    resumed, worked = (int(number) for number in out.splitlines()[-1].split())
    assert (resumed, resumed + worked) == (25 * done, 150)
    assert 3 <= done < 6
    assert tables.rows(without=ONLY_THE_INDEX_KNOWS) == before
    index.close()
    tables.close()


def _started(settings: Settings, index_url: str, script: Path) -> "subprocess.Popen[str]":
    script.write_text(RUN)
    environ = {
        "BUCKY_STORE_ENDPOINT": settings.store_endpoint,
        "BUCKY_STORE_BUCKET": settings.store_bucket,
        "BUCKY_STORE_ACCESS_KEY": settings.store_access_key.get_secret_value(),
        "BUCKY_STORE_SECRET_KEY": settings.store_secret_key.get_secret_value(),
    }
    return subprocess.Popen(
        [sys.executable, str(script), index_url],
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
