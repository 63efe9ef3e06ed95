"""Verify an attestation without a server: that a ledger signed which files a run produced, and what the run cost.

An attestation is an in-toto statement in a DSSE envelope. It does not expire: it states what happened. This needs what
receipts need: `pip install 'privacy-ledger[receipts]'`.

LedgerError
└── AttestationRejected         the base class
    ├── AttestationForged       none of the keys signed it
    └── AttestationOfAnother    it is valid, but for another tenant, run, dataset or mechanism
        └── OtherModel          a given file is not among those that the run produced
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from ledger.client.mechanisms import AnyMechanism
from ledger.client.models import Model, stated_models
from ledger.client.receipts import (
    ReceiptRejected,
    is_tenant,
    mechanism_digest,
    receipt_digest,
    trusted_keys,
    verify_receipt,
)
from ledger.errors import LedgerError

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:privacy-ledger:attestation:1"
T = TypeVar("T")


class AttestationRejected(LedgerError):
    """The attestation does not hold for these files."""

    code = "attestation-rejected"


class AttestationForged(AttestationRejected):
    """None of the given keys signed this attestation. Check the JWK set, and fetch the attestation again."""

    code = "attestation-forged"


class AttestationOfAnother(AttestationRejected):
    """The attestation is valid, but for something else."""

    code = "attestation-of-another"


class OtherModel(AttestationOfAnother):
    """A file is not among those that the run produced."""

    code = "attestation-of-another-model"


@dataclass(frozen=True, slots=True)
class AttestedModel:
    """A file that the run produced. sha256: in hex. size: in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class AttestedDataset:
    """A dataset that the run was charged to, and the entry that settled it.

    privacy_unit: what one unit is, as the dataset declares it. root: the Merkle root over the journal up to this entry.
    """

    name: str
    id: str
    privacy_unit: str
    adjacency: str
    seq: int
    hash: str
    root: str


@dataclass(frozen=True, slots=True)
class Attestation:
    """A verified attestation.

    mu, delta: what holds for the run by itself, and `epsilon` the same as pairs of delta and epsilon; empty if epsilon
    is infinite at every delta of the datasets' budgets. is_estimate: the bound is `clt`, which is no guarantee.
    steps: None if the mechanism has none. receipt_sha256: the `receipt_digest` of the receipt of the start.
    statement: the whole in-toto statement, with fractions as Decimal.
    """

    tenant_id: str
    tenant: str
    run: str
    project: str | None
    settled_at: datetime
    models: tuple[AttestedModel, ...]
    datasets: tuple[AttestedDataset, ...]
    mechanism_type: str
    mechanism_digest: str
    steps: int | None
    bound: str
    mu: float
    delta: float
    epsilon: tuple[tuple[float, float], ...]
    receipt_sha256: str
    statement: Mapping[str, Any]

    @property
    def is_estimate(self) -> bool:
        return self.bound != "certified"


def verify_attestation(
    attestation: str | Mapping[str, Any],
    *,
    jwks: Mapping[str, Any],
    models: Sequence[Model] = (),
    tenant: str | None = None,
    run: str | None = None,
    datasets: str | Sequence[str] = (),
    mechanism: AnyMechanism | None = None,
    receipt: str | None = None,
) -> Attestation:
    """Verify an attestation, and return its contents. Raises a subclass of AttestationRejected that names the reason.

    attestation: the envelope, as JSON or parsed. jwks: the parsed JWK set, which you fetched earlier and trust.
    Arguments that are left out are not checked. Tenants share the ledger's keys, so give `tenant` if there may be
    several.

    models: files or folders, or mappings `{"name", "sha256", "size"}`. Each must be among the files that the run
    produced. Files are compared by their bytes, whatever their names are. tenant: its id or name. run: its id.
    datasets: names; the run must be charged to each of them. mechanism: as requested. receipt: of the run's
    start, renewed or not, with which the job began; its time may be over.

    Raises Misconfigured if PyJWT or cryptography is missing, and InvalidRequest if `jwks` is not a JWK set or a file
    cannot be read.
    """
    verified = _attestation(_read(attestation, jwks))
    if tenant is not None and not is_tenant(tenant, id_=verified.tenant_id, name=verified.tenant):
        raise _of_another("tenant", verified.tenant, tenant)
    if run is not None and verified.run != run.lower():
        raise _of_another("run", verified.run, run)
    names = [one.name for one in verified.datasets]
    for dataset in [datasets] if isinstance(datasets, str) else datasets:
        if dataset not in names:
            raise _of_another("dataset", ", ".join(names[:5]), dataset)
    if mechanism is not None and mechanism_digest(mechanism) != verified.mechanism_digest:
        raise AttestationOfAnother(
            f"The attestation is of another mechanism, of type {verified.mechanism_type}.",
            digest=verified.mechanism_digest,
        )
    if receipt is not None:
        _demand_receipt(verified, receipt.strip(), jwks)
    for model in stated_models(models):
        _demand_model(verified, model)
    return verified


