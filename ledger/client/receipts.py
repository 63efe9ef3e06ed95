"""Verify a receipt without a server, as a training cluster does before a job begins.

Only the keys in the JWK set verify a receipt. Fetch them once from `/.well-known/jwks.json`, over a trusted connection.
This needs PyJWT and cryptography: `pip install 'privacy-ledger[receipts]'`.

LedgerError
└── ReceiptRejected             the base class
    ├── ReceiptForged           none of the keys signed it
    ├── ReceiptExpired          begin_by has passed
    ├── ReceiptNotStarted       it is of an approval, which can still be voided
    └── ReceiptOfAnother        it is valid, but for something else:
        ├── OtherTenant
        ├── OtherRun
        ├── OtherDataset
        └── OtherMechanism
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from uuid import UUID

from ledger.canonical import canonical, digest, parse
from ledger.client.mechanisms import AnyMechanism
from ledger.client.wire import encode
from ledger.errors import InvalidRequest, LedgerError, Misconfigured

if TYPE_CHECKING:
    from ledger.verifier import jws

State = Literal["held", "started"]

VERSIONS: Final = (1, 2)
"""The versions of receipts that this module reads. In version 1, a dataset without a list of partitions permits all of
them, and a job may begin until the approval or the run was due."""
PARTITIONS_MAX: Final = 1_000_000
"""The largest number of partitions in a receipt. A dataset has a few thousand at most."""
_RANGE: Final = re.compile(r"(.*?)([0-9]{1,9})")


class ReceiptRejected(LedgerError):
    """The receipt does not allow this job."""

    code = "receipt-rejected"


class ReceiptForged(ReceiptRejected):
    """None of the given keys signed this receipt. Check the JWK set, and fetch the receipt again."""

    code = "receipt-forged"


class ReceiptExpired(ReceiptRejected):
    """The receipt has expired: a job must not begin with it. If the run is still started, get a new receipt."""

    code = "receipt-expired"


class ReceiptNotStarted(ReceiptRejected):
    """The receipt is of an approval, which can still be voided. Start the run, and use the receipt of the start."""

    code = "receipt-not-started"


class ReceiptOfAnother(ReceiptRejected):
    """The receipt is valid, but for something else."""

    code = "receipt-of-another"


class OtherTenant(ReceiptOfAnother):
    """The receipt is of another tenant."""

    code = "receipt-of-another-tenant"


class OtherRun(ReceiptOfAnother):
    """The receipt is of another run."""

    code = "receipt-of-another-run"


class OtherDataset(ReceiptOfAnother):
    """The receipt does not include all that the job uses."""

    code = "receipt-of-another-dataset"


class OtherMechanism(ReceiptOfAnother):
    """The receipt is of another mechanism."""

    code = "receipt-of-another-mechanism"


@dataclass(frozen=True, slots=True)
class ReceiptOn:
    """A dataset that a run charges, and the entry about it in that dataset's journal.

    partitions: those that were charged and that a job may use; None if the dataset has no partitions.
    """

    name: str
    id: str
    partitions: tuple[str, ...] | None
    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A verified receipt.

    version: the version of its rules. at: when the run was approved or started. begin_by: the latest time at which a
    job may begin. due: when the approved run must be started, or the started run settled. mu_sq_pico, delta_atto: the
    cost of the run, in units of 1e-12 of mu² and of 1e-18 of -log(1 - delta). mechanism_digest: SHA-256, in hex, of the
    canonical JSON of the mechanism as requested.
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
    """Return the digest with which a receipt names a mechanism. A plain dict must have the members that were sent.

    Raises InvalidRequest if the mechanism is not valid.
    """
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
    """Verify a receipt, and return its contents. Raises a subclass of ReceiptRejected that names the reason.

    jwks: the parsed JWK set, which you fetched earlier and trust. Arguments that are left out are not checked. Tenants
    share the ledger's keys and choose the names of their datasets, so give `tenant` if there may be several.

    tenant: its id or name. datasets: what the job uses, each a name or `{"name", "partitions"}`; the receipt must
    include all of it. For a dataset with partitions, name those that the job uses: the name alone means all partitions,
    even those that were added later and never charged. run: its id. mechanism: as requested. state: `started` to train;
    `held` accepts an approval too. now: a time with a time zone; default: the clock of this machine.

    Raises Misconfigured if PyJWT or cryptography is missing, and InvalidRequest if `jwks` is not a JWK set.
    """
    payload = _read(receipt, jwks)
    verified = _receipt(payload)
    moment = datetime.now(UTC) if now is None else now
    if moment.tzinfo is None:
        raise ValueError("now: must have a time zone, such as datetime.now(UTC)")
    if verified.state != state and state == "started":
        raise ReceiptNotStarted(run=verified.run, state=verified.state)
    if moment > verified.begin_by:
        raise _expired(verified)
    if tenant is not None and not _is_of(verified, tenant):
        raise OtherTenant(f"The receipt is of the tenant {verified.tenant}, not of {tenant}.", tenant=verified.tenant)
    if run is not None and verified.run != run.lower():
        raise OtherRun(f"The receipt is of the run {verified.run}, not of {run}.", run=verified.run)
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
        f"The receipt has expired: a job could begin with it until {begin_by}. If the run is still {receipt.state}, get"
        f" a new receipt: privacy-ledger receipt show {receipt.run}",
        begin_by=begin_by,
    )


def trusted_keys(jwks: Mapping[str, Any]) -> jws.PublicKeys:
    """Return the keys of a JWK set. Raises Misconfigured if PyJWT or cryptography is missing, and InvalidRequest."""
    try:
        from ledger.verifier import jws
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"The package {error.name} is missing. To verify receipts: pip install 'privacy-ledger[receipts]'"
        ) from None
    try:
        return jws.PublicKeys.of(jwks)
    except jws.SignatureInvalid as error:
        raise InvalidRequest(f"jwks: {error.detail}", field="jwks") from None


def _read(receipt: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    keys = trusted_keys(jwks)
    from ledger.verifier import jws

    try:
        return jws.read(receipt, keys=keys, typ=jws.RECEIPT)
    except jws.SignatureInvalid as error:
        raise ReceiptForged(error.detail) from None


def receipt_digest(receipt: str) -> str:
    """Return the SHA-256, in hex, of the payload of a receipt, which names it whichever key signed it. An attestation
    has that of the receipt of the start. Raises InvalidRequest if the text is not a receipt. Verifies nothing."""
    parts = receipt.split(".")
    try:
        payload = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
    except (IndexError, ValueError):
        raise InvalidRequest("receipt: is not three parts of base64url, separated by dots", field="receipt") from None
    return hashlib.sha256(payload).hexdigest()


def _is_of(receipt: Receipt, tenant: str) -> bool:
    return is_tenant(tenant, id_=receipt.tenant_id, name=receipt.tenant)


def is_tenant(tenant: str, *, id_: str, name: str) -> bool:
    """Return whether that is the tenant, by its id; by its name if `tenant` does not look like an id."""
    try:
        return id_ == str(UUID(tenant))
    except ValueError:
        return name == tenant


# --- contents --------------------------------------------------------------------------------------------------------

T = TypeVar("T")
_DUE: Final[dict[State, str]] = {"held": "start_by", "started": "settle_by"}


def _receipt(payload: Mapping[str, Any]) -> Receipt:
    """Parse a receipt's payload, which must have exactly the known members. Raises ReceiptRejected."""
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
        raise ReceiptRejected(
            "The receipt has contents that this version of the client does not know. Install a newer one."
        ) from None


