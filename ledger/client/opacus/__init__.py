"""Opacus: ask for what its objects really do, count each step before it is executed, and stop what was not approved.

    from ledger.client.opacus import attach                                      # 1

    engine = PrivacyEngine()
    training = attach(engine, dataset="digits", epochs=5, nominal_size=1_800)    # 2
    model, optimizer, loader = engine.make_private(…)  # asks here: BudgetExceeded before any data is used
    …                                                  # your loop, unchanged
    training.finish()                                                            # 3

    checks       what is read from the objects, and what is refused before the start
    watch        what is counted and checked at each draw and step
    training     a run around Opacus: `attach`, and the run's beginning and end
    accountant   `PrivacyEngine(accountant="ledger")`, for trainers that make their own engine

It needs Opacus 1.6: `pip install 'privacy-ledger[opacus]'`.
"""

from ledger.client.attached import NotCovered
from ledger.client.opacus.accountant import LedgerAccountant
from ledger.client.opacus.training import Training, attach

__all__ = ["LedgerAccountant", "NotCovered", "Training", "attach"]
