"""The boundaries between the steps of the pipeline, and who is killed at each.

A boundary is a message on a wire. Killed as the question comes by, a step was not done; killed as the answer does,
which then never arrives, it was done and is not noted by who asked for it.
"""

from dataclasses import dataclass
from itertools import chain, zip_longest

STORED, INDEXED = "dicom.instance.stored", "dicom.instance.indexed"
REQUESTED, COMPLETED = "dicom.delivery.requested", "dicom.delivery.completed"

CALL_PARSE, CALL_FORWARD = "call parse-instance answered", "call forward-instances answered"


@dataclass(frozen=True)
class Boundary:
    """Where it is: the step, in words, the kind of message on the wire; and who is killed there."""

    step: str
    words: str
    kind: str
    victim: str

    @property
    def name(self) -> str:
        """A name for the test."""
        return f"{self.step}: {self.kind}: {self.victim}".replace(" ", "-").replace(":-", ":")


HALF = "receive half"
UNSYNCED = "receive unsynced"


def _at(step: str, words: str, kind: str, *victims: str) -> list[Boundary]:
    return [Boundary(step, words, kind, victim) for victim in victims]


_ALONG_THE_WAY: list[Boundary] = [
    *_at("received", "half of a data set is here", HALF, "edge receivers", "edge"),
    *_at("spooled", "written, the disk not synced", UNSYNCED, "edge receivers", "edge committer", "edge"),
    *_at("spooled", "synced, the sender not told", "receive answered", "edge receivers", "edge committer", "edge"),
    *_at("uploaded", "nothing of it at the store", "store PUT", "edge uploader", "edge"),
    *_at("uploaded", "at the store, the edge not told", "store PUT answered", "edge uploader", "edge", "object-store"),
    *_at("published", "no event of it", f"publish {STORED}", "edge uploader", "nats-server"),
    *_at("published", "in the stream, the edge not told", f"publish {STORED} answered", "edge uploader", "nats-server"),
    *_at("parsed", "the function not called", "call parse-instance", "parse-instance", "connector"),
    *_at("parsed", "the header read, nothing written", "store GET answered", "parse-instance"),
    *_at("parsed", "in the index, nobody told", CALL_PARSE, "parse-instance", "provider", "connector"),
    *_at("parsed", "no event of it", f"publish {INDEXED}", "connector"),
    *_at("parsed", "in the stream, its cause open", f"publish {INDEXED} answered", "connector", "nats-server"),
    *_at("parsed", "its cause not acknowledged", f"ack {STORED}", "connector"),
    *_at("routed", "the function not called", "call route-instance", "route-instance"),
    *_at("routed", "decided and noted, nobody told", "call route-instance answered", "route-instance", "connector"),
    *_at("requested", "no event of it", f"publish {REQUESTED}", "connector"),
    *_at(
        "requested",
        "in the stream, its cause open",
        f"publish {REQUESTED} answered",
        "connector",
        "nats-server",
    ),
    *_at("requested", "its cause not acknowledged", f"ack {INDEXED}", "connector"),
    *_at("sent", "the function not called", "call forward-instances", "forward-instances"),
    *_at("sent", "the destination not asked", "send", "forward-instances"),
    *_at("sent", "the destination has it, its answer is lost", "send answered", "forward-instances", "provider"),
    *_at(
        "completed",
        "noted, nobody told",
        "call forward-instances answered",
        "forward-instances",
        "provider",
        "connector",
    ),
    *_at("completed", "no event of it", f"publish {COMPLETED}", "connector"),
    *_at(
        "completed",
        "in the stream, its cause open",
        f"publish {COMPLETED} answered",
        "connector",
        "nats-server",
    ),
    *_at("completed", "its cause not acknowledged", f"ack {REQUESTED}", "connector"),
]


def _taking_turns(boundaries: list[Boundary]) -> list[Boundary]:
    """Put them so that no program is killed many times in a row: it would be started again ever later."""
    victims = dict.fromkeys(one.victim for one in boundaries)
    rounds = zip_longest(*([one for one in boundaries if one.victim == victim] for victim in victims))
    return [one for one in chain.from_iterable(rounds) if one is not None]


BOUNDARIES = _taking_turns(_ALONG_THE_WAY)
IN_ORDER = {boundary: number for number, boundary in enumerate(_ALONG_THE_WAY)}
