"""Who may open an association: a pure decision on one A-ASSOCIATE-RQ (PS3.8 §9.3.4)."""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from bucky.text.listeners import Listener

ANY = "*"


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and diagnostic as PS3.8 Table 9-21 numbers them, and why."""

    result: int
    source: int
    diagnostic: int
    reason: str


NETWORK_NOT_ALLOWED = Rejection(1, 1, 1, "the calling address is not in the listener's allow_networks")
CALLING_AET_UNKNOWN = Rejection(1, 1, 3, "the calling AE title is not in the listener's allow_aets")
CALLED_AET_UNKNOWN = Rejection(1, 1, 7, "the called AE title is not the listener's")
TOO_MANY_ASSOCIATIONS = Rejection(2, 3, 2, "the listener serves as many associations as it may")


def refusal(listener: Listener, *, address: str, calling_aet: str, called_aet: str, too_many: bool) -> Rejection | None:
    """Return why the association is refused, or None; the network is judged before anything it said."""
    if not network_allowed(listener, address):
        return NETWORK_NOT_ALLOWED
    if called_aet.strip() != listener.aet.strip():
        return CALLED_AET_UNKNOWN
    if ANY not in listener.allow_aets and calling_aet.strip() not in listener.allow_aets:
        return CALLING_AET_UNKNOWN
    return TOO_MANY_ASSOCIATIONS if too_many else None


def network_allowed(listener: Listener, address: str) -> bool:
    """Tell whether the address is in one of the listener's networks; IPv4 in IPv6 counts as IPv4."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return any(parsed.ipv4_mapped in network for network in listener.allow_networks)
    return any(parsed in network for network in listener.allow_networks)
