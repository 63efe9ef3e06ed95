"""Calls about journals: entries, heads, proofs and exports, of a dataset and of the tenant."""

from __future__ import annotations

from ledger.client import calls
from ledger.client.calls import get, listed
from ledger.client.methods.kinds import Answer, Answers, BinaryFile, Calls, Lists, Size, Streams


class DatasetJournals(Calls[Answer], Lists[Answers], Streams[Size]):
    """Read and prove the journal of a dataset."""

    def entries(self, name: str) -> Answers:
        """Iterate over the entries of a dataset's journal, oldest first. To verify them use `export`, which is exact.

        >>> [item["entry"]["kind"] for item in ledger.entries("clicks")]
        ['dataset-registered', 'dataset-changed']
        """
        return self._list(listed("datasets", name, "entries"))

    def head(self, name: str) -> Answer:
        """Return the signed head: number and hash of the newest entry, and the Merkle root of the whole journal.

        Keep it: with it you can prove later that the journal was changed.

        >>> ledger.head("clicks")["seq"]
        2
        """
        return self._send(get("datasets", name, "head"))

    def proof(self, name: str, seq: int, *, size: int | None = None) -> Answer:
        """Return a proof that an entry is among the first `size` entries of the journal (default: all).

        >>> ledger.proof("clicks", 2)["size"]
        2
        """
        return self._send(get("datasets", name, "proof", seq=seq, size=size))

    def consistency(self, name: str, from_: int, to: int | None = None) -> Answer:
        """Return a proof that the first `to` entries (default: all) begin with the first `from_` entries, unchanged.

        >>> len(ledger.consistency("clicks", 1)["path"])
        1
        """
        return self._send(get("datasets", name, "consistency", **{"from": from_, "to": to}))

    def export(self, name: str, file: BinaryFile) -> Size:
        """Write a dataset's whole journal to a binary file as JSON Lines, and return its size in bytes.

        >>> ledger.export("mnist", file) == file.tell()
        True
        """
        return self._stream(calls.export(name), file)


class TenantJournals(Calls[Answer], Lists[Answers], Streams[Size]):
    """Read and prove the tenant's own journal."""

    def tenant_entries(self) -> Answers:
        """Iterate over the entries of the tenant's own journal (keys, roles, policy), oldest first. To verify them use
        `export_tenant`.

        >>> [item["entry"]["kind"] for item in ledger.tenant_entries()][-4:]
        ['key-made', 'key-rotated', 'key-revoked', 'policy-set']
        """
        return self._list(listed("entries"))

    def tenant_head(self) -> Answer:
        """Return the signed head of the tenant's own journal, as `head` does for a dataset.

        >>> ledger.tenant_head()["seq"] == len(list(ledger.tenant_entries()))
        True
        """
        return self._send(get("head"))

    def tenant_proof(self, seq: int, *, size: int | None = None) -> Answer:
        """Return a proof that an entry is in the tenant's own journal, as `proof` does for a dataset.

        >>> ledger.tenant_proof(1)["head"]["seq"] == ledger.tenant_head()["seq"]
        True
        """
        return self._send(get("proof", seq=seq, size=size))

    def tenant_consistency(self, from_: int, to: int | None = None) -> Answer:
        """Return a proof that the tenant's own journal begins as it did, as `consistency` does for a dataset.

        >>> ledger.tenant_consistency(1, 2)["to"]
        2
        """
        return self._send(get("consistency", **{"from": from_, "to": to}))

    def export_tenant(self, file: BinaryFile) -> Size:
        """Write the tenant's whole own journal to a file, as `export` does for a dataset.

        >>> before = file.tell()
        >>> ledger.export_tenant(file) == file.tell() - before
        True
        """
        return self._stream(calls.export_tenant(), file)
