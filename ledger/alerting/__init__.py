"""Background work: raise the alerts that no decision raises, and send alerts. Uses the store and the signer."""
