"""`privacy-ledger` whose server loses its patience after a second."""

from ledger.api import protocol
from ledger.cli import main

if __name__ == "__main__":
    protocol.Patient.seconds_max = 1.0
    main()
