"""Tests of `ledger.store`, the migrations, and the databases that the tests use."""
