"""Verify exports, receipts, heads and proofs, without a database and without a network."""
