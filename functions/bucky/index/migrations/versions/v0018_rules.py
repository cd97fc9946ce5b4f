"""Keep what rules ask about, and what they made of a delivery."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0001"


def upgrade() -> None:
    """Apply."""
    op.add_column("instances", sa.Column("listener", sa.Text(), nullable=False, server_default=""))
    op.create_index("instances_received_at", "instances", ["received_at", "sha256"])
    op.add_column("deliveries", sa.Column("priority", sa.String(length=16), nullable=False, server_default="routine"))
    op.add_column("deliveries", sa.Column("morph_sha256", sa.String(length=64)))
    op.add_column("deliveries", sa.Column("sent_sha256", sa.String(length=64)))
    op.add_column("routing_versions", sa.Column("note", sa.Text(), nullable=False, server_default=""))
