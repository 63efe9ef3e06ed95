"""What the ledger does today and is to do otherwise. Change the constant with the ledger: the model then demands it.

B1 to B7 are the points of the issue "Never charge too little, never permit more than was charged".
"""

from __future__ import annotations

HUGE_OVERRUNS_ARE_SETTLED = True
"""B4. Today an excess that no budget can cover is charged, for good. Wanted: False, the dataset is frozen and the run
stays started until a steward confirms or corrects the number."""

TAKES_TWO = frozenset({"budget", "thaw", "void"})
"""B6. What the policy of a second steward guards. Wanted: "partitions", "project" and "fair-use" too."""

KEYS_BELONG_TO_PRINCIPALS = False
"""B7. Today idempotency keys are one space for the whole tenant. Wanted: True, one for each principal."""

PROPOSALS_ARE_REPEATED = True
"""B7. Today the same void can be proposed again while it is open. Wanted: False, the open proposal is the answer."""
