"""Count the damaged instances of a study without reading the others."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "instances_header_error",
        "instances",
        ["study_instance_uid"],
        if_not_exists=True,
        sqlite_where=sa.text("header_error IS NOT NULL"),
        postgresql_where=sa.text("header_error IS NOT NULL"),
    )
