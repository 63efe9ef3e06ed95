"""A tenant's own journal: walked and replayed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from ledger.canonical import digest
from ledger.core.alerting import Alerting
from ledger.core.entries import Sealed
from ledger.core.journal.chain import Chain, Demand, check_all, read_entries
from ledger.core.journal.policy import GUARDED_AT_FIRST, Policy
from ledger.core.journal.rights import demand_role
from ledger.core.journal.shapes import demand_tenant_entry
from ledger.errors import JournalBroken


def walk_tenant(entries: Iterable[Sealed | tuple[str, bytes]], *, tenant_id: UUID) -> Iterator[dict[str, Any]]:
    """Yield the entries of a tenant's own journal, each after `replay_tenant`'s checks."""
    return read_entries(_TenantReplay(tenant_id).read, entries)


ALERTING: Final = ("thresholds", "refusals_in_a_row", "forecast_days", "webhook", "heads")
"""The members of an entry of the kind `alerting-set`, in addition to its reason."""


def alerting_facts(alerting: Alerting) -> dict[str, Any]:
    """Return a tenant's alert settings in the form of an entry: only the host and the SHA-256 of the webhook's URL,
    which may contain a secret."""
    facts = alerting.facts()
    url = facts["webhook"]
    if url is not None:
        facts["webhook"] = {"host": urlsplit(url).netloc, "sha256": digest(url).hex()}
    return facts


class KnownKey(NamedTuple):
    """A key as a tenant's journal shows it."""

    principal_id: UUID
    name: str
    role: str
    datasets: tuple[str, ...] | None
    projects: tuple[str, ...] | None
    expires_at: str | None
    is_revoked: bool


@dataclass(frozen=True, slots=True)
class ReplayedTenant:
    """The state of a tenant's own journal. is_whole: it begins with the tenant, so that no key is older than it.

    alerting: the tenant's alert settings, from the last entry of that kind; None if there is none. policies: the
    policies about a second steward, oldest first, with the time of each.
    """

    seq: int
    head: bytes
    is_whole: bool
    second_steward: bool
    keys: Mapping[UUID, KnownKey]
    alerting: Mapping[str, Any] | None = None
    policies: tuple[Policy, ...] = ()


def replay_tenant(entries: Iterable[Sealed | tuple[str, bytes]], *, tenant_id: UUID) -> ReplayedTenant:
    """Return what a tenant's own journal records of its keys and its policy, checked as `replay` checks a dataset's."""
    tenant_replay = _TenantReplay(tenant_id)
    check_all(tenant_replay.read, entries)
    return tenant_replay.result()


class _TenantReplay(Chain):
    """An independent record of keys and policies."""

    def __init__(self, tenant_id: UUID) -> None:
        super().__init__(tenant_id)
        self.is_whole = self.second_steward = False
        self.keys: dict[UUID, KnownKey] = {}
        self.alerting: Mapping[str, Any] | None = None
        self.policies: list[Policy] = []

    def result(self) -> ReplayedTenant:
        known = self.is_whole, self.second_steward, self.keys, self.alerting, tuple(self.policies)
        return ReplayedTenant(self.seq, self.head, *known)

    def read(self, seq: int, sealed: Sealed) -> dict[str, Any]:
        entry, demand = self.follow(seq, sealed)
        demand(sealed.request is None, "contains a request, which no entry of a tenant has")
        demand("dataset_id" not in entry, "belongs to a dataset")
        demand_tenant_entry(entry, demand)
        demand_role(entry, demand)
        match entry["kind"]:
            case "tenant-made":
                demand(seq == 1, "makes the tenant a second time")
                self.is_whole = True
            case "key-made":
                self._make(entry, demand)
            case "key-rotated":
                self._rotate(entry, demand)
            case "key-revoked":
                key = UUID(entry["revokes"])
                known = self.keys.get(key)
                demand(known is not None or not self.is_whole, "revokes a key that was never made")
                if known is not None:
                    demand(not known.is_revoked, "revokes a key a second time")
                    self.keys[key] = known._replace(is_revoked=True)
            case "policy-set":
                demand(isinstance(entry["second_steward"], bool), "sets a policy that is neither true nor false")
                self.second_steward = entry["second_steward"]
                self._set_policy(entry)
            case "alerting-set":
                self.alerting = {name: entry[name] for name in ALERTING}
            case kind:
                raise JournalBroken(f"has the unknown kind {kind!r}", seq=seq)
        return entry

    def _set_policy(self, entry: Mapping[str, Any]) -> None:
        guards = frozenset(entry.get("guards", GUARDED_AT_FIRST)) if self.second_steward else frozenset[str]()
        self.policies.append(Policy(entry["at"], guards, is_older=self.second_steward and "guards" not in entry))

    def _make(self, entry: Mapping[str, Any], demand: Demand) -> KnownKey:
        key = UUID(entry["made"])
        demand(key not in self.keys, "makes a key a second time")
        datasets, projects = (None if entry[name] is None else tuple(entry[name]) for name in ("datasets", "projects"))
        self.keys[key] = made = KnownKey(
            UUID(entry["principal"]), entry["name"], entry["key_role"], datasets, projects, entry["expires_at"], False
        )
        return made

    def _rotate(self, entry: Mapping[str, Any], demand: Demand) -> None:
        made = self._make(entry, demand)
        old = self.keys.get(UUID(entry["rotates"]))
        demand(old is not None or not self.is_whole, "rotates a key that was never made")
        if old is None:
            return
        demand(not old.is_revoked, "rotates a key that was revoked")
        demand(made == old, "gives a key other rights than it had")
        # Times are written so that text order is time order.
        demand(old.expires_at is None or entry["at"] < old.expires_at, "rotates a key that had expired")
        ends = min(filter(None, (old.expires_at, entry["old_ends_at"])))
        self.keys[UUID(entry["rotates"])] = old._replace(expires_at=ends)
