"""A DICOM file on this machine as the rules see it: its header, and the association that might bring it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from bucky.dicom.foreign_file import ForeignFile, read_foreign_file
from bucky.dicom.header import read_data_set
from bucky.dicom.json_model import attributes
from bucky.dicom.patients import patient_count
from bucky.dicom.source import StreamSource
from bucky.routing.attributes import Step, attribute_path, attribute_values
from bucky.routing.evaluation import Facts, SeriesFacts, StudyFacts

_STUDY, _SERIES, _MODALITY = map(attribute_path, ("StudyInstanceUID", "SeriesInstanceUID", "Modality"))
_PATIENT_ID, _ISSUER = map(attribute_path, ("PatientID", "IssuerOfPatientID"))


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file, and the facts that rules ask about."""

    file: ForeignFile
    facts: Facts

    def header(self) -> Dataset:
        """Read its header anew."""
        return _header(self.file)

    @property
    def series(self) -> str:
        """Its Series Instance UID."""
        return _first(self.facts, _SERIES)

    @property
    def study(self) -> str:
        """Its Study Instance UID."""
        return _first(self.facts, _STUDY)


def read_local_file(path: Path, association: Facts) -> LocalFile:
    """Read a file's header; raise `Permanent` when it is none that could be sent, or `OSError`."""
    file = read_foreign_file(path)
    return LocalFile(file, replace(association, header=attributes(_header(file)).model))


def as_studies(files: Sequence[LocalFile]) -> list[LocalFile]:
    """Return the files, each knowing its series and study as if these files were all of them."""
    series = Counter((one.study, one.series) for one in files)
    instances = Counter(one.study for one in files)
    modalities: dict[str, set[str]] = defaultdict(set)
    for one in files:
        modalities[one.study] |= {_first(one.facts, _MODALITY)} - {""}
    patients = {study: patient_count(_patient(one) for one in files if one.study == study) for study in instances}
    studies = {
        study: StudyFacts(
            tuple(sorted(modalities[study])), sum(of == study for of, _ in series), count, patients[study]
        )
        for study, count in instances.items()
    }
    return [
        replace(
            one,
            facts=replace(one.facts, study=studies[one.study], series=SeriesFacts(series[one.study, one.series])),
        )
        for one in files
    ]


def _header(file: ForeignFile) -> Dataset:
    with file.path.open("rb") as stream:
        dataset, _problem = read_data_set(StreamSource(stream), file.offset, file.transfer_syntax_uid)
    return dataset


def _patient(file: LocalFile) -> tuple[str, str]:
    return _first(file.facts, _PATIENT_ID), _first(file.facts, _ISSUER)


def _first(facts: Facts, path: tuple[Step, ...]) -> str:
    return next((value.text for value in attribute_values(facts.header, path)), "")
