"""Sending to a DICOMweb server by STOW-RS (PS3.18 §10.5)."""

import socket
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from http import HTTPStatus

import httpx

from bucky.dimse import status
from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult, not_sent
from bucky.errors import AnswerLost, DestinationUnavailable, Permanent, Retriable
from bucky.forwarding.in_units import Unit, in_units
from bucky.forwarding.secrets import Secrets
from bucky.forwarding.stow_answer import ALREADY_STORED, BEING_STORED, StowAnswer, read_answer
from bucky.forwarding.stow_copy import Holds, copy_at
from bucky.forwarding.stow_request import ACCEPT, MultipartBody, NothingToSend, requests_for
from bucky.routing.destinations import BearerAuth, HttpBasicAuth, StowDestination
from bucky.runtime.tls import ANSWER_FACTOR, MISCONFIGURED_RETRY_SECONDS, client_context, in_words

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_RETRY_AFTER_SECONDS = 3600.0
UNSENT_BYTES = 64 * 1024
"""At most this waits in the system: over a slow line, the wait for an answer begins when nearly all has left."""
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
"""Not every system has it."""
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, 503, HTTPStatus.GATEWAY_TIMEOUT})
_MISCONFIGURED = frozenset({401, 403, 404, 405, 406, 407, 411, 501})
_MAY_BE_THERE = frozenset({ALREADY_STORED, BEING_STORED, status.DUPLICATE_SOP_INSTANCE, status.PROCESSING_FAILURE})
"""What servers answer for what they hold already; the last one says nothing of the instance, and may mean anything."""
_CONFLICT = f"HTTP {HTTPStatus.CONFLICT}"


class _FailedWhole(Exception):
    """A request of which no instance has an answer of its own; `result` is that of an instance sent alone."""

    def __init__(self, result: StoreResult, unanswered: Sequence[int] = ()) -> None:
        super().__init__(result.reason)
        self.result = result
        self.unanswered = frozenset(unanswered)
        """The indexes of those that were sent whole, and had no answer."""


