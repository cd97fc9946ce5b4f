"""The object store that `bucky up` brings: which one it is, and that a home stays with the one it began with."""

import errno
import os
import socket
from pathlib import Path

import pytest

from bucky.dimse import Outcome, Peer, store_all
from bucky.index import DeliveryState
from local_stack import own_store
from local_stack.layout import CannotStart, Home, Ports
from local_stack.own_store import GATEWAY
from local_stack.servers import built
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

needs_gateway = pytest.mark.skipif(built(GATEWAY) is None, reason="run `tools/build versitygw`")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home nothing was started in."""
    home = Home(tmp_path / "home")
    home.create()
    return home


@pytest.fixture
def is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gateway count as built."""
    monkeypatch.setattr(own_store, "built", lambda _tool: "/opt/versitygw")


@pytest.fixture
def is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gateway count as not built."""
    monkeypatch.setattr(own_store, "built", lambda _tool: None)


def chosen(home: Home) -> Path:
    """Return the folder that a home's objects are put in."""
    folder = Path(own_store.own_store(home, Ports()).environment["BUCKY_STORE_BARRIER_PATH"])
    assert folder.is_dir()
    return folder


@pytest.mark.usefixtures("is_built")
def test_a_new_home_gets_the_gateway(home: Home) -> None:
    """And keeps it at the next start."""
    assert [chosen(home), chosen(home)] == [home.buckets, home.buckets]


@pytest.mark.usefixtures("is_not_built")
def test_a_new_home_gets_seaweedfs_where_there_is_no_gateway(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps it when the gateway has been built since."""
    assert chosen(home) == home.volumes
    monkeypatch.setattr(own_store, "built", lambda _tool: "/opt/versitygw")
    assert chosen(home) == home.volumes


@pytest.mark.usefixtures("is_not_built")
def test_objects_of_a_gateway_that_is_gone_are_not_hidden_by_another_store(home: Home) -> None:
    """An empty bucket in place of a full one would look as if everything was lost."""
    home.buckets.mkdir()
    with pytest.raises(CannotStart, match=r"not installed here\. They are untouched: run `tools/build versitygw`"):
        own_store.own_store(home, Ports())
    assert not home.volumes.exists()


@pytest.mark.usefixtures("is_not_built")
def test_a_path_that_seaweedfs_would_cut_is_refused(tmp_path: Path) -> None:
    """It takes a comma for the end of a folder, and would look in another one."""
    home = Home(tmp_path / "home, sweet")
    home.create()
    with pytest.raises(CannotStart, match=r"a comma in it.*choose another --home"):
        own_store.own_store(home, Ports())


@pytest.mark.usefixtures("is_built")
@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EPERM])
def test_a_file_system_without_attributes_gets_seaweedfs(
    home: Home, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The gateway keeps an object's checksum and type in its file's attributes."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "setxattr", refuse)
    assert chosen(home) == home.volumes


@needs_gateway
def test_with_the_gateway_an_object_is_a_file(tmp_path: Path) -> None:
    """What was received can be read, checked and copied as plain files, with nothing of Bucky running."""
    home = Home(tmp_path / "home")
    sent = received(home)
    keys = {path.name.removesuffix(".dcm"): path for path in (home.buckets / "bucky").rglob("*.dcm")}
    assert keys.keys() == {one.sha256 for one in sent}
    for one in sent:
        with one.outgoing.opened() as data_set:
            assert keys[one.sha256].read_bytes().endswith(data_set.read())
    assert not home.volumes.exists()
    assert not home.local_cache.exists(), "its files are read where they are"


def test_a_home_that_seaweedfs_began_is_served_by_it(tmp_path: Path) -> None:
    """Whoever used Bucky before there was the gateway finds every object."""
    home = Home(tmp_path / "home")
    home.volumes.mkdir(parents=True)
    received(home, times=2)
    assert not home.buckets.exists()


def received(home: Home, times: int = 1) -> list[Sample]:
    """Have instances received by a stack, then others by the next one in the same home; all must be there."""
    sent: list[Sample] = []
    for _ in range(times):
        stack = RunningStack(home.path, {})
        new = samples(5)
        peer = Peer("BUCKY", "127.0.0.1", stack.ports.dicom, calling_aet="TEST")
        assert {result.outcome for result in store_all(peer, [one.outgoing for one in new])} == {Outcome.STORED}
        sent += new
        eventually(lambda: len(stack.index.deliveries(state=DeliveryState.DELIVERED)) == len(sent), "delivered")  # noqa: B023
        keys = [row.key for row in stack.index.instances_by_digest({one.sha256 for one in sent}).values()]
        assert len(keys) == len(sent)
        assert all(stack.store.size(key) for key in keys)
        # Its console is a page of its own.
        with socket.create_connection(("127.0.0.1", stack.ports.s3_console), 5):
            pass
        stack.stop()
    return sent
