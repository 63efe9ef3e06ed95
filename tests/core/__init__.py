"""Tests of `ledger.core`."""
