"""Alembic's entry point: it runs the migrations on the connection that `upgrade` was given."""

from alembic import context

from gemlora.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
