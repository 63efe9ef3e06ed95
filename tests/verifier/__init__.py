"""Tests of `ledger.verifier`."""
