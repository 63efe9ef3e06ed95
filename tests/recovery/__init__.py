"""Tests of ledger.recovery."""
