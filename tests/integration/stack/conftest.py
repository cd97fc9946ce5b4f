"""One running stack for all tests of this folder: to start one is the work of twenty processes."""

from collections.abc import Iterator

import pytest

from tests.support.servers import serving_what_is_under_test
from tests.support.stack.running_stack import RunningStack


@pytest.fixture(scope="package")
def _running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RunningStack]:
    """A stack in which a study is stable after a second, and nothing is too young to be reconciled."""
    own = {"BUCKY_STUDY_QUIET_SECONDS": "1", "BUCKY_RECONCILE_GRACE_SECONDS": "0"}
    with serving_what_is_under_test(tmp_path_factory, request) as servers:
        stack = RunningStack(tmp_path_factory.mktemp("stack") / "home", servers.environ | own)
        yield stack
        stack.stop()


@pytest.fixture(scope="module")
def stack(_running: RunningStack) -> Iterator[RunningStack]:
    """The running stack, with the routing it began with before and after a file's tests."""
    began_with = _running.index.routing().document
    yield _running
    _running.index.save_routing(began_with, _running.index.routing().version, "test")
