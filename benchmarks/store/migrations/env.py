"""What Alembic runs to migrate: everything in the one transaction of the connection it is given."""

from alembic import context
from sqlalchemy import Connection

from benchmarks.store.models import Base

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
