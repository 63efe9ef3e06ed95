"""What every noun's reader and writer has: a connection, and whose rows it sees."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


class Repository:
    """One tenant's rows of one noun, in one transaction."""

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        self.connection = connection
        self.tenant_id = tenant_id

    def _insert_new(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """INSERT … ON CONFLICT DO NOTHING."""
        return self._insert(table).on_conflict_do_nothing()

    def _insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """INSERT … ON CONFLICT, which both databases have and SQLAlchemy keeps apart."""
        is_postgresql = self.connection.dialect.name == "postgresql"
        return postgresql.insert(table) if is_postgresql else sqlite.insert(table)
