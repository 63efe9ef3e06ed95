"""A signed head of a journal. Only this module writes and reads its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ledger.verifier.statements import JournalId, hash_of, journal_of, number_of, shaped

if TYPE_CHECKING:
    from ledger.verifier.jws import PublicKeys


@dataclass(frozen=True, slots=True)
class Head:
    """How many entries a journal has, the hash of the newest, and the root of the Merkle tree over all.

    names: of the tenant and the dataset. at: when the newest entry was made, None if there is none.
    """

    journal_id: JournalId
    names: tuple[str, str | None]
    seq: int
    hash: str
    root: str
    at: str | None

    @classmethod
    def of(
        cls,
        tenant: tuple[UUID, str],
        dataset: tuple[UUID, str] | None,
        *,
        seq: int,
        hash_: bytes,
        root: bytes,
        at: str | None,
    ) -> Head:
        """Return a head. tenant, dataset: id and name; no dataset for a tenant's own journal."""
        dataset_id, name = dataset or (None, None)
        return cls((tenant[0], dataset_id), (tenant[1], name), seq, hash_.hex(), root.hex(), at)

    def payload(self) -> dict[str, Any]:
        """Return the text that is signed."""
        (tenant_id, dataset_id), (tenant, dataset) = self.journal_id, self.names
        return {
            "v": 1,
            "type": "head",
            "tenant": {"id": str(tenant_id), "name": tenant},
            **({} if dataset_id is None else {"dataset": {"id": str(dataset_id), "name": dataset}}),
            "seq": self.seq,
            "hash": self.hash,
            "root": self.root,
            **({} if self.at is None else {"at": self.at}),
        }


def read(token: str, *, keys: PublicKeys, source: str) -> Head:
    """Return the head in a token. Raises SignatureInvalid, and InvalidRequest if it has another shape. source: the name
    of the token in the error."""
    from ledger.verifier import jws

    payload = jws.read(token, keys=keys, typ=jws.HEAD)
    with shaped(source):
        return _parsed(payload)


def _parsed(payload: Mapping[str, Any]) -> Head:
    journal_id, names = journal_of(payload["tenant"], payload.get("dataset"))
    seq, hash_, root = number_of(payload["seq"]), hash_of(payload["hash"]), hash_of(payload["root"])
    return Head(journal_id, names, seq, hash_, root, payload.get("at"))
