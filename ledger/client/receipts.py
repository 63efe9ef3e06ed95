"""Checking a receipt with no server: what a training cluster does before it lets a job begin.

A receipt is believed by the keys in a JWK set that was fetched beforehand, once, over a way that is trusted
(`/.well-known/jwks.json`), and by nothing that comes along with it. It takes PyJWT and cryptography:
`pip install 'privacy-ledger[receipts]'`.

LedgerError
└── ReceiptRejected             says no, whatever the reason
    ├── ReceiptForged           none of the keys signed it
    ├── ReceiptExpired          its time is over
    ├── ReceiptNotStarted       an approval, which can still be voided
    └── ReceiptOfAnother        good, and of something else:
        ├── OtherTenant
        ├── OtherRun
        ├── OtherDataset
        └── OtherMechanism
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

from ledger.canonical import canonical, digest, parse
from ledger.client.mechanisms import AnyMechanism
from ledger.client.wire import encode
from ledger.errors import InvalidRequest, LedgerError, Misconfigured

State = Literal["held", "started"]

VERSION: Final = 1
"""Of what receipts say, as this reads it."""


class ReceiptRejected(LedgerError):
    """The receipt does not let this begin."""

    code = "receipt-rejected"


class ReceiptForged(ReceiptRejected):
    """None of these keys signed that as a receipt."""

    code = "receipt-forged"


class ReceiptExpired(ReceiptRejected):
    """The receipt's time is over."""

    code = "receipt-expired"


class ReceiptNotStarted(ReceiptRejected):
    """The receipt is of an approval, which can still be voided: start the run, and take the receipt of that."""

    code = "receipt-not-started"


class ReceiptOfAnother(ReceiptRejected):
    """The receipt is good, and not of this."""

    code = "receipt-of-another"


class OtherTenant(ReceiptOfAnother):
    """The receipt is of another tenant."""

    code = "receipt-of-another-tenant"


class OtherRun(ReceiptOfAnother):
    """The receipt is of another run."""

    code = "receipt-of-another-run"


class OtherDataset(ReceiptOfAnother):
    """The receipt is not of all that this uses."""

    code = "receipt-of-another-dataset"


class OtherMechanism(ReceiptOfAnother):
    """The receipt is of another mechanism."""

    code = "receipt-of-another-mechanism"