class StowSender:
    """Posts instances through one client."""

    def __init__(self, destination: StowDestination, secrets: Secrets) -> None:
        identity = destination.tls_identity_secret
        timeout = destination.timeout_seconds
        self._destination = destination
        transport = httpx.HTTPTransport(
            verify=client_context(destination.tls_ca_file, secrets.file(identity) if identity else None),
            limits=httpx.Limits(max_connections=destination.max_connections),
            trust_env=False,
            socket_options=[(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_BYTES)] if _NOTSENT_LOWAT is not None else [],
        )
        self._client = httpx.Client(
            transport=transport,
            auth=_auth(destination, secrets),
            timeout=httpx.Timeout(timeout, read=timeout * ANSWER_FACTOR),
            headers={"Accept": ACCEPT},
            follow_redirects=False,
            trust_env=False,
        )

    def send(self, items: Sequence[Outgoing], *, seconds: float) -> list[StoreResult]:
        """Post every item, several in one request."""
        deadline = time.monotonic() + seconds
        return in_units(
            requests_for(items, self._destination.instances_per_request),
            lambda unit: self._together(items, unit, deadline),
            at_once=self._destination.max_connections,
            seconds=seconds,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _together(self, items: Sequence[Outgoing], unit: Unit, deadline: float) -> dict[int, StoreResult]:
        """Post a unit as one request, or each alone where one of them may have spoilt it for the others."""
        if len(unit) == 1:
            return self._alone(items, unit)
        try:
            return self._posted(items, unit)
        except _FailedWhole as failed:
            unanswered = failed.unanswered
            members = [items[index] for index in unit]
            results = in_units(
                [(number,) for number in range(len(members))],
                lambda one: self._alone(members, one),
                at_once=1,
                seconds=deadline - time.monotonic(),
            )
            found = dict(zip(unit, results, strict=True))
            return {
                index: replace(result, unanswered=result.unanswered or index in unanswered)
                for index, result in found.items()
            }

    def _alone(self, items: Sequence[Outgoing], unit: Unit) -> dict[int, StoreResult]:
        try:
            return self._posted(items, unit)
        except _FailedWhole as failed:
            if failed.result.outcome is Outcome.UNAVAILABLE:
                kind = AnswerLost if failed.unanswered else DestinationUnavailable
                raise kind(failed.result.reason) from failed
            return {index: self._asked(items[index], failed.result) for index in unit}

    def _asked(self, item: Outgoing, result: StoreResult) -> StoreResult:
        """Return a result as it is, or, where it may mean that the instance is there, what its copy says."""
        if result.outcome.arrived or not (result.status in _MAY_BE_THERE or result.answer == _CONFLICT):
            return result
        try:
            copy = copy_at(self._client, self._destination, item)
        except (Permanent, Retriable) as error:
            return replace(not_sent(error), reason=f"{result.reason}; {error}", answer=result.answer)
        except OSError as error:
            return replace(not_sent(Retriable(f"there is no room to compare its copy: {error.strerror}")))
        said = f"{result.reason}; {copy.known}"
        match copy.holds:
            case Holds.OURS:
                return replace(result, outcome=Outcome.STORED, reason=f"it is there already: {said}", exists=False)
            case Holds.OTHER:
                kept = f"the destination keeps another instance under this UID: {said}"
                return replace(result, outcome=Outcome.REFUSED, reason=kept, exists=False)
            case Holds.UNKNOWN:
                return replace(result, reason=said if result.exists else result.reason)

    def _posted(self, items: Sequence[Outgoing], unit: Unit) -> dict[int, StoreResult]:
        """Post one request; raise `_FailedWhole`, or `DestinationUnavailable` when no instance can be at fault."""
        started = time.monotonic()
        body = MultipartBody(items, unit)
        where = self._destination.address
        try:
            with self._client.stream(
                "POST",
                f"{self._destination.url}/studies",
                content=body,  # begins to be read when there is a connection
                headers={"Content-Type": body.content_type},
            ) as response:
                answer = self._answer(response)
        except NothingToSend:
            return body.failed
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise DestinationUnavailable(f"{where} cannot be reached: {_cause(error)}") from error
        except httpx.RequestError as error:
            reason = f"{where} broke the connection: {_cause(error)}"
            raise _FailedWhole(StoreResult(Outcome.UNAVAILABLE, reason), body.sent if body.ended else ()) from error
        except httpx.InvalidURL as error:
            raise DestinationUnavailable(f"{where} is no address", MISCONFIGURED_RETRY_SECONDS) from error
        except OSError as error:  # only the contents raise it: the connection's are translated
            raise _FailedWhole(StoreResult(Outcome.UNAVAILABLE, "the data set could not be read to its end")) from error
        share = (time.monotonic() - started) / len(unit)
        early = StoreResult(Outcome.UNAVAILABLE, f"{where} answered before the instance was sent")
        results = dict.fromkeys(unit, early) | body.failed
        for index in body.sent:
            result = answer.result(items[index].sop_instance_uid, response.status_code)
            results[index] = replace(self._asked(items[index], result), seconds=share)
        return results

    def _answer(self, response: httpx.Response) -> StowAnswer:
        """Read an answer that speaks of instances; raise what any other one means."""
        where, code = self._destination.address, response.status_code
        said = f"{where} answered HTTP {code}"
        if code in _BUSY:
            raise DestinationUnavailable(said, _retry_after(response))
        if code in _MISCONFIGURED or 300 <= code < 400:
            raise DestinationUnavailable(
                f"{said}: check its address and what our credentials allow", MISCONFIGURED_RETRY_SECONDS
            )
        answer = _read(response)
        if response.is_success:
            if answer is None:
                raise DestinationUnavailable(
                    f"{said}, but not with the DICOM JSON that says what it stored", MISCONFIGURED_RETRY_SECONDS
                )
            return answer
        if answer is None or not (answer.stored or answer.failed):
            outcome = Outcome.REFUSED if response.is_client_error else Outcome.UNAVAILABLE
            raise _FailedWhole(StoreResult(outcome, said, answer=f"HTTP {code}"))
        return answer


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def _auth(destination: StowDestination, secrets: Secrets) -> httpx.Auth | None:
    match destination.auth:
        case None:
            return None
        case HttpBasicAuth() as basic:
            return httpx.BasicAuth(basic.username, secrets.text(basic.password_secret))
        case BearerAuth() as bearer:
            return _Bearer(secrets.text(bearer.token_secret))


def _read(response: httpx.Response) -> StowAnswer | None:
    """Read an answer in DICOM JSON; return None for anything else."""
    if "json" not in response.headers.get("content-type", ""):
        return None
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return None
    try:
        return read_answer(bytes(body))
    except ValueError:
        return None


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds a server asks us to wait, as far as they are a number and not for ever."""
    value = response.headers.get("retry-after", "")
    return min(float(value), MAX_RETRY_AFTER_SECONDS) if value.isdecimal() else None


def _cause(error: httpx.RequestError) -> str:
    """Say what lies below httpx's own error, without the texts that servers send."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError):
            return in_words(below)
        below = below.__cause__ or below.__context__
    return "no answer in time" if isinstance(error, httpx.TimeoutException) else type(error).__name__
