"""Keep every patient that a study's instances name, and how many there are."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

_SAID = "patient_id, issuer_of_patient_id, patient_name, patient_name_key, patient_birth_date, patient_sex"
_NAMES_SOMEBODY = "patient_id IS NOT NULL OR patient_name IS NOT NULL"


def upgrade() -> None:
    """Apply; the patient that a study has by now is its first."""
    op.create_table(
        "study_patients",
        sa.Column("study_instance_uid", sa.String(length=64), primary_key=True),
        sa.Column("patient_key", sa.String(length=64), primary_key=True),
        sa.Column("patient_id", sa.Text()),
        sa.Column("issuer_of_patient_id", sa.Text()),
        sa.Column("patient_name", sa.Text()),
        sa.Column("patient_name_key", sa.Text()),
        sa.Column("patient_birth_date", sa.Text()),
        sa.Column("patient_sex", sa.Text()),
    )
    op.create_index("study_patients_patient_id", "study_patients", ["patient_id"])
    op.create_index("study_patients_patient_name_key", "study_patients", ["patient_name_key"])
    op.add_column("studies", sa.Column("patient_count", sa.Integer(), nullable=False, server_default="0"))
    several = sa.text("patient_count > 1")
    op.create_index(
        "studies_several_patients", "studies", ["patient_count"], sqlite_where=several, postgresql_where=several
    )
    op.execute(
        f"INSERT INTO study_patients (study_instance_uid, patient_key, {_SAID}) "  # noqa: S608 - names of columns
        f"SELECT study_instance_uid, '', {_SAID} FROM studies WHERE {_NAMES_SOMEBODY}"
    )
    op.execute(f"UPDATE studies SET patient_count = 1 WHERE {_NAMES_SOMEBODY}")  # noqa: S608
