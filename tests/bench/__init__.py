"""Measurements beside what they are compared with; `make bench` runs them."""
