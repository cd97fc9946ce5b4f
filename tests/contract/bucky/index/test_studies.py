"""Finding studies, the same on SQLite and PostgreSQL."""

from collections.abc import Iterator

import pytest

from bucky.index import Index, InstanceRows, StudyAttributes, StudyPart, StudyQuery
from tests.support.index.rows import header, indexed

pytestmark = pytest.mark.index

STUDIES = {
    "1.1": header(PatientName="Doe^Jane", PatientID="P1", AccessionNumber="A1", StudyDate="20240101", Modality="CT"),
    "1.2": header(PatientName="DOE^JOHN", PatientID="P2", AccessionNumber="A2", StudyDate="2024.06.30", Modality="MR"),
    "1.3": header(PatientName="100%_Sure^Ann", PatientID="P1", StudyDate="20250101", Modality="CT"),
    "1.4": {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]}},
    "1.5": header(PatientName="Müller^Ärzte"),
}


@pytest.fixture
def index(index_url: str) -> Iterator[Index]:
    """An index of five studies of one instance each, indexed one after the other."""
    index = Index.open(index_url)
    index.migrate()
    for uid, head in STUDIES.items():
        index.upsert_instances([indexed(uid, head, study_instance_uid=uid)])
    yield index
    index.close()


SEARCHES = [
    (StudyQuery(), "12345"),
    (StudyQuery(patient_id="P1"), "13"),
    (StudyQuery(patient_id="p1"), ""),
    (StudyQuery(patient_id=" P1 "), "13"),
    (StudyQuery(patient_name=" doe* "), "12"),
    (StudyQuery(accession_number=" A2", modality="MR "), "2"),
    (StudyQuery(patient_name="doe*"), "12"),
    (StudyQuery(patient_name="Doe^J??e"), "1"),
    (StudyQuery(patient_name="doe"), ""),
    (StudyQuery(patient_name="*%*"), "3"),
    (StudyQuery(patient_name="100%_*"), "3"),
    (StudyQuery(patient_name="10__*"), ""),
    (StudyQuery(patient_name="山田*"), "4"),
    (StudyQuery(patient_name="yamada^tarou"), "4"),
    (StudyQuery(patient_name="MÜLLER^ä*"), "5"),
    (StudyQuery(patient_name="\\*"), ""),
    (StudyQuery(accession_number="A2"), "2"),
    (StudyQuery(study_instance_uid="1.4"), "4"),
    (StudyQuery(modality="CT"), "13"),
    (StudyQuery(modality="CT", patient_id="P1", study_date_from="20241231"), "3"),
    (StudyQuery(study_date_from="20240101", study_date_to="20240630"), "12"),
    (StudyQuery(study_date_to="20231231"), ""),
]


def test_search(index: Index) -> None:
    """A search finds the studies that match, no others, and counts as many."""
    for query, found in SEARCHES:
        expected = {f"1.{digit}" for digit in found}
        assert {row.study_instance_uid for row in index.search_studies(query)} == expected, query
        assert index.count_studies(query) == len(found), query


def test_a_name_is_found_with_and_without_its_empty_components(index: Index) -> None:
    """What may be left out of a name (PS3.5 §6.2.1.1) must not hide a patient from whoever leaves it out."""
    names = {"2.1": {"Alphabetic": "Poe^Edgar^^^"}, "2.2": {"Alphabetic": "Poe^Edgar^", "Ideographic": "坡^愛德加^^"}}
    for uid, name in names.items():
        head = {"00100010": {"vr": "PN", "Value": [name]}}
        index.upsert_instances([indexed(uid, head, study_instance_uid=uid)])
    for asked, found in (("poe^edgar", names), ("Poe^Edgar^^", names), ("poe^ed*", names), ("坡^愛德加", ["2.2"])):
        rows = index.search_studies(StudyQuery(patient_name=asked))
        assert {row.study_instance_uid for row in rows} == set(found), asked
    assert index.search_studies(StudyQuery(patient_name="poe^edgar^allan")) == []


