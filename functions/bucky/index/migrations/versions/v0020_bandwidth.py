"""Make the table by which all senders to a destination share its bandwidth."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0018"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "bandwidth",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("free_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("destination"),
    )
