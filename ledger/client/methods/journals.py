"""Calls about journals: entries, heads, proofs and exports, of a dataset and of the tenant."""

from __future__ import annotations

from ledger.client import calls
from ledger.client.calls import get, listed
from ledger.client.methods.kinds import Answer, Answers, BinaryFile, Calls, Lists, Size, Streams


class DatasetJournals(Calls[Answer], Lists[Answers], Streams[Size]):
    """Read and prove the journal of a dataset."""

    def entries(self, name: str) -> Answers:
        """Every entry of a dataset's journal, oldest first. To verify them, `export`: it keeps every byte.

        >>> [item["entry"]["kind"] for item in ledger.entries("clicks")]
        ['dataset-registered', 'dataset-changed']
        """
        return self._list(listed("datasets", name, "entries"))

    def head(self, name: str) -> Answer:
        """The journal's newest number and hash, and the Merkle root over all of it, signed. Keep it: with it you can
        show later that history was another.

        >>> ledger.head("clicks")["seq"]
        2
        """
        return self._send(get("datasets", name, "head"))

    def proof(self, name: str, seq: int, *, size: int | None = None) -> Answer:
        """That an entry is in the journal, among its first `size` entries or all, in a few hashes.

        >>> ledger.proof("clicks", 2)["size"]
        2
        """
        return self._send(get("datasets", name, "proof", seq=seq, size=size))

    def consistency(self, name: str, from_: int, to: int | None = None) -> Answer:
        """That the journal, or its first `to` entries, begins with its first `from_` as they were, in a few hashes.

        >>> len(ledger.consistency("clicks", 1)["path"])
        1
        """
        return self._send(get("datasets", name, "consistency", **{"from": from_, "to": to}))

    def export(self, name: str, file: BinaryFile) -> Size:
        """Write all of a dataset's journal to a file, as JSON Lines, and return how many bytes that were.

        >>> ledger.export("mnist", file) == file.tell()
        True
        """
        return self._stream(calls.export(name), file)


class TenantJournals(Calls[Answer], Lists[Answers], Streams[Size]):
    """Read and prove the tenant's own journal."""

    def tenant_entries(self) -> Answers:
        """Every entry of the tenant's own journal, of keys, roles and the policy, oldest first; `export_tenant` keeps
        every byte.

        >>> [item["entry"]["kind"] for item in ledger.tenant_entries()][-4:]
        ['key-made', 'key-rotated', 'key-revoked', 'policy-set']
        """
        return self._list(listed("entries"))

    def tenant_head(self) -> Answer:
        """Its newest number and hash, and the Merkle root over all of it, signed.

        >>> ledger.tenant_head()["seq"] == len(list(ledger.tenant_entries()))
        True
        """
        return self._send(get("head"))

    def tenant_proof(self, seq: int, *, size: int | None = None) -> Answer:
        """That an entry is in it, as `proof` shows of a dataset's.

        >>> ledger.tenant_proof(1)["head"]["seq"] == ledger.tenant_head()["seq"]
        True
        """
        return self._send(get("proof", seq=seq, size=size))

    def tenant_consistency(self, from_: int, to: int | None = None) -> Answer:
        """That it begins with what it was, as `consistency` shows of a dataset's.

        >>> ledger.tenant_consistency(1, 2)["to"]
        2
        """
        return self._send(get("consistency", **{"from": from_, "to": to}))

    def export_tenant(self, file: BinaryFile) -> Size:
        """Write all of the tenant's own journal to a file, of its keys and its policy, as `export` does a dataset's.

        >>> before = file.tell()
        >>> ledger.export_tenant(file) == file.tell() - before
        True
        """
        return self._stream(calls.export_tenant(), file)
