"""Times as people give them to a command: `2h` ago, a date, or a date and time."""

import re
from datetime import UTC, datetime, timedelta

import typer

_AGO = re.compile(r"(\d{1,6})\s*(m|min|h|d|w)")
_UNITS = {
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def moment(text: str | None, now: datetime | None = None) -> str | None:
    """Return a time with its zone in ISO 8601; one without a zone is this machine's. None stays None."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return ((now or datetime.now(UTC)) - int(ago[1]) * _UNITS[ago[2]]).isoformat()
    try:
        return datetime.fromisoformat(text.strip()).astimezone().isoformat()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write 2h, 3d, 2026-03-01 or 2026-03-01T14:30") from None
