"""Idempotency keys, claimed by runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select

from ledger.core.commands import Claim
from ledger.core.people import Actor
from ledger.store.repository import Repository, pairs_among
from ledger.store.tables import claims


class OwnKey(NamedTuple):
    """An idempotency key and its principal: two principals may use the same key."""

    principal_id: UUID
    key: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """What an idempotency key was used for before."""

    digest: bytes
    run_id: UUID


class ClaimWriter(Repository):
    """Claims idempotency keys."""

    def claim(self, requests: Mapping[UUID, tuple[Actor, Claim]]) -> dict[OwnKey, Claimed]:
        """Claim the keys of new runs (by run id), in sorted order. Return what the others were used for before.

        The insert waits for another process that is claiming the same key, so the look-up after it, a statement of its
        own with a newer snapshot, sees that process's commit.
        """
        rows = [
            {
                "key": claim.key,
                "principal_id": actor.principal_id,
                "digest": claim.digest,
                "run_id": run_id,
            }
            for run_id, (actor, claim) in requests.items()
        ]
        rows.sort(key=lambda row: (str(row["principal_id"]), str(row["key"])))
        if not rows:
            return {}
        new = self._add_new_rows(claims, rows, returning="run_id")
        lost = [
            OwnKey(actor.principal_id, claim.key) for id_, (actor, claim) in requests.items() if str(id_) not in new
        ]
        if not lost:
            return {}
        taken = select(claims).where(claims.c.tenant_id == self.tenant_id, self._among(lost))
        return {
            OwnKey(row.principal_id, row.key): Claimed(row.digest, row.run_id) for row in self.connection.execute(taken)
        }

    def release(self, keys: Sequence[OwnKey]) -> None:
        """Release keys that were claimed in this transaction and whose requests left nothing."""
        if keys:
            self.connection.execute(delete(claims).where(claims.c.tenant_id == self.tenant_id, self._among(keys)))

    def _among(self, keys: Sequence[OwnKey]) -> ColumnElement[bool]:
        return pairs_among(self.connection, (claims.c.principal_id, claims.c.key), keys)
