"""Who may report on the transactions of a destination: only that destination itself."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from bucky.events import CommitmentReported
from bucky.routing.destinations import Destination, DimseDestination, commitment_of


def may_report(destination: Destination | None, told: CommitmentReported) -> str:
    """Return why a report is not believed, or nothing when the destination sent it."""
    commitment = commitment_of(destination)
    if not isinstance(destination, DimseDestination) or commitment is None:
        return "the destination is not asked for commitments any more"
    if told.calling_aet != destination.aet:
        return f"it came from the AE title {told.calling_aet!r}, not from {destination.aet!r}"
    if told.called_aet != destination.calling_aet:
        return f"it came to the AE title {told.called_aet!r}, not to {destination.calling_aet!r}"
    address = _plain(told.source_address)
    if commitment.report_from:
        known = any(address in network for network in commitment.report_from)
        return "" if known else f"it came from {address}, which is not in the destination's report_from"
    try:
        found = socket.getaddrinfo(destination.host, None, type=socket.SOCK_STREAM)
    except OSError:
        return f"it came from {address}, and the address of {destination.host} cannot be found; set report_from"
    if address in {_plain(str(one[4][0])) for one in found}:
        return ""
    return f"it came from {address}, which is not the address of {destination.host}; set report_from"


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Return an address without its zone; IPv4 in IPv6 is IPv4."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
