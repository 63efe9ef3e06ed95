"""`make torture`: what a hostile tenant can do to another one, and what faults can do to what was acknowledged."""
