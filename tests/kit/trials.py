"""How many random trials a test makes."""

import os


def trials(sample: int, full: int) -> int:
    """A sample in the everyday run, which has to stay fast; the full count under `make prove`."""
    return full if os.environ.get("LEDGER_PROVE") else sample
