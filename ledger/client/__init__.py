"""What a training job imports. It needs httpx, and nothing of the server.

    from ledger.client import DPSGD, Ledger

    ledger = Ledger()  # LEDGER_URL and LEDGER_KEY, or Ledger("http://127.0.0.1:8000", key=…)
    mechanism = DPSGD(noise_multiplier=1.1, sample_rate=256 / 60_000, steps=14_062)
    with ledger.run(datasets=["mnist"], mechanism=mechanism) as run:
        for batch in run.batches(sampler):  # ends with the plan
            train(batch)

A run that does not fit raises BudgetExceeded before any data is touched, and says what would fit. Every error is a
`LedgerError`: the server's by their code, as `ledger.errors` has them, and Unreachable where there was no answer.

    mechanisms   what a run declares
    wire         JSON whose numbers are the decimals that were meant
    calls        a call, described and not yet made
    errors       a server's problems as exceptions
    flows        how a call is carried out, with its retries; a generator that does neither I/O nor waiting
    runs         the life of a run around the code that trains
    receipts     checking a signed receipt, with no server
    methods      every call of the ledger, by noun, for both clients
    ledgers      the two clients, which do what a flow says
"""

from ledger.client.errors import BatchRefused, BudgetExceeded, Overrun, PlanExceeded, Unreachable
from ledger.client.ledgers import AsyncLedger, Ledger
from ledger.client.mechanisms import (
    DPSGD,
    GDP,
    ApproximateDP,
    Composed,
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
