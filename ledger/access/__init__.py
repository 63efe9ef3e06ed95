"""Who is calling, and what they may do: keys, roles and tokens. Knows the store, but no HTTP framework."""
