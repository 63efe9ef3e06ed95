"""Tests of `ledger.service`."""
