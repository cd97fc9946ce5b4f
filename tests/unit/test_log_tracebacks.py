"""What a logged traceback may show."""

from collections.abc import Iterator

import pytest
import structlog

from bucky import log


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("as_json", [True, False])
def test_tracebacks_do_not_print_variables(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A local variable that holds a data set must never reach the log."""
    log.configure(json=as_json)
    logger = log.get_logger("test")
    patient_name = "-".join(("Doe", "Jane"))
    try:
        int(patient_name[0])
    except ValueError:
        logger.exception("test.failed")
    written = capsys.readouterr().err
    assert "test_tracebacks_do_not_print_variables" in written
    assert "Doe-Jane" not in written
