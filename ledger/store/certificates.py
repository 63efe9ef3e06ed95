"""The cache of certificates."""

from __future__ import annotations

from sqlalchemy import delete, select

from ledger.store.repository import Repository
from ledger.store.tables import certificates


class CertificateReader(Repository):
    """Reads the cache."""

    def body(self, digest: bytes) -> str | None:
        query = select(certificates.c.body).where(
            certificates.c.tenant_id == self.tenant_id, certificates.c.digest == digest
        )
        return self.connection.execute(query).scalar()


class CertificateWriter(CertificateReader):
    """Fills the cache."""

    def keep(self, digest: bytes, body: str, *, now_us: int, rows_max: int) -> None:
        """Store a row in the cache; it replaces one of the same digest. Remove the tenant's oldest rows beyond
        `rows_max`."""
        mine = certificates.c.tenant_id == self.tenant_id
        self.connection.execute(delete(certificates).where(mine, certificates.c.digest == digest))
        row = {"tenant_id": self.tenant_id, "digest": digest, "body": body, "created_us": now_us}
        self.connection.execute(self._insert_new(certificates), [row])
        # A walk along the index takes a millisecond at 10,000 rows, a computation ten to a thousand.
        newest_first = (certificates.c.created_us.desc(), certificates.c.digest.desc())
        too_old = select(certificates.c.digest).where(mine).order_by(*newest_first).offset(rows_max)
        self.connection.execute(delete(certificates).where(mine, certificates.c.digest.in_(too_old)))
