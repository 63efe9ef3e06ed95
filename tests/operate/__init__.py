"""Tests of `ledger.operate`."""
