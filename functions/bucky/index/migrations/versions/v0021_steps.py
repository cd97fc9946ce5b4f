"""Keep the steps between reception and delivery: stored, routed, attempted, stable; and how far a reindex is."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Apply."""
    op.add_column("instances", sa.Column("stored_at", sa.DateTime(timezone=True)))
    _delivery_steps()
    _routings()
    _arrivals()
    _revisions()
    op.create_table(
        "reindexings",
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("bucket"),
    )
    op.create_table(
        "reindexed_studies",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid"),
    )


def _delivery_steps() -> None:
    op.create_table(
        "delivery_steps",
        sa.Column("step_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("delivery_id", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("step_id"),
    )
    op.create_index("delivery_steps_delivery", "delivery_steps", ["delivery_id", "step_id"])


def _routings() -> None:
    op.create_table(
        "routings",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("rule_version", sa.Integer(), nullable=False),
        sa.Column("destinations", sa.Integer(), nullable=False),
        sa.Column("routed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    # What was there before counts as routed: nothing may be sent again because of a new version.
    op.execute(
        "INSERT INTO routings (sha256, rule_version, destinations, routed_at) "
        "SELECT i.sha256, 0, (SELECT count(*) FROM deliveries d WHERE d.sha256 = i.sha256), i.indexed_at "
        "FROM instances i WHERE NOT i.quarantined"
    )


def _arrivals() -> None:
    op.create_table(
        "arrivals",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("last_instance_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expected_count", sa.BigInteger()),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("quiet_seconds", sa.Float(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", "series_instance_uid"),
    )
    op.create_index(
        "arrivals_open",
        "arrivals",
        ["last_instance_at"],
        sqlite_where=sa.text('"open" = 1'),
        postgresql_where=sa.text('"open"'),
    )


def _revisions() -> None:
    op.create_table(
        "revisions",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("quiet_seconds", sa.Float(), nullable=False),
        sa.Column("stable_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("event", sa.JSON(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("trace_id", sa.String(length=32)),
        sa.Column("published_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("study_instance_uid", "series_instance_uid", "revision", "quiet_seconds"),
    )
    op.create_index(
        "revisions_unpublished",
        "revisions",
        ["stable_at"],
        sqlite_where=sa.text("published_at IS NULL"),
        postgresql_where=sa.text("published_at IS NULL"),
    )
