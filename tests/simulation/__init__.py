"""The writer, the decision and the store under a seeded scheduler; failures at every boundary of a transaction."""
