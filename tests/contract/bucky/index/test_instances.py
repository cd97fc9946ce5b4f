"""The index's promises about instances, the same on SQLite and PostgreSQL."""

import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from bucky.errors import NotFound
from bucky.index import Counts, Index, IndexedInstance, InstanceRow, UpsertOutcome
from tests.support.index.rows import RECEIVED_AT, digest, header, indexed, received

pytestmark = pytest.mark.index


def test_what_goes_in_comes_out(index: Index) -> None:
    """Nothing an event said of an instance, and nothing of its header, is lost or changed."""
    ct = indexed("a", header(PatientName="Doe^Jane", InstanceNumber=7, Rows=512), size=3 * 2**31)
    index.upsert_instances([ct])
    row = index.instance(digest("a"))
    assert row.received() == ct.received
    assert row.header == ct.header
    assert (row.instance_number, row.rows, row.columns) == (7, 512, None)
    assert (row.conflict, row.header_error, row.trace_id) == (False, None, "ab" * 16)
    assert row.indexed_at.utcoffset() == timedelta(0)


def test_twice_is_once(index: Index) -> None:
    """Indexing a batch again changes nothing, whether in the same batch or a later one."""
    batch = [indexed("a"), indexed("b"), indexed("a")]
    first = index.upsert_instances(batch)
    assert [one.outcome for one in first] == [UpsertOutcome.NEW] * 3
    before = index.study("1.2")
    again = index.upsert_instances(batch)
    assert [one.outcome for one in again] == [UpsertOutcome.KNOWN] * 3
    assert index.study("1.2") == before
    assert index.counts() == Counts(studies=1, series=1, instances=2, conflicts=0)


def test_other_bytes_under_the_same_uid_are_a_conflict(index: Index) -> None:
    """The first bytes of a SOP Instance UID stay current; later ones are kept, counted apart, and change nothing."""
    index.upsert_instances([indexed("a", header(PatientID="P1"), sop_instance_uid="1.9")])
    other = indexed("b", header(PatientID="P2", Modality="MR"), sop_instance_uid="1.9")
    for _ in range(2):
        (result,) = index.upsert_instances([other])
        assert (result.outcome, result.existing_sha256) == (UpsertOutcome.CONFLICT, digest("a"))
    assert [row.sha256 for row in index.conflicts()] == [digest("b")]
    study = index.study("1.2")
    assert (study.patient_id, study.modalities) == ("P1", ())
    assert (study.instance_count, study.conflict_count) == (1, 1)


@pytest.mark.parametrize(("first", "second"), ["ab", "ba"])
def test_a_conflict_within_one_batch_is_found(index: Index, first: str, second: str) -> None:
    """Two different digests of one SOP Instance UID in a batch: the one received first is current."""
    late = indexed(second, sop_instance_uid="1.9", received_at=RECEIVED_AT + timedelta(seconds=1))
    early = indexed(first, sop_instance_uid="1.9")
    results = index.upsert_instances([late, early])
    assert [one.outcome for one in results] == [UpsertOutcome.CONFLICT, UpsertOutcome.NEW]
    assert results[0].existing_sha256 == digest(first)


@pytest.mark.parametrize("readable", ["ab", "bc", "ca"])
def test_a_batch_completes_its_own_study(index: Index, readable: str) -> None:
    """Unreadable headers in a batch, wherever they stand in it, leave the study what the readable ones say."""
    batch = [indexed(name, header(PatientID="P1") if name in readable else None) for name in "abc"]
    index.upsert_instances(batch)
    assert index.study("1.2").patient_id == "P1"


def test_first_value_of_an_attribute_stays_and_gaps_are_filled(index: Index) -> None:
    """A study made from an unreadable header is completed by the next instance, and not changed after that."""
    index.upsert_instances([indexed("a")])
    index.upsert_instances([indexed("b", header(PatientID="P1", SeriesNumber=4, Modality="CT"))])
    index.upsert_instances([indexed("c", header(PatientID="P2", SeriesNumber=5, Modality="MR"))])
    (series,) = index.series("1.2")
    assert (index.study("1.2").patient_id, series.series_number, series.modality) == ("P1", 4, "CT")
    assert series.instance_count == 3


def test_one_series_uid_in_two_studies_is_two_series(index: Index) -> None:
    """A sender that uses a series UID twice does not make one study swallow the other's series."""
    index.upsert_instances([indexed("a"), indexed("b", study_instance_uid="1.3")])
    assert [index.study(uid).series_count for uid in ("1.2", "1.3")] == [1, 1]
    assert [row.sha256 for row in index.instances("1.3")] == [digest("b")]


