"""Tests of `ledger.client`."""
