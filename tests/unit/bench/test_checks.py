"""The benchmark's own checks: numbers that do not count must not be counted."""

import os
from dataclasses import replace
from pathlib import Path

from bench import arrivals, pipeline_page, stored, targets
from bench.arrivals import Sending
from bench.cargo import CT_IMAGE, Cargo, cargo
from bench.journeys import Journey, Journeys
from bench.lab import Run
from bench.plan import CT, full, quick
from bench.results import Results, summary
from bench.senders import Load

RUN = Run(
    rate=100,
    megabytes=50,
    cpu_ms=0.3,
    cpu_percent=3,
    idle_bytes=10,
    peak_bytes=30,
    instances=100,
    seconds=1,
    admitted=4,
    least=20,
    most=30,
    p50_ms=1,
    p99_ms=2,
    sender_cpu_ms=0.1,
    others=0.0,
)


def _received(folder: Path, count: int) -> tuple[Cargo, list[Path]]:
    made = cargo(20_000)
    return made, made.write_files(folder, count, "77")


def test_what_was_sent_is_found_right(tmp_path: Path) -> None:
    """A receiver that stored every byte of every instance must not be accused."""
    made, _ = _received(tmp_path, 3)
    assert made.sop_class_uid == CT_IMAGE
    assert stored.fault(tmp_path, made, 3) == ""


def test_a_missing_instance_is_found(tmp_path: Path) -> None:
    """An instance acknowledged but not stored voids the run."""
    made, paths = _received(tmp_path, 3)
    paths[0].unlink()
    assert "3 instances were acknowledged, 2 are stored" in stored.fault(tmp_path, made, 3)


def test_a_wrong_byte_is_found(tmp_path: Path) -> None:
    """One changed byte in the pixel data voids the run."""
    made, paths = _received(tmp_path, 1)
    content = bytearray(paths[0].read_bytes())
    content[-5000] ^= 1
    paths[0].write_bytes(content)
    assert "differs" in stored.fault(tmp_path, made, 1)


def test_emptied_files_hold_nothing_and_stay(tmp_path: Path) -> None:
    """Files are truncated, not deleted, between runs."""
    made, paths = _received(tmp_path / "deep" / "down", 2)
    stored.empty(tmp_path)
    assert [path.stat().st_size for path in paths] == [0, 0]
    assert stored.instances(tmp_path, made) == []


def test_medians_leave_out_disturbed_runs() -> None:
    """A run that other programs disturbed counts only when there is no calm one."""
    runs = [replace(RUN, rate=rate) for rate in (90, 100, 110)]
    disturbed = replace(RUN, rate=10, others=0.5)
    assert summary([*runs, disturbed, disturbed, disturbed, disturbed]).rate == 100
    assert summary([disturbed]).rate == 10


def test_a_void_run_voids_the_receiver() -> None:
    """A receiver that lost a byte once has no rate, however fast it was."""
    results = Results()
    load = Load(CT, 4)
    for run in (RUN, replace(RUN, void="a stored data set differs from what was sent")):
        results.add(load, "bucky", run)
    assert results.get("bucky", size=CT) is None
    assert len(results.voids()) == 1


def test_targets_are_met_missed_or_not_measured() -> None:
    """A target without numbers is neither met nor missed, and one with too low numbers is missed."""
    results = Results()
    results.add(Load(CT, 4), "bucky bare", replace(RUN, rate=1200))
    results.add(Load(CT, 4), "storescp --fork", replace(RUN, rate=1000))
    results.add(Load(CT, 4), "pynetdicom", replace(RUN, rate=50))
    verdicts = {verdict.name: verdict for verdict in targets.verdicts(results)}
    assert not verdicts["0.5 MB x4: bucky bare / storescp --fork"].met
    assert verdicts["0.5 MB x4: bucky bare / pynetdicom"].met
    assert verdicts["0.5 MB x4: bucky bare / Orthanc"].found is None


def test_every_load_has_a_name_of_its_own() -> None:
    """Results are kept and chosen by name, so no two loads may share one."""
    for plan in (full(), quick()):
        keys = [cell.load.key for cell in plan]
        assert len(keys) == len(set(keys))


def test_what_did_not_come_out_as_it_went_in_is_found(tmp_path: Path) -> None:
    """An instance lost on the way, one that nobody sent, and one changed byte each void a journey."""
    made, paths = _received(tmp_path, 3)
    renamed = [path.rename(path.with_name(f"2.25.{'77' + str(n).zfill(22)}.dcm")) for n, path in enumerate(paths)]
    sent = {path.name[5:29] for path in renamed}
    assert arrivals.fault(tmp_path, made, sent) == ""
    assert "1 did not arrive" in arrivals.fault(tmp_path, made, sent | {"9" * 24})
    assert "1 arrived that were not sent" in arrivals.fault(tmp_path, made, set(list(sent)[1:]))
    content = bytearray(renamed[1].read_bytes())
    content[-5000] ^= 1
    renamed[1].write_bytes(content)
    assert "differs" in arrivals.fault(tmp_path, made, sent)


def test_the_time_on_the_way_begins_with_the_senders_answer(tmp_path: Path) -> None:
    """Stored to delivered is counted from the answer to each instance to the last write to its file."""
    made, paths = _received(tmp_path, 2)
    renamed = [path.rename(path.with_name(f"2.25.{'77' + str(n).zfill(22)}.dcm")) for n, path in enumerate(paths)]
    for number, path in enumerate(renamed):
        os.utime(path, (1000 + number, 1000 + number))
    answers = tmp_path / "answers"
    answers.write_text("".join(f"{path.name[5:29]} 998.5 999.25\n" for path in renamed))
    assert arrivals.latencies(tmp_path, made, Sending.read(answers)) == [0.75, 1.75]
    assert arrivals.last_arrival(tmp_path, made) == 1001


def test_a_void_journey_meets_no_target() -> None:
    """A pipeline that lost a byte once is neither fast nor slow."""
    good = Journey(100, 1.0, 200.0, 90.0, 400.0, 500.0, {"edge": 1.0})
    journeys = Journeys()
    for load in ("steady", "burst"):
        for way in (pipeline_page.OURS[0], *pipeline_page.THEIRS):
            journeys.add(load, "C sink", way, good)
    assert [one.met for one in pipeline_page.verdicts(journeys)] == [True, True, False, False]
    journeys.add("steady", "C sink", pipeline_page.OURS[0], replace(good, void="a data set differs"))
    assert [one.found for one in pipeline_page.verdicts(journeys)] == [None, None, 1, 1]
    assert len(journeys.voids()) == 1
