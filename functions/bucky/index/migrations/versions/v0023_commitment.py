"""Keep what deliveries need that wait for a commitment, or too long and are given up."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Apply."""
    op.add_column("deliveries", sa.Column("crosswalks", sa.Text(), nullable=False, server_default=""))
    op.add_column("deliveries", sa.Column("waiting_since", sa.DateTime(timezone=True)))
    op.add_column("deliveries", sa.Column("due_at", sa.DateTime(timezone=True)))
    op.add_column("deliveries", sa.Column("sends", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("commitment", sa.Text(), nullable=False, server_default=""))
    op.add_column("deliveries", sa.Column("commitment_uid", sa.String(length=64)))
    op.add_column("deliveries", sa.Column("commitment_asked_at", sa.DateTime(timezone=True)))
    op.add_column("deliveries", sa.Column("commitment_asks", sa.Integer(), nullable=False, server_default="0"))
    for name in ("due_at", "commitment_uid"):
        op.create_index(
            f"deliveries_{name}",
            "deliveries",
            [name],
            sqlite_where=sa.text(f"{name} IS NOT NULL"),
            postgresql_where=sa.text(f"{name} IS NOT NULL"),
        )
