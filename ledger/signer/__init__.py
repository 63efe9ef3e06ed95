"""Sign with the server's key: receipts, heads, published heads."""
