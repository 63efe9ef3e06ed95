"""What runs in the background: finding what no decision raises, and sending it. Knows the store and the signer."""
