"""The patients of a study: one as a rule, and every one that its instances name where a sender mixed them up."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from bucky.dicom.patients import patient_count
from bucky.index.database import insert_into
from bucky.index.rows import PatientRow
from bucky.index.schema import instances, studies, study_patients

_SAID = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_name_key",
    "patient_birth_date",
    "patient_sex",
)
_TOLD_APART = ("patient_id", "issuer_of_patient_id", "patient_name")
_SHOWN = tuple(name for name in _SAID if name != "patient_name_key")


def patient_of(study_instance_uid: str, attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the row of a patient from an instance's study attributes; None when it names nobody."""
    if attributes.get("patient_id") is None and attributes.get("patient_name") is None:
        return None
    said = "\n".join(str(attributes.get(name) or "") for name in _TOLD_APART)
    key = hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()
    return {
        "study_instance_uid": study_instance_uid,
        "patient_key": key,
        **{name: attributes.get(name) for name in _SAID},
    }


def record(connection: Connection, patients: Iterable[dict[str, Any] | None]) -> None:
    """Note the patients of studies whose rows this transaction holds, and count anew where there is one more."""
    rows = {(row["study_instance_uid"], row["patient_key"]): row for row in patients if row is not None}
    if not rows:
        return
    statement = insert_into(connection, study_patients).on_conflict_do_nothing()
    returning = statement.returning(study_patients.c.study_instance_uid)
    count(connection, set(connection.execute(returning, [rows[key] for key in sorted(rows)]).scalars()))


def replace(connection: Connection, study_instance_uid: str, patients: Sequence[dict[str, Any]], seen: int) -> None:
    """Make a study's patients those of `seen` instances, and keep the others while there are more instances."""
    c = instances.c
    there = select(func.count()).where(c.study_instance_uid == study_instance_uid, ~c.quarantined)
    if connection.execute(there).scalar_one() <= seen:
        keys = [row["patient_key"] for row in patients]
        others = study_patients.c.patient_key.not_in(keys)
        connection.execute(
            delete(study_patients).where(study_patients.c.study_instance_uid == study_instance_uid, others)
        )
    record(connection, patients)
    count(connection, {study_instance_uid})


def forget(connection: Connection, study_instance_uid: str) -> None:
    """Remove the patients of a study that is no more."""
    connection.execute(delete(study_patients).where(study_patients.c.study_instance_uid == study_instance_uid))


def count(connection: Connection, study_uids: Iterable[str]) -> None:
    """Write down how many patients these studies have."""
    for uid, patients in _rows(connection, study_uids).items():
        number = patient_count((row["patient_id"], row["issuer_of_patient_id"]) for row in patients)
        connection.execute(update(studies).where(studies.c.study_instance_uid == uid).values(patient_count=number))


def of_studies(connection: Connection, study_uids: Iterable[str]) -> dict[str, tuple[PatientRow, ...]]:
    """Return the patients of these studies, each once."""
    return {
        uid: tuple(dict.fromkeys(PatientRow(**{name: row[name] for name in _SHOWN}) for row in rows))
        for uid, rows in _rows(connection, study_uids).items()
    }


def _rows(connection: Connection, study_uids: Iterable[str]) -> dict[str, list[Mapping[str, Any]]]:
    uids = sorted(study_uids)
    c = study_patients.c
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    if uids:
        query = select(study_patients).where(c.study_instance_uid.in_(uids))
        query = query.order_by(c.study_instance_uid, c.patient_id, c.patient_name, c.patient_key)
        for row in connection.execute(query).mappings():
            found[row["study_instance_uid"]].append(dict(row))
    return found
