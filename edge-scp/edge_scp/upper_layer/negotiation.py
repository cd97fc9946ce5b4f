"""A-ASSOCIATE-RQ to A-ASSOCIATE-AC (PS3.8 §9.3.2 and §9.3.3, PS3.7 Annex D), through pynetdicom's classes.

Answered are presentation contexts, the maximum length, the implementation and role selection: as an SCP, but for
Storage Commitment, where the peer must be the SCP, which reports (PS3.4 §J.3.3).
User identity, extended negotiation and the asynchronous operations window are read past: no answer means
"not supported", and one operation at a time (PS3.7 §D.3.3.3, §D.3.3.5, §D.3.3.7).
"""

import hashlib
import struct
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from bucky.identity import IMPLICIT_VR_LITTLE_ENDIAN
from bucky.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from edge_scp.storage_syntaxes import STORAGE_COMMITMENT, Syntaxes
from edge_scp.upper_layer import pdu
from edge_scp.upper_layer.pdu import InvalidPdu

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
# Version (2), reserved (2), called and calling AE title (16 each), reserved (32): PS3.8 Table 9-11.
_FIXED = struct.Struct(">HH16s16s32s")
_ITEM = struct.Struct(">BxH")
_APPLICATION_CONTEXT_ITEM, _CONTEXT_ITEM, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_CONTEXT_HEAD = 8  # the item's own header, the context id and three reserved bytes (PS3.8 Table 9-13)
_MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS, _ROLE_SELECTION, _IMPLEMENTATION_VERSION = 0x51, 0x52, 0x54, 0x55
_READ = {_MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS, _ROLE_SELECTION, _IMPLEMENTATION_VERSION}
_MAX_CONTEXTS = 128
# Far more than 128 contexts with every transfer syntax there is; few enough to decode in an instant.
_MAX_ITEMS = 8192
# A P-DATA-TF of fewer bytes holds no value that holds anything.
_LEAST_MAX_PDU = 8
_REMEMBERED = 256
_UserInformation = (
    MaximumLengthNotification | ImplementationClassUIDNotification | ImplementationVersionNameNotification
)


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ: its fixed fields, and its variable items still encoded."""

    called_aet: str
    calling_aet: str
    fixed: bytes
    items: bytes

    @classmethod
    def read(cls, body: bytes) -> "AssociateRequest":
        """Read the fixed fields of the PDU, given without its header."""
        if len(body) < _FIXED.size:
            raise InvalidPdu("an A-ASSOCIATE-RQ is cut short")
        _version, _reserved, called, calling, _ = _FIXED.unpack_from(body)
        return cls(_title(called), _title(calling), body[: _FIXED.size], body[_FIXED.size :])


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is answered to a proposal; `peer_max_pdu` is in bytes, 0 for no limit."""

    application_context: str
    contexts: Mapping[int, Context]
    refused: int
    peer_max_pdu: int
    items: bytes

    def reply(self, request: AssociateRequest) -> bytes:
        """Return the A-ASSOCIATE-AC; AE titles and reserved fields are sent back as they came."""
        body = struct.pack(">H", 1) + request.fixed[2:] + self.items
        return struct.pack(">BxI", pdu.A_ASSOCIATE_AC, len(body)) + body


