"""The store's disk is full for a while: the edge says so, keeps what it receives, and goes on by itself."""

from pathlib import Path

import pytest

from bucky.dimse import Outcome, store_all
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from tests.support.dicom.sample_instances import samples
from tests.support.edge.edge_process import edge_process
from tests.support.faults.small_disk import small_disk
from tests.support.servers import OWN_STORE, make_store
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(180)


def test_a_store_that_keeps_nothing_is_not_up(tmp_path: Path, nats_settings: Settings) -> None:
    """It answers whoever asks whether it is there; that it refuses what it is given is what counts."""
    with small_disk(tmp_path / "disk", 160) as disk:
        store, settings = make_store(disk.folder, OWN_STORE)
        try:
            with edge_process(tmp_path, settings, nats_settings) as edge:
                eventually(lambda: edge.health()["store"]["ok"], "the store is there")
                disk.fill()
                sent = samples(3)
                results = store_all(edge.peer(), [one.outgoing for one in sent])
                assert {result.outcome for result in results} == {Outcome.STORED}
                eventually(lambda: not edge.health()["store"]["ok"], "the edge says that the store is not well")
                S3ObjectStore(settings).check()
                (told,) = [one for one in edge.health()["trouble"] if one["part"] == "store"]
                assert "stays in the spool" in told["effect"]
                disk.free()
                eventually(lambda: edge.spooled() == 0, "everything is uploaded")
                eventually(lambda: edge.health()["store"]["ok"], "the store is well again")
        finally:
            store.stop()
