"""A-ASSOCIATE-RQ to A-ASSOCIATE-AC (PS3.8 §9.3.2 and §9.3.3, PS3.7 Annex D).

Answered are presentation contexts, the maximum length, the implementation and role selection: as an SCP, but for
Storage Commitment, where the peer must be the SCP, which reports (PS3.4 §J.3.3).
User identity, extended negotiation and the asynchronous operations window are read past: no answer means
"not supported", and one operation at a time (PS3.7 §D.3.3.3, §D.3.3.5, §D.3.3.7).

A context that breaks the standard is refused by itself, and what only informs is never a reason to refuse anything
(`bucky.dimse.association_items`); both are in the agreement's `oddities`, for the log.
"""

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bucky.dicom.identity import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from bucky.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from bucky.dimse import association_items as variable
from bucky.dimse.association_items import MalformedItem, UserInformation, item, items, uid_of
from edge_scp.association import pdu
from edge_scp.association.pdu import InvalidPdu
from edge_scp.association.storage_syntaxes import STORAGE_COMMITMENT, Syntaxes

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
# Version (2), reserved (2), called and calling AE title (16 each), reserved (32): PS3.8 Table 9-11.
_FIXED = struct.Struct(">HH16s16s32s")
# As many as there are context ids, even ones too.
_MAX_CONTEXTS = 256
# Far more than 128 contexts with every transfer syntax there is; few enough to decode in an instant.
_MAX_ITEMS = 8192
# A P-DATA-TF of fewer bytes holds no value that holds anything.
_LEAST_MAX_PDU = 8
_REMEMBERED = 256
_LONGEST_UID = 64
# A presentation context's result (PS3.8 Table 9-18).
_ACCEPTED, _USER_REJECTION, _NO_REASON, _ABSTRACT_SYNTAX_NOT_SUPPORTED, _TRANSFER_SYNTAXES_NOT_SUPPORTED = range(5)


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
class PresentationContext:
    """An accepted presentation context."""

    abstract_syntax_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class _Proposed:
    """A proposed presentation context; `oddity` says how it breaks the standard, if it does."""

    context_id: int
    abstract_syntax: bytes
    transfer_syntaxes: Sequence[bytes]
    oddity: str = ""

    @classmethod
    def read(cls, content: bytes) -> "_Proposed":
        """Read a Presentation Context item of at least its id; sub-items of other types are passed over."""
        abstract: list[bytes] = []
        transfer: list[bytes] = []
        oddity = "an even id" if content[0] % 2 == 0 else ""
        try:
            for kind, value in items(content[variable.CONTEXT_HEAD_BYTES :]):
                if kind in {variable.ABSTRACT_SYNTAX, variable.TRANSFER_SYNTAX}:
                    (abstract if kind == variable.ABSTRACT_SYNTAX else transfer).append(value)
        except MalformedItem:
            oddity = oddity or "items that do not fit in it"
        if len(abstract) != 1 or not transfer:
            oddity = oddity or "not one abstract syntax and some transfer syntax"
        return cls(content[0], abstract[0] if abstract else b"", transfer, oddity)


