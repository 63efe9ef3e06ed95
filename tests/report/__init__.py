"""Tests of `ledger.report`."""
