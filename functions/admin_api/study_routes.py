"""What Bucky holds: studies, series, instances and their files."""

from collections.abc import Iterator
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from admin_api.answers import Page
from admin_api.parameters import Digest, IndexDep, Limit, ObjectsDep, Offset, Uid
from admin_api.strict_route import StrictRoute
from bucky.errors import NotFound
from bucky.index import Counts, DeliveryCount, InstanceRow, SeriesRow, StudyQuery, StudyRow
from bucky.store.objects import ObjectStore

CHUNK_BYTES = 4 * 1024 * 1024

routes = APIRouter(tags=["studies"], route_class=StrictRoute)

Text = Annotated[str | None, Query(min_length=1, max_length=256)]
Date = Annotated[str | None, Query(pattern=r"^\d{8}$", description="YYYYMMDD.")]


class Summary(BaseModel):
    """How much there is, and how its deliveries stand."""

    held: Counts
    deliveries: list[DeliveryCount]


@routes.get("/api/summary")
def summary(index: IndexDep) -> Summary:
    """Return how many studies, series and instances there are, and how many deliveries in each state."""
    return Summary(held=index.counts(), deliveries=index.delivery_counts())


@routes.get("/api/studies")
def list_studies(
    index: IndexDep,
    patient_id: Text = None,
    patient_name: Annotated[
        str | None, Query(min_length=1, max_length=256, description="`*` and `?` stand for any characters.")
    ] = None,
    accession_number: Text = None,
    study_instance_uid: Text = None,
    modality: Text = None,
    study_date_from: Date = None,
    study_date_to: Date = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[StudyRow, int]:
    """Search for studies, the latest first."""
    found = index.search_studies(
        StudyQuery(
            patient_id=patient_id,
            patient_name=patient_name,
            accession_number=accession_number,
            study_instance_uid=study_instance_uid,
            modality=modality,
            study_date_from=study_date_from,
            study_date_to=study_date_to,
            limit=limit + 1,
            offset=offset,
        )
    )
    return Page(items=found[:limit], next=offset + limit if len(found) > limit else None)


@routes.get("/api/studies/{study_uid}")
def get_study(study_uid: Uid, index: IndexDep) -> StudyRow:
    """Return one study."""
    return index.study(study_uid)


@routes.get("/api/studies/{study_uid}/series")
def list_series(study_uid: Uid, index: IndexDep) -> list[SeriesRow]:
    """Return the series of a study."""
    index.study(study_uid)
    return index.series(study_uid)


@routes.get("/api/studies/{study_uid}/series/{series_uid}/instances")
def list_instances(
    study_uid: Uid, series_uid: Uid, index: IndexDep, limit: Limit = 100, offset: Offset = 0
) -> Page[InstanceRow, int]:
    """Return the instances of a series, conflicts included."""
    found = index.instances(study_uid, series_uid, limit=limit + 1, offset=offset)
    if not found and not any(one.series_instance_uid == series_uid for one in index.series(study_uid)):
        raise NotFound("There is no such series in this study.")
    return Page(items=found[:limit], next=offset + limit if len(found) > limit else None)


@routes.get("/api/instances")
def newest_instances(
    index: IndexDep,
    study: Annotated[str | None, Query(pattern=r"^[0-9.]{1,64}$", description="Study Instance UID.")] = None,
    damaged: Annotated[bool, Query(description="Only those whose data set is not whole.")] = False,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[InstanceRow, int]:
    """Return instances, the newest first, conflicts included."""
    found = index.newest_instances(study_uid=study, damaged=damaged, limit=limit + 1, offset=offset)
    return Page(items=found[:limit], next=offset + limit if len(found) > limit else None)


@routes.get("/api/instances/{sha256}")
def get_instance(sha256: Digest, index: IndexDep) -> InstanceRow:
    """Return one instance with its header as the DICOM JSON model (PS3.18 Annex F)."""
    return index.instance(sha256)


@routes.get(
    "/api/instances/{sha256}/file",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/dicom": {}}, "description": "The DICOM file."}},
)
def get_file(sha256: Digest, index: IndexDep, objects: ObjectsDep) -> StreamingResponse:
    """Return the instance's file as it is in the object store."""
    row = index.instance(sha256)
    size = objects.size(row.key)
    # The first part is read here, so that a failure still has a status of its own.
    first = objects.get(row.key, 0, min(size, CHUNK_BYTES))
    return StreamingResponse(
        chain((first,), _rest(objects, row.key, size)),
        media_type="application/dicom",
        headers={
            "Content-Length": str(size),
            "Content-Disposition": f'attachment; filename="{row.sop_instance_uid}.dcm"',
        },
    )


def _rest(objects: ObjectStore, key: str, size: int) -> Iterator[bytes]:
    for offset in range(CHUNK_BYTES, size, CHUNK_BYTES):
        yield objects.get(key, offset, min(CHUNK_BYTES, size - offset))
