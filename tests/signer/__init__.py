"""Tests of `ledger.signer`."""
