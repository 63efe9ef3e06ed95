"""Working every cost of an export out again, offline: what differs, and what would be over its limit.

    reading    an export, verified first, then its entries one after another
    costing    a cost and a charge from what an entry records, and how it compares with what it says
    replay     the balances as they would have been, and where they pass a limit
    composed   what the spend amounts to at the best non-adaptive accounting, for information
    opinion    dp-accounting's numbers beside ours, where it is installed
    work       all of it together

`recompute(lines)` is the way in; docs/how-to/recompute.md says what is compared, how closely, and what it can show.
"""

from ledger.recompute.composed import Composition
from ledger.recompute.costing import Difference
from ledger.recompute.opinion import Opinion
from ledger.recompute.replay import Outcome
from ledger.recompute.work import Recomputed, Unknown, recompute

__all__ = ["Composition", "Difference", "Opinion", "Outcome", "Recomputed", "Unknown", "recompute"]
