"""An operator's commands: migrate, init, check. Knows the store, and no HTTP."""
