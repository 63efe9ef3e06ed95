"""The privacy budget ledger: the system of record for what differential privacy was spent on whose data.

core, accounting: pure; the nouns, the decision and the journal; from a mechanism to its cost
store, access, signer, verifier: all SQL; who may do what; what is signed; what is checked with no server
recovery: heads that are kept outside the database, and what they show
service, alerting: the use cases; what runs in the background. Only `service.writer` commits a decision
report, recompute, operate: the audit report; costs worked out again; an operator's commands
ui: the pages for people, which HTTP serves under /ui
api, cli, client: HTTP; the command line; what a training job imports
advisories: known faults of accountants and training libraries, and which recorded runs they touch
deferred, web: modules that are imported when they are first needed
profiles, limits_in_words: the servers and keys of `login`; which limit an account is, in words

Each package states in one sentence what lives there. `.importlinter` has the allowed imports.
"""

__version__ = "0.1.0"