@dataclass(frozen=True, slots=True)
class ReceiptOn:
    """A dataset that a run charges, and the entry about it in that dataset's journal.

    partitions: those that the run is limited to; None where it may use all of the dataset.
    """

    name: str
    id: str
    partitions: tuple[str, ...] | None
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says, once it was verified.

    at: when the run was approved, or started. valid_until: by when an approval has to be started; or by when what was
    started has to be settled. mu_sq_pico, delta_atto: the run's cost, in units of 1e-12 of mu² and of 1e-18 of
    -log(1 - delta). mechanism_digest: SHA-256, in hex, of the canonical JSON of the mechanism as it was asked for.
    """

    tenant_id: str
    tenant: str
    run: str
    state: State
    at: datetime
    valid_until: datetime
    project: str | None
    mechanism_type: str
    mechanism_digest: str
    mu_sq_pico: int
    delta_atto: int
    datasets: tuple[ReceiptOn, ...]


def mechanism_digest(mechanism: AnyMechanism) -> str:
    """The digest by which a receipt names a mechanism: a plain object has to have the members that were sent."""
    return digest(canonical(parse(encode(mechanism, "mechanism")))).hex()


def verify_receipt(
    receipt: str,
    *,
    jwks: Mapping[str, Any],
    tenant: str | None = None,
    datasets: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None,
    run: str | None = None,
    mechanism: AnyMechanism | None = None,
    state: State = "started",
    now: datetime | None = None,
) -> Receipt:
    """What a receipt says, where it is good for this. Raises ReceiptRejected, of the kind that says why not.

    jwks: the JWK set, parsed, which was fetched before and is trusted. What is left out is not looked at: a ledger's
    tenants share its keys and choose the names of their datasets, so name the tenant wherever there can be several.

    tenant: its id, or its name. datasets: what the job uses, each a name or `{"name", "partitions"}`; all of it has to
    be in the receipt, and a name alone is the whole dataset. run: its id. mechanism: as it was asked for. state:
    `started` lets a job train; `held` asks for an approval at least. now: an aware time, this machine's when left out.

    Raises Misconfigured where PyJWT or cryptography is missing, InvalidRequest where `jwks` is no such set.
    """
    said = _read(receipt, jwks)
    found = _receipt(said)
    moment = datetime.now(UTC) if now is None else now
    if moment.tzinfo is None:
        raise ValueError("now: must be an aware time")
    if found.state != state and state == "started":
        raise ReceiptNotStarted(run=found.run, state=found.state)
    if moment > found.valid_until:
        raise ReceiptExpired(f"The receipt was valid until {said['valid_until']}.", valid_until=said["valid_until"])
    if tenant is not None and not _is_of(found, tenant):
        raise OtherTenant(f"The receipt is of the tenant {found.tenant}.", tenant=found.tenant)
    if run is not None and found.run != run.lower():
        raise OtherRun(f"The receipt is of the run {found.run}.", run=found.run)
    for use in _uses(datasets):
        _demand_use(found, use)
    if mechanism is not None and mechanism_digest(mechanism) != found.mechanism_digest:
        raise OtherMechanism(
            f"The receipt is of another mechanism, of type {found.mechanism_type}.", digest=found.mechanism_digest
        )
    return found


def _read(receipt: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from ledger.verifier import jws
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"{error.name} is missing: to verify receipts, pip install 'privacy-ledger[receipts]'"
        ) from None
    try:
        keys = jws.PublicKeys.of(jwks)
    except jws.SignatureInvalid as error:
        raise InvalidRequest(f"jwks: {error.detail}", field="jwks") from None
    try:
        return jws.read(receipt, keys=keys, typ=jws.RECEIPT)
    except jws.SignatureInvalid as error:
        raise ReceiptForged(error.detail) from None


def _is_of(found: Receipt, tenant: str) -> bool:
    """Whether a receipt is of this tenant, by its id; or by its name, where that looks like no id."""
    try:
        return found.tenant_id == str(UUID(tenant))
    except ValueError:
        return found.tenant == tenant


# --- what it says ----------------------------------------------------------------------------------------------------

T = TypeVar("T")


def _receipt(said: Mapping[str, Any]) -> Receipt:
    """A receipt's payload, every member of which has to be there as this version knows it. Raises ReceiptRejected."""
    try:
        if (said["v"], said["type"], said["decision"]) != (VERSION, "receipt", "approved"):
            raise ValueError
        if (state := said["state"]) not in ("held", "started"):
            raise ValueError
        return Receipt(
            tenant_id=_of(str, said["tenant"]["id"]),
            tenant=_of(str, said["tenant"]["name"]),
            run=_of(str, said["run"]),
            state=state,
            at=_time(said["at"]),
            valid_until=_time(said["valid_until"]),
            project=_of(str, said["project"]) if "project" in said else None,
            mechanism_type=_of(str, said["mechanism"]["type"]),
            mechanism_digest=_of(str, said["mechanism"]["digest"]),
            mu_sq_pico=int(_of(str, said["cost"]["mu_sq_pico"])),
            delta_atto=int(_of(str, said["cost"]["delta_atto"])),
            datasets=tuple(_each(_on, said["datasets"])),
        )
    except (KeyError, TypeError, ValueError):
        raise ReceiptRejected("The receipt says something that this version does not know; use a newer one.") from None


def _on(said: Mapping[str, Any]) -> ReceiptOn:
    partitions = said.get("partitions")
    return ReceiptOn(
        name=_of(str, said["name"]),
        id=_of(str, said["id"]),
        partitions=None if partitions is None else tuple(_each(lambda each: _of(str, each), partitions)),
        seq=_of(int, said["seq"]),
        hash=_of(str, said["hash"]),
    )


def _each(read: Callable[[Any], T], said: object) -> list[T]:
    if not isinstance(said, list) or not said:
        raise TypeError
    return [read(each) for each in said]


def _of(kind: type[T], value: object) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError
    return value


def _time(said: object) -> datetime:
    moment = datetime.fromisoformat(_of(str, said))
    if moment.tzinfo is None:
        raise ValueError
    return moment


# --- what it is good for ---------------------------------------------------------------------------------------------


def _uses(said: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    listed = [] if said is None else [said] if isinstance(said, str | Mapping) else list(said)
    return [{"name": each} if isinstance(each, str) else each for each in listed]


def _demand_use(found: Receipt, use: Mapping[str, Any]) -> None:
    """Raises OtherDataset unless the receipt is of all of this use."""
    name, wanted = use["name"], use.get("partitions")
    its = next((each for each in found.datasets if each.name == name), None)
    if its is None:
        among = ", ".join(each.name for each in found.datasets[:5])
        raise OtherDataset(f"The receipt is not of {name}; it is of {among}.", dataset=name)
    if its.partitions is None:
        return
    beyond = None if wanted is None else sorted(set(wanted) - set(its.partitions))
    if beyond is None or beyond:
        what = "all of it" if beyond is None else ", ".join(beyond[:5])
        allowed = ", ".join(its.partitions[:5]) + (", …" if len(its.partitions) > 5 else "")
        raise OtherDataset(f"The receipt is of {name} in {allowed} alone, not of {what}.", dataset=name)
