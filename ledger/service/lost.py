"""Entries that a restore lost: what their runs cost, from the receipts that people hold."""

from __future__ import annotations

from uuid import UUID

from ledger.core.amounts import Amount
from ledger.core.commands import Lost
from ledger.core.datasets import Dataset
from ledger.core.people import Actor
from ledger.errors import InvalidRequest
from ledger.service.requests.datasets import LostEntries
from ledger.verifier import jws
from ledger.verifier.jws import PublicKeys


def lost_of(stated: LostEntries, actor: Actor, dataset: Dataset, *, keys: PublicKeys) -> Lost:
    """Return what was lost of a dataset's journal. Raises InvalidRequest if a receipt is not this ledger's, is about
    other datasets, or is of an entry that the journal has."""
    runs: dict[UUID, Amount] = {}
    for number, token in enumerate(stated.receipts):
        field = f"lost.receipts.{number}"
        try:
            receipt = jws.read(token, keys=keys, typ=jws.RECEIPT)
        except jws.SignatureInvalid as error:
            raise InvalidRequest(f"{field}: {error.detail}", field=field) from error
        places = {each["id"]: each["seq"] for each in receipt["datasets"]}
        if receipt["tenant"]["id"] != str(actor.tenant_id) or str(dataset.id) not in places:
            raise InvalidRequest(
                f"{field}: is no receipt of a run on {dataset.definition.name}; leave it out", field=field
            )
        if not dataset.seq < places[str(dataset.id)] <= stated.seq:
            raise InvalidRequest(
                f"{field}: is of entry {places[str(dataset.id)]}, and the lost entries are {dataset.seq + 1} to"
                f" {stated.seq}; leave it out",
                field=field,
            )
        runs[UUID(receipt["run"])] = Amount.from_facts(receipt["cost"])
    return Lost(dataset.seq + 1, stated.seq, bytes.fromhex(stated.hash), runs)
