"""`make torture`: what one tenant, and whoever has no key, can do to another tenant's approvals."""