def test_instances_come_in_the_order_of_their_numbers(index: Index) -> None:
    """A series is listed as a reader scrolls it, those without a number last, pages without gap or overlap."""
    numbers = [3, 10, 1, 2]
    batch = [indexed(f"n{number}", header(InstanceNumber=number)) for number in numbers]
    index.upsert_instances([*batch, indexed("none")])
    pages = [index.instances("1.2", "1.2.3", limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [row.instance_number for page in pages for row in page] == [1, 2, 3, 10, None]


def test_hostile_values_are_stored(index: Index) -> None:
    """Values a database would refuse (NUL, lone surrogates, huge numbers or texts) do not lose the instance."""
    hostile = header(
        PatientID="a\x00b\ud800",
        StudyDescription="x" * 100_000,
        AccessionNumber=" ",
        InstanceNumber=10**30,
        SeriesNumber="seven",
        StudyDate="2026-99",
    )
    hostile["00080060"] = {"vr": "CS"}
    hostile["00100010"] = {"vr": "PN", "Value": [{"Ideographic": "山田^太郎"}]}
    (result,) = index.upsert_instances([indexed("a", hostile)])
    study = index.study("1.2")
    assert result.outcome is UpsertOutcome.NEW
    assert (study.patient_id, study.accession_number, study.study_date) == ("a\ufffdb\ufffd", None, None)
    assert study.patient_name == "=山田^太郎"
    assert index.instance(digest("a")).instance_number is None


def test_what_is_not_there_is_not_found(index: Index) -> None:
    """A missing study or instance raises rather than look like an empty one."""
    with pytest.raises(NotFound):
        index.study("1.2")
    with pytest.raises(NotFound):
        index.instance(digest("a"))
    assert index.instances_by_digest([digest("a")]) == {}
    assert index.upsert_instances([]) == []


def test_concurrent_batches_agree(index: Index) -> None:
    """Eight writers with overlapping, shuffled and conflicting batches leave one current instance for each UID."""
    contenders = [
        indexed(
            f"{uid}-{version}",
            header(Modality="CT"),
            sop_instance_uid=f"1.9.{uid}",
            series_instance_uid=f"1.2.{uid % 3}",
        )
        for uid in range(20)
        for version in range(3)
    ]

    def write(seed: int) -> list[tuple[str, UpsertOutcome]]:
        shuffled = random.Random(seed).sample(contenders, len(contenders))
        batches = [shuffled[start : start + 20] for start in range(0, len(shuffled), 20)]
        return [(one.sha256, one.outcome) for batch in batches for one in index.upsert_instances(batch)]

    outcomes = _all_at_once(write, 8)
    new = Counter(digest for digest, outcome in outcomes if outcome is UpsertOutcome.NEW)
    assert len(new) == 20
    assert set(new.values()) == {1}, "two writers both believed to be the first"
    conflicts = {digest for digest, outcome in outcomes if outcome is UpsertOutcome.CONFLICT}
    assert len(conflicts) == 40
    assert not conflicts & set(new)
    assert index.counts() == Counts(studies=1, series=3, instances=20, conflicts=40)
    counted = index.series("1.2")
    assert sum(one.instance_count for one in counted) == 20
    assert sum(one.conflict_count for one in counted) == 40


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_the_rows(index: Index, seed: int) -> None:
    """Whatever is indexed in whatever order, the counts kept for series are the number of their rows."""
    chance = random.Random(seed)
    for _ in range(12):
        batch = [_anything(chance) for _ in range(chance.randint(1, 12))]
        index.upsert_instances(batch)
    total = index.counts()
    rows = [row for study in ("1.1", "1.2") for row in index.instances(study, limit=1000)]
    assert total.instances == sum(not row.conflict for row in rows)
    assert total.conflicts == sum(row.conflict for row in rows)
    assert len({row.sop_instance_uid for row in rows if not row.conflict}) == total.instances
    for study in ("1.1", "1.2"):
        for series in index.series(study):
            own = index.instances(study, series.series_instance_uid, limit=1000)
            assert series.instance_count == sum(not row.conflict for row in own)
            assert series.conflict_count == sum(row.conflict for row in own)


def _anything(chance: random.Random) -> IndexedInstance:
    sop = chance.randint(1, 15)
    return indexed(
        f"{sop}-{chance.randint(1, 2)}",
        sop_instance_uid=f"1.9.{sop}",
        study_instance_uid=f"1.{1 + sop % 2}",
        series_instance_uid=f"1.5.{sop % 3}",
    )


def _all_at_once(
    write: Callable[[int], list[tuple[str, UpsertOutcome]]], writers: int
) -> list[tuple[str, UpsertOutcome]]:
    barrier = threading.Barrier(writers)

    def run(seed: int) -> list[tuple[str, UpsertOutcome]]:
        barrier.wait()
        return write(seed)

    with ThreadPoolExecutor(writers) as pool:
        return [outcome for outcomes in pool.map(run, range(writers)) for outcome in outcomes]


def test_what_was_received_in_a_time_comes_in_pages(index: Index) -> None:
    """A rehearsal sees each current instance of its time once, in order, with its header, and no conflict."""
    times = [RECEIVED_AT + timedelta(minutes=minutes) for minutes in (0, 1, 1, 2)]
    index.upsert_instances(
        [indexed(f"i{number}", header(Modality="CT"), received_at=at) for number, at in enumerate(times)]
    )
    other = indexed("other", sop_instance_uid=received("i0").sop_instance_uid, received_at=times[1])
    index.upsert_instances([other])
    assert [row.received_at for row in index.instances_received(times[0], times[3])] == times[:3]
    seen: list[InstanceRow] = []
    while page := index.instances_received(
        times[0], times[3] + timedelta(seconds=1), after=seen[-1].sha256 if seen else None, limit=1
    ):
        seen += page
    assert [row.sha256 for row in seen] == [
        digest("i0"),
        *sorted([digest("i1"), digest("i2")]),
        digest("i3"),
    ]
    assert all(row.header == header(Modality="CT") for row in seen)


def test_the_listener_is_kept(index: Index) -> None:
    """The listener that received an instance is known when its rules are asked again later."""
    index.upsert_instances([indexed("a", listener="BUCKY:11112")])
    assert index.instance(digest("a")).received().listener == "BUCKY:11112"
