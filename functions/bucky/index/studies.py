"""Finding studies and their series."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select, text

from bucky.dicom.padding import without_padding
from bucky.dicom.patients import several_names
from bucky.errors import NotFound
from bucky.index import patients
from bucky.index.attributes import name_key
from bucky.index.instances import DAMAGED
from bucky.index.rows import Counts, PatientRow, SeriesRow, StudyQuery, StudyRow
from bucky.index.schema import instances, series, studies, study_patients

_LISTED = [column for column in studies.c if column.name != "patient_name_key"]
_SERIES = [
    *(column for column in series.c if column.name != "quarantined_count"),
    series.c.quarantined_count.label("conflict_count"),
]
_ESCAPE = "\\"


def search(connection: Connection, query: StudyQuery) -> list[StudyRow]:
    """Return one page of the studies that match, those that changed last first."""
    statement = _matching(select(*_LISTED), query)
    statement = statement.order_by(studies.c.last_instance_at.desc(), studies.c.study_instance_uid)
    return _with_series(connection, statement.limit(query.limit).offset(query.offset))


def count_matching(connection: Connection, query: StudyQuery) -> int:
    """Return how many studies match, whatever the page."""
    statement = _matching(select(func.count()).select_from(studies), query)
    return int(connection.execute(statement).scalar_one())


def one(connection: Connection, study_instance_uid: str) -> StudyRow:
    """Return a study; raise `NotFound`."""
    found = _with_series(connection, select(*_LISTED).where(studies.c.study_instance_uid == study_instance_uid))
    if not found:
        raise NotFound("the index has no such study")
    return found[0]


def series_of(connection: Connection, study_instance_uids: Iterable[str]) -> list[SeriesRow]:
    """Return the series of these studies, by number."""
    statement = (
        select(*_SERIES)
        .where(series.c.study_instance_uid.in_(list(study_instance_uids)))
        .order_by(series.c.series_number.nulls_last(), series.c.series_instance_uid)
    )
    return [SeriesRow(**row) for row in connection.execute(statement).mappings()]


def counts(connection: Connection) -> Counts:
    """Return how much there is, from the counts kept with the series: instances are too many to count."""
    c = series.c
    total = select(
        func.count(),
        func.coalesce(func.sum(c.instance_count), 0),
        func.coalesce(func.sum(c.quarantined_count), 0),
    )
    series_count, present, conflicts = connection.execute(total).one()
    study_count = connection.execute(select(func.count()).select_from(studies)).scalar_one()
    mixed = select(func.count()).select_from(studies).where(studies.c.patient_count > text("1"))
    several_patients = connection.execute(mixed).scalar_one()
    damaged = sum(_damaged(connection, None).values())
    return Counts(study_count, series_count, int(present), int(conflicts), several_patients, damaged)


def _with_series(connection: Connection, statement: Select[Any]) -> list[StudyRow]:
    rows = connection.execute(statement).mappings().all()
    its_patients = patients.of_studies(connection, [row["study_instance_uid"] for row in rows])
    found: dict[str, list[SeriesRow]] = defaultdict(list)
    for one_series in series_of(connection, [row["study_instance_uid"] for row in rows]):
        found[one_series.study_instance_uid].append(one_series)
    damaged = _damaged(connection, list(found))
    return [
        _study(
            {**row, **_said_of(its_patients.get(row["study_instance_uid"], ()))},
            found[row["study_instance_uid"]],
            damaged.get(row["study_instance_uid"], 0),
        )
        for row in rows
    ]


def _said_of(its_patients: tuple[PatientRow, ...]) -> dict[str, Any]:
    names = ((one.patient_id, one.patient_name) for one in its_patients)
    return {"patients": its_patients, "several_names": several_names(names)}


def _damaged(connection: Connection, study_instance_uids: Sequence[str] | None) -> dict[str, int]:
    """Return how many instances of each study, or of each of these studies, came damaged."""
    study = instances.c.study_instance_uid
    query = select(study, func.count()).where(DAMAGED).group_by(study)
    if study_instance_uids is not None:
        query = query.where(study.in_(study_instance_uids))
    return {row[0]: row[1] for row in connection.execute(query)}


def _study(row: dict[str, Any], its_series: list[SeriesRow], damaged: int) -> StudyRow:
    return StudyRow(
        **row,
        modalities=tuple(sorted({one.modality for one in its_series if one.modality})),
        series_count=sum(1 for one in its_series if one.instance_count),
        instance_count=sum(one.instance_count for one in its_series),
        conflict_count=sum(one.conflict_count for one in its_series),
        damaged_count=damaged,
    )


def _matching(statement: Select[Any], query: StudyQuery) -> Select[Any]:
    for column, value, vr in (
        (studies.c.accession_number, query.accession_number, "SH"),
        (studies.c.study_instance_uid, query.study_instance_uid, "UI"),
    ):
        if value is not None:
            statement = statement.where(column == without_padding(value, vr))
    c = study_patients.c
    of_patient = [] if query.patient_id is None else [c.patient_id == without_padding(query.patient_id, "LO")]
    if query.patient_name is not None:
        of_patient.append(_name_matches(query.patient_name))
    if of_patient:
        statement = statement.where(studies.c.study_instance_uid.in_(select(c.study_instance_uid).where(*of_patient)))
    if query.study_date_from is not None:
        statement = statement.where(studies.c.study_date >= query.study_date_from)
    if query.study_date_to is not None:
        statement = statement.where(studies.c.study_date <= query.study_date_to)
    if query.modality is not None:
        modality = without_padding(query.modality, "CS")
        in_series = select(series.c.study_instance_uid).where(series.c.modality == modality)
        statement = statement.where(studies.c.study_instance_uid.in_(in_series))
    return statement


def _name_matches(pattern: str) -> ColumnElement[bool]:
    """Match the whole name, or any of its component groups, which `=` separates (PS3.5 §6.2.1)."""
    like = name_key(without_padding(pattern, "PN"))
    for special in (_ESCAPE, "%", "_"):
        like = like.replace(special, _ESCAPE + special)
    like = like.replace("*", "%").replace("?", "_")
    forms = (like, f"{like}=%", f"%={like}", f"%={like}=%")
    key = func.rtrim(study_patients.c.patient_name_key, "^")  # earlier versions kept what may be left out
    return or_(*(key.like(form, escape=_ESCAPE) for form in forms))
