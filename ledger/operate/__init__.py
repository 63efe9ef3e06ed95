"""An operator's commands: migrate, init, check. Uses the store, and no HTTP."""
