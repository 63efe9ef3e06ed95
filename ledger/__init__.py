"""The privacy budget ledger: the system of record for what differential privacy was spent on whose data.

The map, and the way of a request through it:

    errors         what can go wrong, as codes and facts
    logs           what the process says while it runs, with no secret and no caller's words in it
    canonical      the one text of a piece of JSON: what is hashed and signed
    model          the nouns: Amount, Account, Dataset, Run, and the commands that can be asked
    shapes         what may be said of a run: names, texts, the requests to ask for one, to settle and void it
    accounting/    pure mathematics: from a mechanism to its cost, from a cost to epsilon, from a budget to a limit,
                   and what is charged of a run that ended otherwise than planned
    decide         the heart: (books, commands, now) -> (books, outcomes), pure
    alerts         what is worth telling of: thresholds passed, refusals in a row, how long a budget lasts; pure
    journal        the hash chain, replay
    tables         the schema, for PostgreSQL and SQLite
    rows           rows of the tables as the nouns, and back
    store/         all SQL: connections, what is read, what is written
    watch          what is worth telling of that no decision raises: late runs, broken journals, short budgets
    courier        looks now and then, and takes alerts from the outbox to webhooks
    certificates   the cache of costs that are dear to compute
    writer         queue -> one transaction -> answers; the only place that commits a decision
    jws            signed statements, and the keys for them: what a verifier has of us
    oidc           tokens of OpenID Connect issuers: whom a CI job or a service account acts as
    keys           keys and who may do what
    catalogue      what never changes of a dataset: which ones a run reaches, and whether they go together
    answers        from journal entries to answers
    signing        the key that this ledger signs with, in a file or a secret, and those before it
    receipts       a decision as a signed statement
    runs           the way of a request for a run: resolve, cost, submit, and after the commit what would fit
    planner        what would happen if a run were asked for now, and how much would fit
    report/        the audit report of a dataset, a project or the tenant: JSON, and its pages
    settings       what the environment says
    deploy         migrate, init, reset the last admin key
    merkle         the Merkle tree over a journal's entries, and proofs in it
    witness        what somebody holds against a journal: receipts, signed heads, an earlier export
    verify         checking an export with no database and no network
    proofs         that an entry is in a journal, that a journal goes on: for whoever wants no whole export
    heads          signed heads of journals
    publish        signed heads in a folder that somebody else keeps too
    mirror         what a dataset's rows have to say, by its journal
    recompute/     working every cost of an export out again, and what would be over its limit
    registry       a dataset or a run as a draft for the Deployments Registry
    audit          adding up every journal of a database
    api/           HTTP, and nothing else
    client/        what a training job imports: httpx, and nothing of the server
    cli/           the command line

`POST /v1/runs` comes in through `api.app` (limits, key, JSON), is checked against `api.schemas`, traced by the
`catalogue` to every dataset that it charges, costed by `runs` with `accounting.costs` (by way of `certificates`, where
that takes long), and put into the tenant's queue of the `writer`. The writer takes what has gathered there, opens one
transaction through the `store`, claims the idempotency keys, locks the datasets, lets `decide` decide, seals the
entries with `journal`, commits, and only then answers, with what `answers` makes of the entries.

Dependencies point one way, and tests/test_imports.py holds them to it:

    errors, model <- accounting, decide, journal <- store <- certificates, keys, writer <- runs <- planner <- api
    answers, catalogue <- report <- api
    accounting <- shapes; store, shapes <- catalogue <- runs; accounting, journal <- answers <- runs
    canonical <- journal; errors <- jws <- signing <- receipts <- runs
    model <- alerts <- store <- watch <- courier <- api; jws, writer <- courier
    accounting, journal, verify <- recompute <- registry
    client imports errors, canonical and jws alone; cli imports client, verify, recompute, registry, and for serving
    what serves
"""

__version__ = "0.1.0"
