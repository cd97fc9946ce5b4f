"""Make the tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Apply."""
    _studies()
    _series()
    _instances()
    _deliveries()
    _routing_versions()


def _studies() -> None:
    op.create_table(
        "studies",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.Text()),
        sa.Column("issuer_of_patient_id", sa.Text()),
        sa.Column("patient_name", sa.Text()),
        sa.Column("patient_name_key", sa.Text()),
        sa.Column("patient_birth_date", sa.Text()),
        sa.Column("patient_sex", sa.Text()),
        sa.Column("study_date", sa.Text()),
        sa.Column("study_time", sa.Text()),
        sa.Column("accession_number", sa.Text()),
        sa.Column("study_id", sa.Text()),
        sa.Column("study_description", sa.Text()),
        sa.Column("referring_physician_name", sa.Text()),
        sa.Column("first_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_instance_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid"),
    )
    op.create_index("studies_accession_number", "studies", ["accession_number"])
    op.create_index("studies_last_instance_at", "studies", ["last_instance_at"])
    op.create_index("studies_patient_id", "studies", ["patient_id"])
    op.create_index("studies_patient_name_key", "studies", ["patient_name_key"])
    op.create_index("studies_study_date", "studies", ["study_date"])


def _series() -> None:
    op.create_table(
        "series",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.Text()),
        sa.Column("series_number", sa.BigInteger()),
        sa.Column("series_description", sa.Text()),
        sa.Column("series_date", sa.Text()),
        sa.Column("series_time", sa.Text()),
        sa.Column("body_part_examined", sa.Text()),
        sa.Column("protocol_name", sa.Text()),
        sa.Column("station_name", sa.Text()),
        sa.Column("instance_count", sa.Integer(), nullable=False),
        sa.Column("quarantined_count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_instance_uid"],
            ["studies.study_instance_uid"],
            name="series_studies",
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("study_instance_uid", "series_instance_uid"),
    )
    op.create_index("series_modality", "series", ["modality"])


def _instances() -> None:
    op.create_table(
        "instances",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("calling_aet", sa.Text(), nullable=False),
        sa.Column("called_aet", sa.Text(), nullable=False),
        sa.Column("source_address", sa.Text(), nullable=False),
        sa.Column("association_id", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("indexed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("instance_number", sa.BigInteger()),
        sa.Column("rows", sa.BigInteger()),
        sa.Column("columns", sa.BigInteger()),
        sa.Column("number_of_frames", sa.BigInteger()),
        sa.Column("quarantined", sa.Boolean(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.Column("header_error", sa.Text()),
        sa.Column("trace_id", sa.String(length=32)),
        sa.ForeignKeyConstraint(
            ["study_instance_uid", "series_instance_uid"],
            ["series.study_instance_uid", "series.series_instance_uid"],
            name="instances_series",
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_index(
        "instances_current",
        "instances",
        ["sop_instance_uid"],
        unique=True,
        sqlite_where=sa.text("quarantined = 0"),
        postgresql_where=sa.text("NOT quarantined"),
    )
    op.create_index(
        "instances_quarantined",
        "instances",
        ["received_at"],
        sqlite_where=sa.text("quarantined = 1"),
        postgresql_where=sa.text("quarantined"),
    )
    op.create_index("instances_series", "instances", ["study_instance_uid", "series_instance_uid", "instance_number"])


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("rule_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("redriven_at", sa.DateTime(timezone=True)),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.Column("trace_id", sa.String(length=32)),
        sa.PrimaryKeyConstraint("delivery_id"),
    )
    op.create_index("deliveries_destination", "deliveries", ["destination", "state"])
    op.create_index("deliveries_requested_at", "deliveries", ["requested_at", "delivery_id"])
    op.create_index("deliveries_sha256", "deliveries", ["sha256"])
    op.create_index("deliveries_state", "deliveries", ["state", "requested_at"])
    op.create_index("deliveries_study", "deliveries", ["study_instance_uid"])


def _routing_versions() -> None:
    op.create_table(
        "routing_versions",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
