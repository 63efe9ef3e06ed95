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
    runs         the context manager around the code that trains
    receipts     verify a signed receipt without a server
    opacus       a training with Opacus, asked for as it is executed; needs PyTorch, and is not imported here
    methods      every call of the ledger, by noun, for both clients
    ledgers      the two clients, which execute flows
"""

from ledger.client.errors import BatchRefused, BudgetExceeded, Overrun, PlanExceeded, Unreachable
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
    verify_receipt,
)
from ledger.client.runs import Run
from ledger.errors import LedgerError, PartitionsClosed, ProposalState, RateLimited, UnitMismatch

__all__ = [
    "DPSGD",
    "GDP",
    "ApproximateDP",
    "AsyncLedger",
    "BatchRefused",
    "BudgetExceeded",
    "Composed",
    "DPSGDSchedule",
    "Gaussian",
    "Laplace",
    "Ledger",
    "LedgerError",
    "MatrixFactorization",
    "OtherDataset",
    "OtherMechanism",
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
    "UnitMismatch",
    "Unreachable",
    "ZCdp",
    "verify_receipt",
]