class Negotiator:
    """Answers proposals for one listener; those that come again, as a modality's do, from memory."""

    def __init__(self, syntaxes: Syntaxes, max_pdu: int) -> None:
        self._syntaxes = syntaxes
        self._max_pdu = max_pdu
        self._remembered: OrderedDict[bytes, Agreement] = OrderedDict()

    def agreement(self, request: AssociateRequest) -> Agreement:
        """Return the answer to a request; raise `InvalidPdu` when it is malformed."""
        # By digest: what is proposed may hold a password.
        key = hashlib.blake2b(request.items).digest()
        agreement = self._remembered.get(key)
        if agreement is None:
            try:
                # pydicom warns of each odd UID, quoting it, and Python remembers every such warning for ever.
                with warnings.catch_warnings(action="ignore"):
                    agreement = self._negotiated(_proposal(_known(request.items)))
            except InvalidPdu:
                raise
            except Exception as error:  # pynetdicom's classes raise whatever malformed values lead them to
                raise InvalidPdu("an A-ASSOCIATE-RQ is malformed") from error
            self._remembered[key] = agreement
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(key)
        return agreement

    def _negotiated(self, proposal: A_ASSOCIATE) -> Agreement:
        proposed = proposal.presentation_context_definition_list
        if not proposed or len({context.context_id for context in proposed}) < len(proposed):
            raise InvalidPdu("an A-ASSOCIATE-RQ without presentation contexts, or with two of the same id")
        peer_max_pdu = 0
        roles: dict[UID, tuple[bool | None, bool | None]] = {}
        for item in proposal.user_information:
            if isinstance(item, MaximumLengthNotification):
                peer_max_pdu = item.maximum_length_received
            elif isinstance(item, SCP_SCU_RoleSelectionNegotiation) and item.sop_class_uid is not None:
                roles[item.sop_class_uid] = (item.scu_role, item.scp_role)
        if 0 < peer_max_pdu < _LEAST_MAX_PDU:
            raise InvalidPdu("an A-ASSOCIATE-RQ whose maximum length leaves no room for a response")
        results, role_answers = negotiate_as_acceptor(proposed, self._supported(proposed, roles), roles)
        accepted = {
            context.context_id: Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in results
            if context.result == 0 and context.context_id is not None
        }
        reply = A_ASSOCIATE()
        reply.application_context_name = UID(APPLICATION_CONTEXT)
        reply.presentation_context_definition_results_list = results
        reply.user_information = [*self._ourselves(), *role_answers]
        return Agreement(
            application_context=str(proposal.application_context_name or ""),
            contexts=accepted,
            refused=len(results) - len(accepted),
            peer_max_pdu=peer_max_pdu,
            items=_encoded_items(reply),
        )

    def _supported(
        self, proposed: list[PresentationContext], roles: Mapping[UID, tuple[bool | None, bool | None]]
    ) -> list[PresentationContext]:
        _, reports = roles.get(UID(STORAGE_COMMITMENT), (None, None))
        pairs = [
            (str(context.abstract_syntax), [str(uid) for uid in context.transfer_syntax])
            for context in proposed
            # Whoever does not propose to be its SCP wants us to be: that is not served.
            if reports or context.abstract_syntax != STORAGE_COMMITMENT
        ]
        # Where no proposed transfer syntax will do, one that was not proposed gives the right result (4, not 3).
        takes = {abstract: [IMPLICIT_VR_LITTLE_ENDIAN] for abstract, _ in pairs if self._syntaxes.serves(abstract)}
        supported = []
        for abstract, uids in (takes | self._syntaxes.negotiable(pairs)).items():
            context = build_context(abstract, uids)
            # The peer's role: it may be SCU, and is SCP only to report.
            context.scp_role = abstract == STORAGE_COMMITMENT
            context.scu_role = not context.scp_role
            supported.append(context)
        return supported

    def _ourselves(self) -> list[_UserInformation]:
        length = MaximumLengthNotification()
        length.maximum_length_received = self._max_pdu
        implementation = ImplementationClassUIDNotification()
        implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        version = ImplementationVersionNameNotification()
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        return [length, implementation, version]


def _proposal(items: bytes) -> A_ASSOCIATE:
    """Decode variable items; the AE titles are not looked at here."""
    body = _FIXED.pack(1, 0, b"ANY".ljust(16), b"ANY".ljust(16), b"") + items
    request = A_ASSOCIATE_RQ()
    request.decode(struct.pack(">BxI", pdu.A_ASSOCIATE_RQ, len(body)) + body)
    return request.to_primitive()


def _known(items: bytes) -> bytes:
    """Return the items that are read here, after a look at their number and lengths (PS3.8 §9.3.1).

    Items of unknown type are passed over, as the standard asks.
    """
    known = []
    seen = contexts = 0
    for kind, item in _items(items):
        seen += 1
        if kind == _CONTEXT_ITEM:
            contexts += 1
            syntaxes = [kind for kind, _ in _items(item[_CONTEXT_HEAD:])]
            seen += len(syntaxes)
            if syntaxes.count(_ABSTRACT_SYNTAX) != 1 or _TRANSFER_SYNTAX not in syntaxes:
                raise InvalidPdu("a presentation context without an abstract or a transfer syntax")
        elif kind == _USER_INFORMATION:
            parts = list(_items(item[4:]))
            seen += len(parts)
            kept = b"".join(part for part_kind, part in parts if part_kind in _READ)
            item = _ITEM.pack(kind, len(kept)) + kept
        elif kind != _APPLICATION_CONTEXT_ITEM:
            continue
        if contexts > _MAX_CONTEXTS or seen > _MAX_ITEMS:
            raise InvalidPdu("an A-ASSOCIATE-RQ of more items than any")
        known.append(item)
    return b"".join(known)


def _items(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    at, end = 0, len(encoded)
    while at < end:
        if end - at < _ITEM.size:
            raise InvalidPdu("an A-ASSOCIATE-RQ's item is cut short")
        kind, length = _ITEM.unpack_from(encoded, at)
        following = at + _ITEM.size + length
        if following > end:
            raise InvalidPdu("an A-ASSOCIATE-RQ's item is longer than what holds it")
        yield kind, encoded[at:following]
        at = following


def _encoded_items(reply: A_ASSOCIATE) -> bytes:
    """Return the variable items of an A-ASSOCIATE-AC."""
    reply.calling_ae_title = reply.called_ae_title = "ANY"
    encoded = A_ASSOCIATE_AC()
    encoded.from_primitive(reply)
    return bytes(encoded.encode())[6 + _FIXED.size :]


def _title(encoded: bytes) -> str:
    """Return an AE title; leading and trailing spaces mean nothing (PS3.5 §6.2)."""
    return encoded.decode("ascii", "replace").strip("\0 ")


def is_ae_title(title: str) -> bool:
    """Tell whether a title is one, and so may be written to a file (PS3.5 §6.2, VR AE)."""
    return bool(title) and title.isascii() and title.isprintable() and "\\" not in title