def test_pages_hold_every_study_once(index: Index) -> None:
    """Paging shows every study once, the one that changed last first."""
    pages = [index.search_studies(StudyQuery(limit=2, offset=offset)) for offset in (0, 2, 4, 6)]
    assert [row.study_instance_uid for page in pages for row in page] == ["1.5", "1.4", "1.3", "1.2", "1.1"]


def test_two_patients_in_one_study_are_both_found_and_flagged(index: Index) -> None:
    """A sender that mixed up two patients hides neither: each search finds the study, and the study says so."""
    one = header(PatientID="P2", PatientName="Roe^Richard", PatientBirthDate="19700101")
    index.upsert_instances([indexed("b", one, study_instance_uid="1.1"), indexed("c", one, study_instance_uid="1.1")])
    for query in (
        StudyQuery(patient_id="P2", study_instance_uid="1.1"),
        StudyQuery(patient_id="P1", study_instance_uid="1.1"),
        StudyQuery(patient_name="roe*"),
        StudyQuery(patient_name="doe^jane"),
        StudyQuery(patient_id="P2", patient_name="roe*"),
    ):
        assert [row.study_instance_uid for row in index.search_studies(query)] == ["1.1"], query
        assert index.count_studies(query) == 1
    assert index.search_studies(StudyQuery(patient_id="P1", patient_name="roe*")) == []
    study = index.study("1.1")
    assert (study.patient_count, study.patient_id) == (2, "P1")
    assert [(one.patient_id, one.patient_name) for one in study.patients] == [("P1", "Doe^Jane"), ("P2", "Roe^Richard")]
    assert index.counts().several_patients == 1
    assert index.study("1.2").patient_count == 1


def test_one_patient_is_not_two(index: Index) -> None:
    """A name spelt otherwise, a missing ID or issuer is no second patient; the same ID of another issuer is."""
    for name, head in (
        ("spelt", header(PatientID="P1", PatientName="DOE^JANE^M")),
        ("padded", header(PatientID=" P1", PatientName="Doe^Jane")),
        ("nobody", header(Modality="CT")),
        ("unnamed", header(PatientName="Doe^Jane")),
        ("issued", header(PatientID="P1", IssuerOfPatientID="A", PatientName="Doe^Jane")),
    ):
        index.upsert_instances([indexed(name, head, study_instance_uid="1.1")])
        assert index.study("1.1").patient_count == 1, name
    assert index.search_studies(StudyQuery(patient_name="doe^jane^m"))[0].study_instance_uid == "1.1"
    index.upsert_instances([indexed("other", header(PatientID="P1", IssuerOfPatientID="B"), study_instance_uid="1.1")])
    assert index.study("1.1").patient_count == 2


def test_rebuilding_finds_both_patients_and_forgets_who_is_gone(index: Index) -> None:
    """After a rebuild, a study has the patients of its objects; those of an instance that is gone go with it."""
    mine = indexed("1.1", STUDIES["1.1"], study_instance_uid="1.1")
    other = indexed("b", header(PatientID="P9", PatientName="Roe^R"), study_instance_uid="1.1")
    index.upsert_instances([other])
    for instances, expected in (([mine, other], ["P1", "P9"]), ([mine], ["P1"])):
        started, _ = index.begin_reindex("bucky", restart=True)
        rows = [InstanceRows.of(one) for one in instances]
        objects = frozenset(one.received.sha256 for one in instances)
        index.rebuild([StudyPart("1.1", rows, StudyAttributes(), objects)], started, prune=True)
        assert [one.patient_id for one in index.study("1.1").patients] == expected
        assert index.study("1.1").patient_count == len(expected)


def test_a_study_shows_its_modalities_and_counts(index: Index) -> None:
    """Modalities, series and instances of a study are those of its parts."""
    for name, series, modality in (("a", "1.8", "SEG"), ("b", "1.9", "CT"), ("c", "1.9", "CT")):
        index.upsert_instances(
            [indexed(name, header(Modality=modality), study_instance_uid="1.1", series_instance_uid=series)]
        )
    study = index.search_studies(StudyQuery(study_instance_uid="1.1"))[0]
    assert study == index.study("1.1")
    assert (study.modalities, study.series_count, study.instance_count) == (("CT", "SEG"), 3, 4)
    assert study.first_received_at < study.last_instance_at
