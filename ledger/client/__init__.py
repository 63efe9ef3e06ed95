"""The client that a training job imports. It needs httpx, and no package of the server.

    from ledger.client import DPSGD, Ledger

    ledger = Ledger()  # LEDGER_URL and LEDGER_KEY, or Ledger("http://127.0.0.1:8000", key=…)
    mechanism = DPSGD(noise_multiplier=1.1, sample_rate=256 / 60_000, steps=14_062)
    with ledger.run(datasets=["mnist"], mechanism=mechanism) as run:
        for batch in run.batches(sampler):  # ends after the planned steps
            train(batch)

A run that does not fit raises BudgetExceeded before it uses any data, with what would fit. Every error is a
`LedgerError`: the server's errors by their code, as in `ledger.errors`, and Unreachable if there was no answer.

    mechanisms   the mechanisms that a run declares
    wire         JSON with exact decimals
    calls        a call as data, before it is sent
    errors       a server's problems as exceptions
    flows        send a call, with retries, as a generator without I/O
    jobs         which job this process is part of, and which of its processes it is
    files        what this machine keeps, so that a process that dies leaves what a later one must know
    entering     ask for a run, or find it again
    counting     count the steps of a run
    runs         a run around the code that trains
    scopes       the context managers that ask for a run, and settle it at the end
    beats        reports of progress in the background
    pending      settlements that are sent later
    notebooks    how answers look in a notebook
    receipts     verify a signed receipt without a server
    models       the digests of the files that a run produced
    attestations verify a signed statement about these files without a server
    model_card   write a model card of such a statement
    attached     a run around another library's training loop, for these stacks, none of which is imported here:
    opacus       a training with Opacus, asked for as it is executed; needs PyTorch
    jax_privacy  a training with an execution plan of JAX Privacy
    tensorflow_privacy  a training with an optimizer of TensorFlow Privacy, whose batches it draws
    federated    rounds of clients as a mechanism, for both of:
    flower       a strategy of Flower around one with central noise
    nvflare      a controller of NVFlare with clipping and noise
    methods      every call of the ledger, by noun, for both clients
    sweeps       many trainings that are approved together, with Optuna, Ray Tune and scikit-learn
    ledgers      the two clients, which execute flows
    dp_events    events of dp-accounting as mechanisms, and the other way; imported by itself
"""

from ledger.client.attestations import (
    Attestation,
    AttestationForged,
    AttestationOfAnother,
    AttestationRejected,
    OtherModel,
    verify_attestation,
)
from ledger.client.errors import BatchRefused, BudgetExceeded, DryRun, Overrun, PlanExceeded, Unreachable
from ledger.client.ledgers import AsyncLedger, Ledger
from ledger.client.mechanisms import (
    DPSGD,
    GDP,
    ApproximateDP,
    Composed,
    DPSGDSchedule,
    Gaussian,
    Laplace,
    MatrixFactorization,
    PureDP,
    RandomizedResponse,
    ZCdp,
)
from ledger.client.model_card import model_card
from ledger.client.receipts import (
    OtherDataset,
    OtherMechanism,
    OtherRun,
    OtherTenant,
    Receipt,
    ReceiptExpired,
    ReceiptForged,
    ReceiptNotStarted,
    ReceiptOfAnother,
    ReceiptRejected,
    receipt_digest,
    verify_receipt,
)
from ledger.client.runs import Run
from ledger.errors import LedgerError, PartitionsClosed, ProposalState, RateLimited, RunWaits, UnitMismatch

__all__ = [
    "DPSGD",
    "GDP",
    "ApproximateDP",
    "AsyncLedger",
    "Attestation",
    "AttestationForged",
    "AttestationOfAnother",
    "AttestationRejected",
    "BatchRefused",
    "BudgetExceeded",
    "Composed",
    "DPSGDSchedule",
    "DryRun",
    "Gaussian",
    "Laplace",
    "Ledger",
    "LedgerError",
    "MatrixFactorization",
    "OtherDataset",
    "OtherMechanism",
    "OtherModel",
    "OtherRun",
    "OtherTenant",
    "Overrun",
    "PartitionsClosed",
    "PlanExceeded",
    "ProposalState",
    "PureDP",
    "RandomizedResponse",
    "RateLimited",
    "Receipt",
    "ReceiptExpired",
    "ReceiptForged",
    "ReceiptNotStarted",
    "ReceiptOfAnother",
    "ReceiptRejected",
    "Run",
    "RunWaits",
    "UnitMismatch",
    "Unreachable",
    "ZCdp",
    "model_card",
    "receipt_digest",
    "verify_attestation",
    "verify_receipt",
]
