"""Reading a function's annotations, and the subjects they name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetstream_connector.annotations import AnnotationError, Subscription, parse
from jetstream_connector.subjects import durable_name, is_filter, is_subject, matches


def test_a_topic_alone_gives_the_documented_defaults() -> None:
    """Protects the defaults that the table documents."""
    assert parse({"topic": "orders.*"}) == Subscription(
        topics=("orders.*",),
        batch_size=50,
        linger=0.02,
        concurrency=1,
        max_attempts=5,
        backoff=(1.0, 5.0, 30.0, 120.0),
        ack_wait=15.0,
        timeout=120.0,
        partitioned=False,
    )


def test_a_function_without_a_topic_is_none_of_our_business() -> None:
    """Protects functions that are only called over HTTP."""
    assert parse({"other": "x", "com.openfaas.scale.zero": "true"}) is None


def test_every_annotation_is_read() -> None:
    """Protects each annotation's meaning and unit."""
    assert parse(
        {
            "topic": " orders.paid , orders.*.returned,orders.paid",
            "jetstream.batch-size": "7",
            "jetstream.linger-ms": "5",
            "jetstream.concurrency": "3",
            "jetstream.max-attempts": "9",
            "jetstream.backoff": "100ms, 1.5s,2m,1h",
            "jetstream.ack-wait": "90s",
            "jetstream.timeout": "10m",
            "jetstream.partition": "subject",
            "jetstream.max-in-flight": "40",
            "jetstream.priority": "urgent",
            "unrelated": "anything",
        }
    ) == Subscription(
        topics=("orders.paid", "orders.*.returned"),
        batch_size=7,
        linger=0.005,
        concurrency=3,
        max_attempts=9,
        backoff=(0.1, 1.5, 120.0, 3600.0),
        ack_wait=90.0,
        timeout=600.0,
        partitioned=True,
        max_in_flight=40,
        urgent_topics=("orders.paid.urgent", "orders.*.returned.urgent"),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("topic", ""),
        ("topic", " , "),
        ("topic", "orders..paid"),
        ("topic", "orders.>.paid"),
        ("topic", "orders paid"),
        ("topic", "orders.p*"),
        ("jetstream.batch-size", "0"),
        ("jetstream.batch-size", "many"),
        ("jetstream.batch-size", "1001"),
        ("jetstream.batch-size", "٣"),
        ("jetstream.linger-ms", "-1"),
        ("jetstream.concurrency", "1.5"),
        ("jetstream.max-attempts", ""),
        ("jetstream.backoff", ""),
        ("jetstream.backoff", "1s,,5s"),
        ("jetstream.backoff", "1 second"),
        ("jetstream.ack-wait", "500ms"),
        ("jetstream.ack-wait", "60"),
        ("jetstream.timeout", "0s"),
        ("jetstream.partition", "destination"),
        ("jetstream.max-in-flight", "0"),
        ("jetstream.priority", "high"),
        ("jetstream.batchsize", "5"),
    ],
)
def test_a_wrong_annotation_is_named(name: str, value: str) -> None:
    """Protects whoever deploys: the message names the annotation, and a typo is not silently ignored."""
    with pytest.raises(AnnotationError, match=re.escape(name)):
        parse({"topic": "orders", **{name: value}})


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.b", True),
        ("*.b", "a.c", False),
    ],
)
def test_subjects_match_as_the_server_would(pattern: str, subject: str, expected: bool) -> None:
    """Protects the consumer that is started for a new subject: the server must agree that it matches."""
    assert matches(pattern, subject) is expected


def test_only_what_can_be_published_is_a_subject() -> None:
    """Protects the broker's protocol from what a function may put in a type or a partition key."""
    assert is_subject("dicom.delivery.requested.pacs-1")
    assert not any(map(is_subject, ["", "a.", ".a", "a b", "a\r\nPUB x", "a.*", "a.>", "a\tb"]))
    assert is_filter("a.*.c.>")
    assert not any(map(is_filter, ["", ">.a", "a*", "a..b"]))


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=200))
def test_durable_names_are_always_valid(function: str, subject: str) -> None:
    """Protects the server's naming rules, whatever functions and subjects are called."""
    name = durable_name(function, subject)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,120}", name)
    assert name == durable_name(function, subject)


def test_durable_names_differ_where_only_replaced_characters_do() -> None:
    """Protects two functions or subjects from sharing one consumer."""
    pairs = [("f", "a.b"), ("f", "a_b"), ("f", "a.*"), ("f", "a.>"), ("f-a", "b"), ("g", "a.b")]
    assert len({durable_name(*pair) for pair in pairs}) == len(pairs)


def test_priority_needs_a_topic_that_does_not_take_the_urgent_subjects_itself() -> None:
    """Protects an urgent event from being handed out twice, by two consumers of one function."""
    with pytest.raises(AnnotationError, match=r"jetstream\.priority.*orders\.>"):
        parse({"topic": "orders.>", "jetstream.priority": "urgent"})
