"""The sections of a report, as blocks, in the order in which they are read."""