@dataclass(frozen=True, slots=True)
class _Proposal:
    """The variable items of an A-ASSOCIATE-RQ."""

    application_context: str
    contexts: Sequence[_Proposed]
    user: UserInformation
    oddities: tuple[str, ...]

    @classmethod
    def read(cls, encoded: bytes) -> "_Proposal":
        """Read them; raise `InvalidPdu` where it cannot be told what is proposed."""
        application_context, user = "", UserInformation()
        contexts: dict[int, _Proposed] = {}
        oddities: list[str] = []
        for kind, content in _few(encoded):
            if kind == variable.APPLICATION_CONTEXT:
                application_context = uid_of(content)
            elif kind == variable.USER_INFORMATION:
                user = variable.user_information(content)
            elif kind == variable.PRESENTATION_CONTEXT and not content:
                oddities.append("a presentation context has no id")
            elif kind == variable.PRESENTATION_CONTEXT:
                proposed = _Proposed.read(content)
                # Two of the same id would be answered as one, and what is sent in it belongs to the first.
                repeated = proposed.context_id in contexts
                contexts.setdefault(proposed.context_id, proposed)
                oddity = "the id of another" if repeated else proposed.oddity
                if oddity:
                    oddities.append(f"presentation context {proposed.context_id} has {oddity}")
        if not contexts:
            raise InvalidPdu("an A-ASSOCIATE-RQ without presentation contexts")
        return cls(application_context, list(contexts.values()), user, (*oddities, *user.oddities))


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is answered to a proposal; `peer_max_pdu` is in bytes, 0 for no limit.

    `oddities` are what breaks the standard in it, in words and without values.
    """

    application_context: str
    contexts: Mapping[int, PresentationContext]
    refused: int
    peer_max_pdu: int
    items: bytes
    oddities: tuple[str, ...] = ()

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
            agreement = self._negotiated(_Proposal.read(request.items))
            self._remembered[key] = agreement
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(key)
        return agreement

    def _negotiated(self, proposal: _Proposal) -> Agreement:
        user = proposal.user
        peer_max_pdu = user.maximum_length or 0
        if 0 < peer_max_pdu < _LEAST_MAX_PDU:
            raise InvalidPdu("an A-ASSOCIATE-RQ whose maximum length leaves no room for a response")
        accepted: dict[int, PresentationContext] = {}
        answers: list[bytes] = []
        roles: dict[str, bytes] = {}
        for proposed in proposal.contexts:
            abstract = uid_of(proposed.abstract_syntax)
            result, transfer_syntax = self._result(proposed, abstract, user.roles.get(abstract))
            answers.append(_answer(proposed.context_id, result, transfer_syntax))
            if result == _ACCEPTED:
                accepted[proposed.context_id] = PresentationContext(abstract, uid_of(transfer_syntax))
                if abstract in user.roles:
                    roles[abstract] = _role(abstract, reports=abstract == STORAGE_COMMITMENT)
        return Agreement(
            application_context=proposal.application_context,
            contexts=accepted,
            refused=len(answers) - len(accepted),
            peer_max_pdu=peer_max_pdu,
            items=item(variable.APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode())
            + b"".join(answers)
            + item(variable.USER_INFORMATION, self._ourselves() + b"".join(roles.values())),
            oddities=proposal.oddities,
        )

    def _result(self, proposed: _Proposed, abstract: str, roles: tuple[bool, bool] | None) -> tuple[int, bytes]:
        """Return what becomes of one context, and the transfer syntax of the answer: of a refusal, it means nothing."""
        first = next(iter(proposed.transfer_syntaxes), b"")
        named = first if 0 < len(first) <= _LONGEST_UID and first.isascii() else IMPLICIT_VR_LITTLE_ENDIAN.encode()
        if proposed.oddity:
            return _NO_REASON, named
        is_scu, is_scp = roles or (True, False)
        # Whoever does not propose to be the SCP of Storage Commitment wants us to be: that is not served.
        if not self._syntaxes.serves(abstract) or (abstract == STORAGE_COMMITMENT and not is_scp):
            return _ABSTRACT_SYNTAX_NOT_SUPPORTED, named
        chosen = _preferred(self._syntaxes.known(abstract, map(uid_of, proposed.transfer_syntaxes)))
        if not chosen:
            return _TRANSFER_SYNTAXES_NOT_SUPPORTED, named
        if abstract != STORAGE_COMMITMENT and not is_scu:
            return _USER_REJECTION, named
        return _ACCEPTED, chosen.encode()

    def _ourselves(self) -> bytes:
        return (
            item(variable.MAXIMUM_LENGTH, struct.pack(">I", self._max_pdu))
            + item(variable.IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_CLASS_UID.encode())
            + item(variable.IMPLEMENTATION_VERSION_NAME, IMPLEMENTATION_VERSION_NAME.encode())
        )


def _preferred(known: Sequence[str]) -> str:
    """Return the caller's first choice, so that it may send what it has; but no big endian where it has little too.

    Explicit VR Big Endian is retired (PS3.5 §A.3), and few can read what was stored in it.
    """
    return next((uid for uid in known if uid != EXPLICIT_VR_BIG_ENDIAN), known[0] if known else "")


def _answer(context_id: int, result: int, transfer_syntax: bytes) -> bytes:
    """Encode a Presentation Context item of an A-ASSOCIATE-AC (PS3.8 Table 9-18)."""
    head = bytes([context_id, 0, result, 0])
    return item(variable.PRESENTATION_CONTEXT_RESULT, head + item(variable.TRANSFER_SYNTAX, transfer_syntax))


def _role(abstract: str, *, reports: bool) -> bytes:
    """Encode the roles that the peer may have (PS3.7 Table D.3-10): it is SCU, and SCP only to report."""
    uid = abstract.encode()
    return item(variable.ROLE_SELECTION, struct.pack(">H", len(uid)) + uid + bytes([not reports, reports]))


def _few(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the variable items, after a look at how many there are in all (PS3.8 §9.3.1)."""
    seen = contexts = 0
    try:
        for kind, content in items(encoded):
            seen += 1
            if kind == variable.PRESENTATION_CONTEXT:
                contexts += 1
                seen += _count(content[variable.CONTEXT_HEAD_BYTES :])
            elif kind == variable.USER_INFORMATION:
                seen += _count(content)
            if contexts > _MAX_CONTEXTS or seen > _MAX_ITEMS:
                raise InvalidPdu("an A-ASSOCIATE-RQ of more items than any")
            yield kind, content
    except MalformedItem as error:
        raise InvalidPdu(f"in an A-ASSOCIATE-RQ, {error}") from error


def _count(encoded: bytes) -> int:
    """Return how many items there are, up to one that is cut short."""
    count = 0
    try:
        for _ in items(encoded):
            count += 1
    except MalformedItem:
        pass
    return count


def _title(encoded: bytes) -> str:
    """Return an AE title: spaces around it mean nothing (PS3.5 §6.2), nor does what follows a NUL."""
    return encoded.decode("ascii", "replace").strip("\0 ").partition("\0")[0].rstrip(" ")


def is_ae_title(title: str) -> bool:
    """Tell whether a title is one, and so may be written to a file (PS3.5 §6.2, VR AE)."""
    return bool(title) and title.isascii() and title.isprintable() and "\\" not in title
