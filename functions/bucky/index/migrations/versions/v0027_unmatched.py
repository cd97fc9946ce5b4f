"""Keep which instances no rule matched, so that they are counted and seen."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0025"


def upgrade() -> None:
    """Apply."""
    op.add_column("routings", sa.Column("matched", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.create_index(
        "routings_unmatched",
        "routings",
        ["routed_at"],
        sqlite_where=sa.text("matched = 0"),
        postgresql_where=sa.text("NOT matched"),
    )
