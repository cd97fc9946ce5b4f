"""A home that is moved is the same home; a start that finds another index, bucket or stream than it had refuses."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bucky.cli.stack_settings import stack_settings
from bucky.index import Index
from bucky.routing.document import Routing
from bucky.store.objects import S3ObjectStore, put_bytes
from local_stack.layout import CannotStart, Home, Ports
from local_stack.provision import provision
from local_stack.stack import Stack, build
from local_stack.supervisor import Supervisor
from tests.support.services.admin_world import file_of, indexed, received

pytestmark = pytest.mark.timeout(180)


@contextmanager
def started(home: Home, *, accept_changes: bool = False) -> Iterator[Stack]:
    """Start the servers of a home and provision them, without what else `bucky up` runs."""
    home.create()
    stack = replace(build(home, Ports.free(), {}), services=())
    with Supervisor(stack, lambda *_: None, lambda: False) as supervisor:
        for program in stack.servers:
            supervisor._start(program)
        supervisor._has = provision(stack, accept_changes=accept_changes)
        supervisor._note()
        yield stack


def index_of(stack: Stack) -> Index:
    """Open a stack's index."""
    return Index.open(stack.settings.index_url.get_secret_value())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that ran, with a routing and an instance in its index and its bucket."""
    home = Home(tmp_path / "first place")
    with started(home) as stack:
        index = index_of(stack)
        index.save_routing(Routing(), 0, "test")
        index.upsert_instances([indexed(1)])
        index.close()
        put_bytes(S3ObjectStore(stack.settings), received(1).key, file_of(1))
    return home


def test_a_moved_home_goes_on(home: Home, tmp_path: Path) -> None:
    """It has its routing and its instances wherever it lies, and nothing in it names where it lay."""
    moved = Home(tmp_path / "another pläce")
    home.path.rename(moved.path)
    with started(moved) as stack:
        assert not home.path.exists()
        index = index_of(stack)
        assert index.routing().version == 1
        assert index.study_uids() == [received(1).study_instance_uid]
        index.close()
        settings = stack_settings({}, moved.path)
        assert settings.index_url == stack.settings.index_url
        places = (str(home.path).encode(), str(moved.path).encode())
        files = [file for file in moved.path.rglob("*") if file.is_file() and moved.logs not in file.parents]
        assert len(files) > 10
        assert [file for file in files if any(place in file.read_bytes() for place in places)] == []


def test_a_home_of_an_earlier_version_that_was_moved_goes_on(home: Home, tmp_path: Path) -> None:
    """Earlier versions wrote the place of the index into its secret."""
    (home.secrets / "index-url").write_text(f"sqlite:///{home.index}")
    moved = Home(tmp_path / "moved")
    home.path.rename(moved.path)
    with started(moved) as stack:
        index = index_of(stack)
        assert index.routing().version == 1
        index.close()


LOSSES: dict[str, tuple[Callable[[Home], object], str]] = {
    "index": (lambda home: home.index.unlink(), "the index is another one.*version 1 was in force.*bucky reindex"),
    "streams": (lambda home: shutil.rmtree(home.nats), "has not the streams.*INSTANCES.*bucky reconcile"),
    "bucket": (
        lambda home: shutil.rmtree(home.buckets / "bucky" if home.buckets.exists() else home.volumes),
        "the bucket is another one.*studies/.*BUCKY_STORE_BUCKET",
    ),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_a_home_that_lost_something_says_so_and_waits_for_a_word(lost: str, home: Home) -> None:
    """It does not begin anew in silence; told to go on, it does, and is not asked again."""
    lose, words = LOSSES[lost]
    lose(home)
    for _ in range(2):
        with pytest.raises(CannotStart, match=f"(?s){words}") as refused, started(home):
            pass
        assert "--accept-changes" in str(refused.value)
    with started(home, accept_changes=True):
        pass
    if lost != "bucket":
        with started(home):
            pass
