"""The hash chain of a journal, and the state that its entries replay to. Pure."""
