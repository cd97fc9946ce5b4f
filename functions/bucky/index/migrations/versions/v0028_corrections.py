"""Keep what was decided about conflicts, and what a destination was sent without an answer."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Apply."""
    op.add_column("deliveries", sa.Column("unanswered_sha256", sa.String(length=64)))
    op.add_column("instances", sa.Column("decision", sa.Integer()))
    op.add_column("instances", sa.Column("examined_version", sa.Integer()))
    op.create_table(
        "decisions",
        sa.Column("sop_instance_uid", sa.String(length=64), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("other_sha256", sa.String(length=64), nullable=False),
        sa.Column("current_sha256", sa.String(length=64), nullable=False),
        sa.Column("settled", sa.JSON(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("carried_out_at", sa.DateTime(timezone=True)),
    )
    op.create_index("decisions_study", "decisions", ["study_instance_uid"])
    op.create_index("decisions_sha256", "decisions", ["sha256"])
    op.create_index("decisions_current_sha256", "decisions", ["current_sha256"])
    op.create_index(
        "decisions_not_carried_out",
        "decisions",
        ["decided_at"],
        sqlite_where=sa.text("carried_out_at IS NULL"),
        postgresql_where=sa.text("carried_out_at IS NULL"),
    )
