"""Sentences that more than one program says, the same in each."""


def deliveries(count: int) -> str:
    """Return a number of deliveries in words."""
    return f"{count} {'delivery' if count == 1 else 'deliveries'}"


def ended(destination: str, count: int) -> str:
    """Say what becomes of deliveries that wait for a destination that is removed."""
    if count == 1:
        return f"1 delivery to {destination} that waits becomes a dead letter"
    return f"{count} deliveries to {destination} that wait become dead letters"
