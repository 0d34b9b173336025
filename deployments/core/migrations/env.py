"""Runs migrations on the connection that `deployments.core.schema` hands over; Alembic loads this file."""

from alembic import context

from deployments.core.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()
