"""Known faults of accountants and training libraries, by version, and which recorded runs each one touches.

    known/*.toml   the faults, each with its source; `known/schema.json` is their schema
    catalogue      read them
    recorded       what a run records: libraries with versions, options, mechanisms
    versions       compare a version with a specifier
    match          whether an advisory touches a run, and what the run does not record

It needs no other package of the ledger except the errors, and no library: it is for a client's command line too.
"""

from ledger.advisories.catalogue import Advisory, advisories, advisory
from ledger.advisories.match import Touched, touched
from ledger.advisories.recorded import Recorded, recorded

__all__ = ["Advisory", "Recorded", "Touched", "advisories", "advisory", "recorded", "touched"]
