"""Alembic runs this file for every command; the connection comes from `bucky.index.migrate`."""

from alembic import context

from bucky.index.column_types import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
