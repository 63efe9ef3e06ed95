"""What the ledger does today and is to do otherwise. Change the constant with the ledger: the model then demands it."""

from __future__ import annotations

RECEIPTS_LIST_CHARGED_PARTITIONS = False
"""B1. Today a receipt lists the partitions that were requested, and none if none were named, so that it permits those
that are added later. Wanted: True, always the partitions that were charged."""

ENDED_RUNS_HAVE_RECEIPTS = True
"""B3. Today the receipt of a start is also given out when the run was settled. Wanted: False."""

HUGE_OVERRUNS_ARE_SETTLED = False
"""B4. Today an excess that no budget can cover is charged, for good. Wanted: False, the dataset is frozen and the run
stays started until a steward confirms or corrects the number."""

TAKES_TWO = frozenset({"budget", "thaw", "void", "partitions", "project", "fair-use"})
"""B6. What the policy of a second steward guards. Wanted: "partitions", "project" and "fair-use" too."""

KEYS_BELONG_TO_PRINCIPALS = True
"""B7. Today idempotency keys are one space for the whole tenant. Wanted: True, one for each principal."""

PROPOSALS_ARE_REPEATED = False
"""B7. Today the same void can be proposed again while it is open. Wanted: False, the open proposal is the answer."""
