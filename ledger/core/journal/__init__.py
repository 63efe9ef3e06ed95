"""The hash chain of a journal, and replay: from its entries to the state. Pure."""
