"""Tests of `ledger.alerting`."""
