"""An independent model of what the ledger promises, and random operations that hold the ledger to it."""
