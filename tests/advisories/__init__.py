"""Tests of `ledger.advisories`."""
