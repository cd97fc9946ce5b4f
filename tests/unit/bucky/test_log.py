"""What reaches the log, and how."""

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


def test_lines_of_native_code_are_logged_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A receiver's lines for many instances reach stderr whole and in order, unless their level is too low."""
    lines = b"".join(b'{"component":"edge","n":%d,"pad":"%s","event":"kept"}\n' % (n, b"x" * 900) for n in range(50))
    for as_json in (True, False):
        log.configure(json=as_json)
        log.write_lines(log.get_logger("edge"), lines)
        written = capfdbinary.readouterr().err
        if as_json:
            assert written == lines
        else:
            assert [b"kept" in line and b"%d" % n in line for n, line in enumerate(written.splitlines())] == [True] * 50
    log.configure("warning", json=True)
    log.write_lines(log.get_logger("edge"), lines)
    assert capfdbinary.readouterr().err == b""
