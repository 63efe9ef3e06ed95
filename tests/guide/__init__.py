"""The documentation site: what is generated for it, and how its links are checked."""
