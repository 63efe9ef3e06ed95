"""Tests against the real libraries that a training job uses: `make test-integrations`.

Each folder is a stack: `requirements.in` names its packages, `requirements.lock` pins them all with hashes, and its
tests run in an environment of its own, against a server of the main environment. `make test` does not collect them.
"""
