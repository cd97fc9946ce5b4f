"""Group commit across processes: whoever fails or dies, and whenever, no file is acknowledged that is not durable."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_scp.spool import syncer
from edge_scp.spool.file import SpoolFailed
from edge_scp.spool.group_commit import Commit
from edge_scp.spool.sync_queue import EPOCHS
from tests.support.edge.commit_world import RECEIVERS, Edge, Killed, an_edge, failures, file_of


@pytest.fixture
def edge() -> Iterator[Edge]:
    """An edge."""
    with an_edge() as edge:
        yield edge


def test_one_sync_serves_all_receivers(edge: Edge) -> None:
    """What several receivers ask for is one group: one sync, and then each is answered."""
    asked = [receiver.keep(files) for files, receiver in enumerate(edge.receivers, 1)]
    assert [receiver.hear() for receiver in edge.receivers] == [[], [], []]
    edge.work()
    assert [receiver.hear() for receiver in edge.receivers] == asked
    assert not any(failures([commit for commits in asked for commit in commits]))
    assert (len(edge.disk.succeeded), edge.groups) == (1, [6])
    edge.work()
    assert len(edge.disk.succeeded) == 1


def test_what_is_asked_for_during_a_sync_is_in_the_next(edge: Edge) -> None:
    """A sync under way may have passed a file already: it is answered after the next, which the bell asks for."""
    first, second, _ = edge.receivers
    before = first.keep()
    during: list[Commit] = []
    edge.disk.during = lambda: during.extend(first.keep() + second.keep())
    edge.work()
    assert first.hear() == before
    assert second.hear() == []
    edge.disk.during = lambda: None
    assert edge.board.hear_questions()
    edge.work()
    assert first.hear() + second.hear() == before + during
    assert edge.groups == [1, 2]


def test_a_failed_sync_fails_what_was_begun_before_it(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is reported once and may be of any file's bytes: all receivers' open ones fail, later ones do not."""
    monkeypatch.setattr(syncer, "log", structlog.get_logger())
    first, second, third = edge.receivers
    first.keep(2)
    second.keep()
    begun_before = third.begin()
    during: list[Commit] = []
    edge.disk.during = lambda: during.append(second.begin())
    with structlog.testing.capture_logs() as lines:
        edge.work(fails=True)
    edge.disk.during = lambda: None
    assert lines == [
        {"event": "sync.failed", "error": os.strerror(errno.EIO), "instances": 3, "log_level": "error"},
    ]
    assert edge.groups == []
    assert failures(first.hear()) == [True, True]
    assert failures(second.hear()) == [True]
    second.ask(*during)
    third.ask(begun_before)
    later = [receiver.keep() for receiver in edge.receivers]
    edge.work()
    assert failures(second.hear()) == [True, True, False]
    assert failures(third.hear()) == [True, False]
    assert first.hear()[2:] == later[0]
    assert failures(later[0]) == [False]
    assert isinstance(begun_before.failure, SpoolFailed)


def test_a_committer_that_starts_anew_fails_what_waits(edge: Edge) -> None:
    """The last one may have been told of an error and have told nobody: what is older than the new one fails."""
    first, second, third = edge.receivers
    first.keep(3)
    begun_before = second.begin()
    edge.disk.killed = True
    with suppress(Killed):
        edge.work()
    edge.disk.killed = False
    assert first.hear() == []
    edge.start()
    assert failures(first.hear()) == [True, True, True]
    second.ask(begun_before)
    third.keep()
    first.keep()
    edge.work()
    assert failures(second.hear()) == [True]
    assert failures(third.hear()) == [False]
    assert failures(first.hear()) == [True, True, True, False]


def test_epochs_begin_again_without_being_mistaken() -> None:
    """In an answer the epoch has few bits; the one after the last is another all the same."""
    with an_edge(EPOCHS - 2) as edge:
        first, second, third = edge.receivers
        begun_in_last = first.begin()
        edge.work()
        second.keep()
        edge.work(fails=True)
        begun_in_first = third.begin()
        edge.start()
        first.ask(begun_in_last)
        third.ask(begun_in_first)
        first.keep()
        edge.work()
        assert failures(first.hear()) == [True, False]
        assert failures(second.hear() + third.hear()) == [True, True]


def test_a_new_receiver_goes_on_from_the_page(edge: Edge) -> None:
    """Answers that its predecessor did not live to hear are not taken for its own."""
    edge.receivers[1].keep(2)
    successor = edge.receiver(1)
    begun: list[Commit] = []
    edge.disk.during = lambda: begun.extend(successor.keep(2))
    edge.work()
    edge.disk.during = lambda: None
    assert successor.hear() == []
    edge.work()
    assert successor.hear() == begun
    assert failures(begun) == [False, False]


