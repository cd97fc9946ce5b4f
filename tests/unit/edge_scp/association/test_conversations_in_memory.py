"""The rules every conversation keeps, on scripts made at random and on those that fuzzing found."""

import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.conversation import ASSOCIATED, converse, seeds
from tests.fuzz.findings import FINDINGS
from tests.support.dimse.raw_peer import ABORT, RELEASE_RP, RELEASE_RQ, echo, request, store, values


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of associations need no log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


some_values = st.lists(
    st.tuples(st.sampled_from([1, 3, 5]), st.integers(0, 3), st.binary(max_size=30)), min_size=1, max_size=4
).map(lambda parts: values(*parts))
words = st.one_of(
    st.binary(max_size=30),
    some_values,
    st.sampled_from([echo(), store(b"data"), store(b"d" * 300, max_pdu=64), RELEASE_RQ, RELEASE_RP, ABORT, request()]),
)


@given(st.integers(0, 255), st.integers(0, 255), st.lists(words, max_size=6))
@settings(max_examples=400, deadline=None)
def test_random_conversations(flags: int, size: int, talk: list[bytes]) -> None:
    """Whatever is said, in whatever pieces: instances end once, PDUs go out whole, the connection ends in time."""
    converse(bytes([flags | ASSOCIATED, size]) + b"".join(talk))


@given(st.binary(max_size=600))
@settings(max_examples=200, deadline=None)
def test_random_bytes(script: bytes) -> None:
    """Noise keeps the same rules."""
    converse(script)


@pytest.mark.parametrize("script", [*seeds(), *FINDINGS])
def test_known_conversations(script: bytes) -> None:
    """The fuzzer's seeds, and what it once found, keep them too."""
    converse(script)


def test_the_seeds_reach_the_sink() -> None:
    """The seeds store instances: fuzzing begins where things can go wrong."""
    assert sum(converse(seed).data_set_bytes for seed in seeds()) > 1000
