"""Runs migrations on the connection that pipeline.ledger.database.migrate hands over."""

from alembic import context

from pipeline.ledger.database import tables
from pipeline.ledger.database.migrate import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # SQLite's too: Database begins its transactions itself
)
with context.begin_transaction():
    context.run_migrations()
