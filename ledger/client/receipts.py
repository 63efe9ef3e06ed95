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

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

from ledger.canonical import canonical, digest, parse
from ledger.client.mechanisms import AnyMechanism
from ledger.client.wire import encode
from ledger.errors import InvalidRequest, LedgerError, Misconfigured

State = Literal["held", "started"]

VERSIONS: Final = (1, 2)
"""Of what receipts say, as this reads it. In version 1 a dataset without a list of partitions permits all of them, and
a job may begin until the approval or the run was due."""
PARTITIONS_MAX: Final = 1_000_000
"""Of a receipt. A dataset has a few thousand at most."""
_RANGE: Final = re.compile(r"(.*?)([0-9]{1,9})")


class ReceiptRejected(LedgerError):
    """The receipt does not let this begin."""

    code = "receipt-rejected"


class ReceiptForged(ReceiptRejected):
    """None of these keys signed that as a receipt."""

    code = "receipt-forged"


class ReceiptExpired(ReceiptRejected):
    """The receipt's time to begin a job is over: if the run is started still, ask for the receipt anew."""

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

    partitions: those that were charged, and that a job may use; None if nothing of it has partitions.
    """

    name: str
    id: str
    partitions: tuple[str, ...] | None
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says, once it was verified.

    version: the rules by which it is judged. at: when the run was approved, or started. begin_by: when a job may begin
    at the latest. due: when an approval must be started, or what was started be settled. mu_sq_pico, delta_atto: the
    run's cost, in units of 1e-12 of mu² and of 1e-18 of -log(1 - delta). mechanism_digest: SHA-256, in hex, of the
    canonical JSON of the mechanism as it was asked for.
    """

    version: int
    tenant_id: str
    tenant: str
    run: str
    state: State
    at: datetime
    begin_by: datetime
    due: datetime
    project: str | None
    mechanism_type: str
    mechanism_digest: str
    mu_sq_pico: int
    delta_atto: int
    datasets: tuple[ReceiptOn, ...]


def mechanism_digest(mechanism: AnyMechanism) -> str:
    """The digest by which a receipt names a mechanism: a plain object has to have the members that were sent."""
    try:
        return digest(canonical(parse(encode(mechanism, "mechanism")))).hex()
    except ValueError as error:
        raise InvalidRequest(f"mechanism: {error}", field="mechanism") from None


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

    tenant: its id, or its name. datasets: what the job uses, each a name or `{"name", "partitions"}`; all of it must be
    in the receipt. Of a dataset in partitions the job must name those that it uses: a name alone stands for all, also
    for those added since, which nobody charged. run: its id. mechanism: as it was asked for. state:
    `started` lets a job train; `held` asks for an approval at least. now: an aware time, this machine's when left out.

    Raises Misconfigured where PyJWT or cryptography is missing, InvalidRequest where `jwks` is no such set.
    """
    payload = _read(receipt, jwks)
    verified = _receipt(payload)
    moment = datetime.now(UTC) if now is None else now
    if moment.tzinfo is None:
        raise ValueError("now: must be an aware time")
    if verified.state != state and state == "started":
        raise ReceiptNotStarted(run=verified.run, state=verified.state)
    if moment > verified.begin_by:
        raise _expired(verified)
    if tenant is not None and not _is_of(verified, tenant):
        raise OtherTenant(f"The receipt is of the tenant {verified.tenant}.", tenant=verified.tenant)
    if run is not None and verified.run != run.lower():
        raise OtherRun(f"The receipt is of the run {verified.run}.", run=verified.run)
    for use in _uses(datasets):
        _demand_use(verified, use)
    if mechanism is not None and mechanism_digest(mechanism) != verified.mechanism_digest:
        raise OtherMechanism(
            f"The receipt is of another mechanism, of type {verified.mechanism_type}.", digest=verified.mechanism_digest
        )
    return verified


def _expired(receipt: Receipt) -> ReceiptExpired:
    begin_by = receipt.begin_by.isoformat()
    return ReceiptExpired(
        f"By the receipt a job could begin until {begin_by}, so that none begins long after the run ended. If the run"
        f" is {receipt.state} still, renew the receipt: privacy-ledger receipt show {receipt.run}",
        begin_by=begin_by,
    )


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


def _is_of(receipt: Receipt, tenant: str) -> bool:
    """Whether a receipt is of this tenant, by its id; or by its name, where that looks like no id."""
    try:
        return receipt.tenant_id == str(UUID(tenant))
    except ValueError:
        return receipt.tenant == tenant


# --- what it says ----------------------------------------------------------------------------------------------------

T = TypeVar("T")
_DUE: Final[dict[State, str]] = {"held": "start_by", "started": "settle_by"}


def _receipt(payload: Mapping[str, Any]) -> Receipt:
    """A receipt's payload, every member of which has to be there as this version knows it. Raises ReceiptRejected."""
    try:
        version = _typed(int, payload["v"])
        if version not in VERSIONS or (payload["type"], payload["decision"]) != ("receipt", "approved"):
            raise ValueError
        if (state := payload["state"]) not in ("held", "started"):
            raise ValueError
        return Receipt(
            version=version,
            tenant_id=_typed(str, payload["tenant"]["id"]),
            tenant=_typed(str, payload["tenant"]["name"]),
            run=_typed(str, payload["run"]),
            state=state,
            at=_time(payload["at"]),
            begin_by=_time(payload["valid_until" if version == 1 else "begin_by"]),
            due=_time(payload["valid_until" if version == 1 else _DUE[state]]),
            project=_typed(str, payload["project"]) if "project" in payload else None,
            mechanism_type=_typed(str, payload["mechanism"]["type"]),
            mechanism_digest=_typed(str, payload["mechanism"]["digest"]),
            mu_sq_pico=int(_typed(str, payload["cost"]["mu_sq_pico"])),
            delta_atto=int(_typed(str, payload["cost"]["delta_atto"])),
            datasets=tuple(_items(partial(_on, version=version), payload["datasets"])),
        )
    except (KeyError, TypeError, ValueError):
        raise ReceiptRejected("The receipt says something that this version does not know; use a newer one.") from None


