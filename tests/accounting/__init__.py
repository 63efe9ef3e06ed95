"""Tests of `ledger.accounting`: every number against an independent one with more digits."""
