"""Try to make the ledger forget, repeat or overspend: clients, faults, and an independent count of what came of them.

Several `privacy-ledger serve` processes on one database, client processes, and a proxy between them. A seed decides
what the clients ask for and which faults come when. At the end everything is healed, every request without an answer is
sent again under its key, all journals are exported, and `replay.py` adds them up in exact integers. Nothing here
imports the ledger: it knows HTTP and docs/reference/export.md. Servers are commands; `starter.py` forks most of them
from a process that has imported what `serve` does, which saves a second for each.

Eight counters, all of which must be zero:

    lost             an acknowledged decision, start, settlement, void, correction or change without its entry, in one
                     of its datasets
    doubled          one idempotency key with two runs, one run decided, started or ended twice, or one change made
                     twice
    changed          an acknowledged answer that differs from its entry (run, seq, outcome, cost, request), or from
                     another answer under the same key
    phantom          an entry that no client asked for
    overspent        an approval that did not fit, or spent and held beyond the limit without an overrun or a correction
                     that states it
    wrongly refused  a refusal for budget, although at its seq the run fitted into what its accounts had left
    disordered       an answer that was received before a request was sent, with the larger seq in the same dataset
    broken           a chain, a number, a time or a balance in an export that does not follow from the entries before

A kill of a process does not test a loss of power: what the operating system has is still written.
"""
