"""W3C trace context: one trace runs from the association to the last delivery."""

import secrets


def new_traceparent() -> str:
    """Start a trace (W3C Trace Context, version 00, sampled)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child_of(traceparent: str | None) -> str:
    """Return a new span in the same trace, or a new trace when there is none to follow."""
    parts = (traceparent or "").split("-")
    if len(parts) != 4 or len(parts[1]) != 32:
        return new_traceparent()
    return f"00-{parts[1]}-{secrets.token_hex(8)}-{parts[3]}"


def within(known_trace_id: str | None) -> str:
    """Return a new span in the trace with this id, or in a new trace when none is known."""
    return child_of(f"00-{known_trace_id}-{'0' * 16}-01" if known_trace_id else None)


def trace_id(traceparent: str | None) -> str | None:
    """Return the 32 hex digits that name the trace."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else None
