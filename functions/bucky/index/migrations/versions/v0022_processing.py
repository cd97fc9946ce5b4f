"""Keep what is given to functions, what they made, and which functions an instance came out of."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Apply."""
    op.add_column("instances", sa.Column("processed", sa.Text()))
    op.add_column("deliveries", sa.Column("unit", sa.String(length=16)))
    op.add_column("deliveries", sa.Column("unit_sha256", sa.String(length=64)))
    op.add_column("deliveries", sa.Column("unit_instances", sa.Integer()))
    op.create_table(
        "delivery_members",
        sa.Column("delivery_id", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "sha256"),
    )
    op.create_index("delivery_members_sha256", "delivery_members", ["sha256"])
    op.create_table(
        "delivery_results",
        sa.Column("delivery_id", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("stored", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "sha256"),
    )