def _demand_receipt(attestation: Attestation, receipt: str, jwks: Mapping[str, Any]) -> None:
    """Raise AttestationOfAnother unless the receipt is one of the start of this run. A renewed one is of the same
    start, and its time may be over."""
    if receipt_digest(receipt) == attestation.receipt_sha256:
        return
    try:
        began = verify_receipt(
            receipt,
            jwks=jwks,
            tenant=attestation.tenant_id,
            run=attestation.run,
            now=datetime.min.replace(tzinfo=UTC),
        )
    except ReceiptRejected as error:
        raise AttestationOfAnother(
            f"The attestation is of run {attestation.run}, which did not start with this receipt. {error.detail}",
            receipt=attestation.receipt_sha256,
        ) from None
    if began.mechanism_digest != attestation.mechanism_digest:
        raise AttestationOfAnother(
            f"The receipt is of another mechanism than the attestation, of type {began.mechanism_type}.",
            digest=began.mechanism_digest,
        )


def _of_another(kind: str, actual: str, given: str) -> AttestationOfAnother:
    return AttestationOfAnother(f"The attestation is of the {kind} {actual}, not of {given}.", **{kind: actual})


def _demand_model(attestation: Attestation, model: Mapping[str, Any]) -> None:
    """Raise OtherModel unless the run produced a file of these bytes."""
    if any(model["sha256"] == attested.sha256 for attested in attestation.models):
        return
    same = next((attested for attested in attestation.models if attested.name == model["name"]), None)
    among = ", ".join(attested.name for attested in attestation.models[:5])
    why = f"It names no such file, but: {among}." if same is None else f"It names that file with {same.sha256}."
    raise OtherModel(
        f"{model['name']} has the SHA-256 {model['sha256']}, which the attestation does not have. {why}",
        model=model["name"],
        sha256=model["sha256"],
    )


def _read(attestation: str | Mapping[str, Any], jwks: Mapping[str, Any]) -> dict[str, Any]:
    keys = trusted_keys(jwks)
    from ledger.verifier import dsse, jws

    try:
        return dsse.read(attestation, keys=keys)
    except jws.SignatureInvalid as error:
        raise AttestationForged(error.detail) from None


def _attestation(statement: Mapping[str, Any]) -> Attestation:
    """Parse a signed statement. Raises AttestationRejected if it is of another kind or version."""
    if (statement.get("_type"), statement.get("predicateType")) != (STATEMENT, PREDICATE):
        raise AttestationRejected(
            f"The signed statement is not of type {PREDICATE}. If a newer ledger wrote it, install a newer client."
        )
    try:
        predicate, subjects = statement["predicate"], _typed(list, statement["subject"])
        run, guarantee, mechanism = predicate["run"], predicate["guarantee"], predicate["mechanism"]
        if not subjects or guarantee["bound"] not in ("certified", "clt"):
            raise ValueError
        return Attestation(
            tenant_id=_typed(str, predicate["tenant"]["id"]),
            tenant=_typed(str, predicate["tenant"]["name"]),
            run=_typed(str, run["id"]),
            project=_typed(str, run["project"]) if "project" in run else None,
            settled_at=datetime.fromisoformat(_typed(str, run["settled_at"])),
            models=tuple(map(_model, subjects)),
            datasets=tuple(map(_dataset, _typed(list, predicate["datasets"]))),
            mechanism_type=_typed(str, mechanism["type"]),
            mechanism_digest=_typed(str, mechanism["digest"]),
            steps=None if run["steps"] is None else _typed(int, run["steps"]),
            bound=guarantee["bound"],
            mu=float(guarantee["mu"]),
            delta=float(guarantee["delta"]),
            epsilon=tuple((float(at["delta"]), float(at["epsilon"])) for at in guarantee["epsilon"]),
            receipt_sha256=_typed(str, predicate["receipt"]["payload_sha256"]),
            statement=statement,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise AttestationRejected(
            "The attestation has contents that this version of the client does not know. Install a newer one."
        ) from None


def _model(subject: Mapping[str, Any]) -> AttestedModel:
    sha256, size = subject["digest"]["sha256"], subject["annotations"]["size"]
    return AttestedModel(_typed(str, subject["name"]), _typed(str, sha256), _typed(int, size))


def _dataset(dataset: Mapping[str, Any]) -> AttestedDataset:
    settled = dataset["settled"]
    return AttestedDataset(
        **{name: _typed(str, dataset[name]) for name in ("name", "id", "privacy_unit", "adjacency")},
        seq=_typed(int, settled["seq"]),
        hash=_typed(str, settled["hash"]),
        root=_typed(str, settled["root"]),
    )


def _typed(kind: type[T], value: object) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError
    return value
