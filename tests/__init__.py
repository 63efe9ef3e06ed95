"""The tests: `make test` runs all of them, `make prove` those with counts at their full size."""
