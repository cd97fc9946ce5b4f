"""Asking a DICOMweb server whether what it holds under an instance's UIDs is that instance (PS3.18 §10.4).

Its copy is retrieved and compared, in whichever transfer syntax it is given; where it cannot be retrieved, its
metadata are. What cannot be asked is not taken for anything.
"""

import shutil
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path

import httpx
from pydicom import dcmread

from bucky.dicom.json_model import UNDECODABLE, quietly
from bucky.dicom.part10 import FileMeta, file_header
from bucky.differences import Differences, compared, in_words
from bucky.differences.metadata import differing_from
from bucky.dimse.outgoing import Outgoing
from bucky.errors import DestinationUnavailable
from bucky.forwarding.part10_file import Part10File
from bucky.forwarding.stow_parts import NotOnePart, one_part
from bucky.routing.destinations import StowDestination

MAX_BYTES = 1024 * 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024 * 1024
_ACCEPTED = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
)
# What servers add to what they give (PS3.18 §10.6.3.3, PS3.4 §C.3.4).
_ADDED = frozenset({"00080054", "00080056", "00081190"})


class Holds(StrEnum):
    """What a destination was found to hold."""

    OURS = "ours"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Copy:
    """What a destination holds under an instance's UIDs, and how that is known; never any value."""

    holds: Holds
    known: str


def copy_at(client: httpx.Client, destination: StowDestination, item: Outgoing) -> Copy:
    """Ask for the destination's copy and compare it with what is sent there.

    Raises `DestinationUnavailable` when it cannot answer now, and what the instance's content raises.
    """
    if not (item.study_instance_uid and item.series_instance_uid):
        return Copy(Holds.UNKNOWN, "it cannot be asked for its copy without the Study and Series Instance UIDs")
    url = (
        f"{destination.url}/studies/{item.study_instance_uid}/series/{item.series_instance_uid}"
        f"/instances/{item.sop_instance_uid}"
    )
    with tempfile.TemporaryDirectory(prefix="bucky-compare-") as folder:
        ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
        _write(item, ours)
        try:
            status = _retrieved(client, url, theirs)
            if status == HTTPStatus.OK:
                return _judged(compared(ours, theirs))
            return _by_metadata(client, url, ours) or Copy(
                Holds.UNKNOWN, f"it does not give its copy (HTTP {status} to WADO-RS)"
            )
        except httpx.HTTPError as error:
            where = destination.address
            raise DestinationUnavailable(f"{where} did not give its copy: {type(error).__name__}") from error


def _write(item: Outgoing, target: Path) -> None:
    # Not `opened`: what is read to compare does not go out, and is not counted.
    header = file_header(FileMeta(item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid))
    with Part10File(header, item.content()) as file, target.open("wb") as stream:
        shutil.copyfileobj(file, stream, 1024 * 1024)


def _retrieved(client: httpx.Client, url: str, target: Path) -> int:
    """Write the destination's copy to a file; return the status of its answer, 200 only when that is whole."""
    status = 0
    for accepted in _ACCEPTED:
        with client.stream("GET", url, headers={"Accept": accepted}) as response:
            status = _checked(response)
            if status == HTTPStatus.OK:
                raw = target.with_suffix(".raw")
                if not _saved(response, raw, MAX_BYTES):
                    return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                try:
                    one_part(raw, response.headers.get("content-type", ""), target)
                except NotOnePart:
                    return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
                return status
        if status not in {HTTPStatus.NOT_ACCEPTABLE, HTTPStatus.BAD_REQUEST}:
            break
    return status


def _by_metadata(client: httpx.Client, url: str, ours: Path) -> Copy | None:
    """Compare the header with the destination's metadata; None when it does not give them."""
    with client.stream("GET", f"{url}/metadata", headers={"Accept": "application/dicom+json"}) as response:
        raw = ours.with_suffix(".json")
        if _checked(response) != HTTPStatus.OK or not _saved(response, raw, MAX_METADATA_BYTES):
            return None
    try:
        with quietly():
            found = differing_from(raw.read_bytes(), dcmread(ours, stop_before_pixels=True))
    except UNDECODABLE:
        return None
    names = [one.name for one in found if one.path not in _ADDED or one.first is not None]
    if names:
        return Copy(Holds.OTHER, "its metadata have other values of " + ", ".join(names[:5]))
    return Copy(Holds.OURS, "its metadata are those of this instance; its pixels could not be retrieved to compare")


def _judged(differences: Differences) -> Copy:
    ours = [one for one in differences.attributes if one.path not in _ADDED or one.first is not None]
    found = Differences(
        differences.same_bytes,
        differences.transfer_syntaxes,
        tuple(ours),
        differences.pixels,
        differences.problem,
    )
    if found.same_content:
        return Copy(Holds.OURS, f"its copy was retrieved and compared: {in_words(found)}")
    if found.attributes or not found.problem:
        return Copy(Holds.OTHER, f"its copy was retrieved and compared: {in_words(found)}")
    return Copy(Holds.UNKNOWN, f"its copy was retrieved, but {found.problem}")


def _checked(response: httpx.Response) -> int:
    """Return a status; raise `DestinationUnavailable` when the server cannot answer now."""
    code = response.status_code
    passing = code == HTTPStatus.TOO_MANY_REQUESTS or (code >= 500 and code != HTTPStatus.NOT_IMPLEMENTED)
    if passing:
        raise DestinationUnavailable(f"it answered HTTP {code} when it was asked for its copy")
    return code


def _saved(response: httpx.Response, target: Path, most: int) -> bool:
    """Write a body to a file; return whether that was all of it."""
    size = 0
    with target.open("wb") as file:
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > most:
                return False
            file.write(chunk)
    return True
