import pytest

from bucky.dimse import Outcome
from bucky.dimse.status import meaning, outcome

WARNINGS = (0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007, 0xBFFF)
PASSING = (0xA700, 0xA7FF, 0x0110, 0x0213)
FINAL = (0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0111, 0x0112, 0x0117, 0x0122, 0x0124, 0x0210, 0x0211, 0x0212)
STRANGE = (0xFE00, 0xFF00, 0x1234, 0xA800)


@pytest.mark.parametrize("status", WARNINGS)
def test_every_warning_means_that_it_arrived(status: int) -> None:
    """A warning is an instance the destination has: sending it again would only repeat the warning."""
    assert outcome(status) is Outcome.WARNED
    assert outcome(status).arrived


def test_success_is_no_warning() -> None:
    """What went well must not be shown among what somebody should look at."""
    assert outcome(0x0000) is Outcome.STORED
    assert outcome(0x0000).arrived


@pytest.mark.parametrize("status", PASSING)
def test_a_destination_short_of_resources_is_tried_again(status: int) -> None:
    """A full disk at the destination must not turn into a dead letter."""
    assert outcome(status) is Outcome.UNAVAILABLE


@pytest.mark.parametrize("status", [*FINAL, *STRANGE])
def test_what_cannot_get_better_is_refused(status: int) -> None:
    """An instance the destination will never take must surface, not loop for ever."""
    assert outcome(status) is Outcome.REFUSED


def test_every_status_is_said_in_words() -> None:
    """A reason that people read must say more than a number."""
    assert meaning(0xA701) == "out of resources"
    assert meaning(0xC123) == "cannot understand"
    assert meaning(0x0122) == "SOP class not supported"
    assert meaning(0x1234) == "unknown status"