def test_a_dead_receiver_blocks_nobody(edge: Edge) -> None:
    """What a receiver asked for before it died is dealt with like the rest, and then forgotten."""
    edge.receivers[0].keep(5)
    del edge.receivers[0]
    for _ in range(3):
        commits = edge.receivers[0].keep()
        edge.work()
        assert edge.receivers[0].hear()[-1:] == commits
    assert edge.groups == [6, 1, 1]
    edge.work()
    assert len(edge.disk.succeeded) == 3


def test_answers_are_delivered_in_order(edge: Edge) -> None:
    """However many answers gather before a receiver hears them, files end in the order they were asked for, once."""
    receiver = edge.receivers[2]
    asked = []
    for files in (1, 3, 2):
        asked += receiver.keep(files)
        asked += receiver.keep()
        edge.work()
    assert receiver.hear() == asked
    assert receiver.deliveries == 1
    assert receiver.hear() == asked
    assert receiver.deliveries == 1
    assert not any(failures(asked))


# What a receiver does in one step, and what the committer does in one: how its sync goes, and how many answers
# it gives before it is killed (-1: it is not).
RECEIVERS_STEP = st.tuples(
    st.sampled_from(("begin", "keep", "keep", "ask first", "ask last", "ask all", "hear", "hear", "replace")),
    st.integers(0, RECEIVERS - 1),
)
COMMITTERS_STEP = st.tuples(
    st.sampled_from(("succeeds", "succeeds", "fails", "killed")),
    st.sampled_from((-1, -1, *range(RECEIVERS))),
    st.lists(RECEIVERS_STEP, max_size=5),
)
Step = tuple[str, int] | tuple[str, int, list[tuple[str, int]]]


class Play:
    """Carries out steps, and checks at each acknowledgement that it may be given."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def step(self, step: Step) -> None:
        """Carry out one step."""
        if len(step) == 2:
            self._receivers_step(*step)
        else:
            self._committers_step(*step)

    def end(self) -> None:
        """Let all go well: everything asked for is answered, and what is begun now is acknowledged."""
        edge = self._edge
        self.step(("succeeds", -1, []))
        self.step(("succeeds", -1, []))
        for number, receiver in enumerate(edge.receivers):
            self.step(("hear", number))
            assert receiver.ended == receiver.asked
        last = [receiver.keep() for receiver in edge.receivers]
        self.step(("succeeds", -1, []))
        for receiver, commits in zip(edge.receivers, last, strict=True):
            assert receiver.hear()[-1:] == commits
            assert failures(commits) == [False]

    def _receivers_step(self, what: str, number: int) -> None:
        edge, receiver = self._edge, self._edge.receivers[number]
        match what:
            case "begin":
                receiver.begin()
            case "keep":
                receiver.keep()
            case "replace":
                edge.receivers[number] = edge.receiver(number)
            case "hear":
                heard = len(receiver.ended)
                for commit in receiver.hear()[heard:]:
                    if commit.failure is None:
                        assert edge.disk.made_durable(file_of(commit))
            case "ask all" if receiver.open:
                receiver.ask(*receiver.open)
            case "ask first" if receiver.open:
                receiver.ask(receiver.open[0])
            case "ask last" if receiver.open:
                receiver.ask(receiver.open[-1])

    def _all(self, steps: list[tuple[str, int]]) -> None:
        for step in steps:
            self._receivers_step(*step)

    def _committers_step(self, how: str, answers: int, during: list[tuple[str, int]]) -> None:
        edge, disk = self._edge, self._edge.disk
        edge.board.answers_left = answers
        disk.killed = how == "killed"
        disk.during = lambda: self._all(during)
        try:
            if edge.syncer is None:
                edge.start()
            edge.work(fails=how == "fails")
        except Killed:
            edge.syncer = None
        edge.board.answers_left = -1
        disk.killed = False


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Hundreds of failed syncs need no log."""
    with structlog.testing.capture_logs():
        yield


@pytest.mark.usefixtures("_quiet")
@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 4), st.lists(RECEIVERS_STEP | COMMITTERS_STEP, min_size=15, max_size=30))
def test_nothing_is_acknowledged_that_is_not_durable(epochs_left: int, steps: list[Step]) -> None:
    """In any order of asking, syncing, failing and dying, success means a sync since, and no failure before it."""
    with an_edge(EPOCHS - 1 - epochs_left) as edge:
        play = Play(edge)
        for step in steps:
            play.step(step)
        play.end()
