"""Tests of `ledger.recompute`."""
