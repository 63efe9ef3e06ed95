"""Recompute every cost of an export, offline: which costs differ, and which limits would be exceeded.

    reading    read an export: first verify it, then yield its entries
    costing    compute cost and charge from an entry's declaration, and compare them with the recorded ones
    replay     the balances with these costs, and where they exceed a limit
    composed   the spent budget by the best non-adaptive accounting, for information
    opinion    compare with dp-accounting, if it is installed
    work       all of this together

The entry point is `recompute(lines)`. docs/how-to/recompute.md describes what is compared, how closely, and what that
can show.
"""

from ledger.recompute.composed import Composition
from ledger.recompute.costing import Difference
from ledger.recompute.opinion import Opinion
from ledger.recompute.replay import Outcome
from ledger.recompute.work import LeastLimit, Recomputed, Unknown, recompute

__all__ = ["Composition", "Difference", "LeastLimit", "Opinion", "Outcome", "Recomputed", "Unknown", "recompute"]
