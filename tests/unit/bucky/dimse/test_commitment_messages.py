"""The data sets of storage commitment: what is asked can be read by others, and nonsense is never believed."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom.dsutils import encode

from bucky.dimse.commitment import EXPLICIT, IMPLICIT, InvalidReport, action_information, failure_in_words, read_report
from tests.support.functions.commitment_world import NO_SUCH_OBJECT, report_of

CT = "1.2.840.10008.5.1.4.1.1.2"


def encoded(told: Dataset, *, implicit: bool = True) -> bytes:
    """Return a data set as a node sends it."""
    content = encode(told, implicit, True)
    assert content is not None
    return content


def test_what_is_asked_names_the_transaction_and_each_instance() -> None:
    """An N-ACTION without one of them would be answered for something else, or not at all (PS3.4 Table J.3-1)."""
    asked = read_dataset(io.BytesIO(action_information("1.2.3", [(CT, "1.2.3.4"), (CT, "1.2.3.5")])), True, True)
    assert asked.TransactionUID == "1.2.3"
    assert [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in asked.ReferencedSOPSequence] == [
        (CT, "1.2.3.4"),
        (CT, "1.2.3.5"),
    ]


@pytest.mark.parametrize(("implicit", "syntax"), [(True, IMPLICIT), (False, EXPLICIT)])
def test_what_is_reported_is_read_in_both_encodings(implicit: bool, syntax: str) -> None:
    """A node chooses the transfer syntax; what failed is told apart from what is kept, with its reason."""
    told = report_of("1.2.3", ["1.2.3.4"], ["1.2.3.5"])
    report = read_report(2, encoded(told, implicit=implicit), syntax)
    assert (report.transaction_uid, report.committed) == ("1.2.3", ("1.2.3.4",))
    assert report.failed == {"1.2.3.5": NO_SUCH_OBJECT}


def test_an_instance_that_is_in_both_lists_is_not_kept() -> None:
    """A node that contradicts itself has not committed."""
    report = read_report(2, encoded(report_of("1.2.3", ["1.2.3.4"], ["1.2.3.4"])), IMPLICIT)
    assert (report.committed, list(report.failed)) == ((), ["1.2.3.4"])


def test_every_reason_is_named() -> None:
    """People read words, with the number for those who know it; a node that gives none is told of too."""
    assert failure_in_words(0x0112).endswith("0x0112, no such object instance")
    assert failure_in_words(0x0110).endswith("0x0110, processing failure")
    assert failure_in_words(0x9999).endswith("0x9999, unknown status")
    assert failure_in_words(None).endswith("gave no reason")


@pytest.mark.parametrize("kind", [0, 3, 0xFFFF])
def test_other_events_are_none(kind: int) -> None:
    """There are two kinds of report (PS3.4 Table J.3-2)."""
    with pytest.raises(InvalidReport) as refused:
        read_report(kind, encoded(report_of("1.2.3", ["1.2.3.4"])), IMPLICIT)
    assert refused.value.status == 0x0113


@pytest.mark.parametrize(
    ("right", "wrong"), [(b"1.2.33", b"../../"), (b"1.2.33", b"      "), (b"1.2.3.44", b"1.2.3.4a")]
)
def test_what_names_nothing_is_refused(right: bytes, wrong: bytes) -> None:
    """Without UIDs there is nothing to find, and they come near subjects and rows."""
    content = encoded(report_of("1.2.33", ["1.2.3.44"]))
    assert content.count(right) == 1
    with pytest.raises(InvalidReport) as refused:
        read_report(1, content.replace(right, wrong), IMPLICIT)
    assert refused.value.status == 0x0115


@given(st.binary(max_size=200), st.integers(0, 120), st.sampled_from([IMPLICIT, EXPLICIT]))
def test_random_bytes_are_read_or_refused(noise: bytes, at: int, syntax: str) -> None:
    """Whatever a node sends, the receiver lives and answers."""
    usual = encoded(report_of("1.2.3", ["1.2.3.4"], ["1.2.3.5"]), implicit=syntax == IMPLICIT)
    for content in (noise, usual[:at] + noise + usual[at:]):
        try:
            report = read_report(2, content, syntax)
        except InvalidReport:
            continue
        assert report.transaction_uid
