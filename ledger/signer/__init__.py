"""What this server signs with its key: receipts, heads, published heads."""