def _on(dataset: Mapping[str, Any], *, version: int) -> ReceiptOn:
    partitions = dataset.get("partitions")
    if version == 1 and partitions is not None:
        _items(partial(_typed, str), partitions)  # one at least, and no ranges
    return ReceiptOn(
        name=_typed(str, dataset["name"]),
        id=_typed(str, dataset["id"]),
        partitions=None if "partitions" not in dataset else _partitions(partitions),
        seq=_typed(int, dataset["seq"]),
        hash=_typed(str, dataset["hash"]),
    )


def _partitions(items: object) -> tuple[str, ...]:
    """The names, each listed by itself or in a range. There may be none: then a job may use no partition."""
    names: list[str] = []
    for item in _typed(list, items):
        names.extend([item] if isinstance(item, str) else _in_range(*_typed(list, item)))
        if len(names) > PARTITIONS_MAX:
            raise ValueError
    return tuple(names)


def _in_range(first: str, last: str) -> list[str]:
    """One prefix, and every number of as many digits from the first to the last."""
    begin, end = _RANGE.fullmatch(first), _RANGE.fullmatch(last)
    if begin is None or end is None or begin[1] != end[1] or len(first) != len(last):
        raise ValueError
    numbers = range(int(begin[2]), int(end[2]) + 1)
    if not 0 < len(numbers) <= PARTITIONS_MAX:
        raise ValueError
    return [f"{begin[1]}{number:0{len(begin[2])}}" for number in numbers]


def _items(read: Callable[[Any], T], items: object) -> list[T]:
    if not isinstance(items, list) or not items:
        raise TypeError
    return [read(item) for item in items]


def _typed(kind: type[T], value: object) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError
    return value


def _time(text: object) -> datetime:
    moment = datetime.fromisoformat(_typed(str, text))
    if moment.tzinfo is None:
        raise ValueError
    return moment


# --- what it is good for ---------------------------------------------------------------------------------------------


def _uses(datasets: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    listed = [] if datasets is None else [datasets] if isinstance(datasets, str | Mapping) else list(datasets)
    return [{"name": dataset} if isinstance(dataset, str) else dataset for dataset in listed]


def _demand_use(receipt: Receipt, use: Mapping[str, Any]) -> None:
    """Raises OtherDataset unless the receipt is of all of this use."""
    name, partitions = use["name"], use.get("partitions")
    charged = next((dataset for dataset in receipt.datasets if dataset.name == name), None)
    if charged is None:
        among = ", ".join(dataset.name for dataset in receipt.datasets[:5])
        raise OtherDataset(f"The receipt is not of {name}; it is of {among}.", dataset=name)
    listed = charged.partitions
    if listed is None:
        if partitions and receipt.version > 1:
            raise OtherDataset(f"The receipt is of {name}, which has no partitions: name it alone.", dataset=name)
        return
    beyond = sorted(set(partitions) - set(listed)) if partitions else None
    if beyond is None or beyond:
        what = "all of it: name the partitions that the job uses" if beyond is None else ", ".join(beyond[:5])
        allowed = (", ".join(listed[:5]) or "no partition") + (", …" if len(listed) > 5 else "")
        raise OtherDataset(f"The receipt is of {name} in {allowed} alone, not of {what}.", dataset=name)