def _on(dataset: Mapping[str, Any], *, version: int) -> ReceiptOn:
    partitions = dataset.get("partitions")
    if version == 1 and partitions is not None:
        _items(partial(_typed, str), partitions)  # at least one, and no ranges
    return ReceiptOn(
        name=_typed(str, dataset["name"]),
        id=_typed(str, dataset["id"]),
        partitions=None if "partitions" not in dataset else _partitions(partitions),
        seq=_typed(int, dataset["seq"]),
        hash=_typed(str, dataset["hash"]),
    )


def _partitions(items: object) -> tuple[str, ...]:
    """Return the names of the partitions, single and from ranges. If there are none, a job may use no partition."""
    names: list[str] = []
    for item in _typed(list, items):
        names.extend([item] if isinstance(item, str) else _in_range(*_typed(list, item)))
        if len(names) > PARTITIONS_MAX:
            raise ValueError
    return tuple(names)


def _in_range(first: str, last: str) -> list[str]:
    """Return the names of a range: a prefix with every number from the first to the last, of constant width."""
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


# --- use -------------------------------------------------------------------------------------------------------------


def _uses(datasets: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    listed = [] if datasets is None else [datasets] if isinstance(datasets, str | Mapping) else list(datasets)
    return [{"name": dataset} if isinstance(dataset, str) else dataset for dataset in listed]


def _demand_use(receipt: Receipt, use: Mapping[str, Any]) -> None:
    """Raise OtherDataset unless the receipt includes all of this use."""
    name, partitions = use["name"], use.get("partitions")
    charged = next((dataset for dataset in receipt.datasets if dataset.name == name), None)
    if charged is None:
        among = ", ".join(dataset.name for dataset in receipt.datasets[:5])
        raise OtherDataset(f"The receipt does not include {name}. It includes: {among}.", dataset=name)
    listed = charged.partitions
    if listed is None:
        if partitions and receipt.version > 1:
            raise OtherDataset(
                f"The receipt is of {name}, which has no partitions. Give its name without partitions.", dataset=name
            )
        return
    beyond = sorted(set(partitions) - set(listed)) if partitions else None
    if beyond is None or beyond:
        what = "all of it. Name the partitions that the job uses" if beyond is None else ", ".join(beyond[:5])
        allowed = (", ".join(listed[:5]) or "no partition") + (", …" if len(listed) > 5 else "")
        raise OtherDataset(f"The receipt includes of {name} only {allowed}, not {what}.", dataset=name)
