"""A verifier that somebody else could have written from docs/reference/export.md: it imports nothing of the ledger.

python independent_verifier.py EXPORT [TENANT]     prints what the journal adds up to, or the first entry that is wrong

TENANT is an export of the tenant's own journal: by it, what takes two people was done by two. The signature of the head
and the Merkle root are independent_auditor.py's.
"""

import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from independent_corrections import corrected  # type: ignore[import-not-found]
from independent_levels import Batch, Rooms, Table, in_batch  # type: ignore[import-not-found]  # they stand beside this file
from independent_members import (  # type: ignore[import-not-found]
    BY_DIGEST,
    COMMON,
    DONE_BY,
    FORMS,
    GROUP,
    GUARDED_AT_FIRST,
    LISTS,
    MEMBERS,
    MEMBERS_1,
    MEMBERS_2,
    MEMBERS_4,
    OF_OVERRUN,
    OF_WAITING,
    ONE_OF,
    PROPOSES,
    PROPOSES_CORRECTED,
    SECONDED,
    SECONDED_RUN,
    TEXTS,
    WITHIN,
    duration,
    is_accounted,
    is_sha256,
    later,
    moment,
)
from independent_past import entered  # type: ignore[import-not-found]
from independent_reading import (  # type: ignore[import-not-found]
    INT64_MAX,
    add,
    amount,
    canonical,
    exceeds,
    fresh,
    left,
    limit_of,
    load,
    once,
    over,
    whole,
)

PARTS = ("limit", "spent", "held", "overdrawn")
Key = tuple[str | None, str | None, str | None]  # partition, project, principal
Account = dict[str, list[int]]  # by part; mu and delta
Entry = dict[str, Any]
OWN = (None, None, None)
ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
DAY, MONTH, MINUTE = timedelta(days=1), timedelta(days=30), timedelta(minutes=1)

STEWARDS = ("admin", "steward")
ROLES: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("run-approved", "run-refused", "run-started", "run-reported"), ("admin", "requester")
)
ROLES["run-voided"] = ROLES["run-settled"] = ("admin", "steward", "requester")


def fits(names: Iterable[str], shape: tuple[str, str]) -> bool:
    """Whether an object has the members that it must have, and no others than it can have."""
    required, optional = (set(names.split()) for names in shape)
    return required <= set(names) <= required | optional


# --- balances --------------------------------------------------------------------------------------------------------


def stated_in(entry: Entry) -> dict[Key, Account]:
    """The balances that an entry states."""
    found: dict[Key, Account] = {}
    for group in [*entry.get("accounts", ()), *([entry["balance"]] if "balance" in entry else [])]:
        for partition in group.get("partitions", [None]):
            key = (partition, group.get("project"), group.get("principal"))
            if key in found:
                raise ValueError("one account stands twice")
            found[key] = {part: amount(group[part]) for part in PARTS}
            if "slack" in group:
                found[key]["slack"] = [whole(group["slack"])]
    return found


# --- a journal -------------------------------------------------------------------------------------------------------


class Journal:
    """What a dataset's entries add up to, so far."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.header, self.prev, self.version, self.at = header, "0" * 64, 1, ""
        self.state, self.terms, self.is_partitioned, self.is_derived = "", ("", ""), False, False
        self.costing, self.seq = "standalone", 0
        self.rooms: dict[Key, Rooms] = {}
        self.batch: Batch | None = None
        self.limit: list[int] | None = None
        self.ceiling: list[int] | None = None
        self.fair: list[int] | None = None
        self.shares: dict[str, list[int]] = {}
        self.partitions: list[str] = []
        self.accounts: dict[Key, Account] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.proposals: dict[str, Entry | None] = {}
        self.rate: int | None = None
        self.waits: int | None = None
        self.guarded: list[tuple[Entry, str, bool]] = []  # what a policy decides about, and whether it is proposed

    def demand(self, holds: bool, what: str) -> None:
        """A rule."""
        if not holds:
            raise ValueError(what)

    def read(self, seq: int, line: str, request: str | None = None) -> None:
        """The next entry, and the request of the line before it, if there is one. Raises ValueError and others where it
        is none that could follow."""
        match = re.fullmatch(r'\{"seq":([1-9][0-9]*),"hash":"([0-9a-f]{64})","entry":(\{.*\})\}', line, re.DOTALL)
        self.demand(match is not None and match[1] == str(seq), "it is another line than one of an entry")
        assert match is not None
        entry = load(match[3])
        self.demand(hashlib.sha256(match[3].encode()).hexdigest() == match[2], "its hash is wrong")
        self.demand(canonical(entry) == match[3], "it is not in canonical form")
        self.follow(seq, entry)
        self.check_members(entry)
        if request is not None:
            self.demand("request_in" in entry, "a request that the entry does not name")
            self.demand(hashlib.sha256(request.encode()).hexdigest() == entry["request_sha256"], "another request")
            entry["request"] = load(request)
            self.demand(canonical(entry["request"]) == request, "a request that is not in canonical form")
        is_asked = entry["kind"] == "change-proposed" and entry["what"] == "run"
        may = ROLES["run-approved"] if is_asked else ROLES.get(entry["kind"], STEWARDS)
        self.demand(entry["actor"]["role"] in may, "a role that may not")
        touched: dict[Key, Account] = {OWN: dict(self.accounts[OWN])} if OWN in self.accounts else {}
        self.demand((entry["kind"] == "dataset-registered") == (seq == 1), "registered not once, and first")
        of = entry.get("together")
        follows = of == self.batch.stated if self.batch is not None else of is None or of["first"] == seq
        self.demand(follows, "a batch with a gap")
        touched |= getattr(self, entry["kind"].replace("-", "_"))(entry)
        for key, account in touched.items():
            self.ease(key, account)
            self.demand(not exceeds(over(account), account["overdrawn"]), "more than the limit")
        stated = {key: account | self.slack_of(key, account) for key, account in touched.items()}
        self.demand(stated_in(entry) == stated, "its balances are not what the entries add up to")
        self.accounts |= touched
        self.prev, self.at, self.version = match[2], entry["at"], entry["v"]
        self.state = entry.get("state", self.state)

    def rooms_of(self, key: Key) -> Rooms:
        """What the entries of an account leave to what is recorded late."""
        return self.rooms.setdefault(key, Rooms())

    def slack_of(self, key: Key, account: Account) -> dict[str, list[int]]:
        """What a balance says of it, if anything."""
        rooms = self.rooms_of(key).rooms
        return {"slack": [min(rooms[0][1], left(account)[0])]} if rooms else {}

    def beyond(self, key: Key, account: Account) -> list[int]:
        """By how much it is overdrawn: of the limit, or of what an entry rests on."""
        sums = over(account)
        missing = self.rooms_of(key).missing(account["limit"][0])
        return [max(sums[0], min(missing, account["spent"][0])), sums[1]]

    def ease(self, key: Key, account: Account) -> None:
        """What is overdrawn never grows by itself, and is no more than it needs."""
        account["overdrawn"] = [min(pair) for pair in zip(account["overdrawn"], self.beyond(key, account), strict=True)]

    def fits_late(self, key: Key, account: Account, place: int, cost: int) -> bool:
        """Whether so much of mu can be charged at a place."""
        return account["overdrawn"] == [0, 0] and cost <= self.rooms_of(key).slack(place, left(account)[0])

    def follow(self, seq: int, entry: Entry) -> None:
        """Whose it is, and what it follows."""
        self.demand(type(entry["v"]) is int and self.version <= entry["v"] <= 5, "an unknown or older version")
        self.demand(type(entry["seq"]) is int and (entry["seq"], entry["prev"]) == (seq, self.prev), "does not follow")
        self.demand(entry["tenant"] == self.header["tenant"]["id"], "another tenant's")
        self.demand(entry["dataset_id"] == self.header["dataset"]["id"], "another dataset's")
        self.demand(entry["dataset"] == self.header["dataset"]["name"], "of a dataset of another name")
        moment(entry["at"])
        self.demand(entry["v"] < 3 or entry["at"] >= self.at, "older than the one before")
        self.seq = seq

    def check_members(self, entry: Entry) -> None:
        """Which members there are, and of which form."""
        is_old, kind = entry["v"] == 1, entry["kind"]
        shapes = {1: MEMBERS_1, 2: MEMBERS_2, 3: MEMBERS_4, 4: MEMBERS_4, 5: MEMBERS}[entry["v"]]
        self.demand(kind in shapes, "an unknown kind")
        rest = set(entry) - COMMON - {"dataset", "dataset_id", "balance"} - (set() if is_old else {"accounts"})
        if entry["v"] > 3 and rest >= BY_DIGEST:
            self.demand("request" not in rest, "a request here and elsewhere")
            rest = rest - BY_DIGEST | {"request"}
            place = entry["request_in"]
            self.demand(fits(place, ("id dataset seq", "")) and type(place["seq"]) is int, "other members")
            self.demand(re.fullmatch(ID, place["id"], re.ASCII) is not None, "the id is none")
            is_elsewhere = isinstance(place["dataset"], str) and place["id"] != entry["dataset_id"] and place["seq"] > 0
            self.demand(is_elsewhere, "the request is nowhere else")
            self.demand(is_sha256(entry["request_sha256"]), "the request's digest is none")
        self.demand(fits(rest, shapes[kind]) and ("balance" in entry or not is_old), "other members")
        self.demand(all(fits(entry[name], shape) for name, shape in WITHIN.items() if name in entry), "other members")
        of_overrun = entry.get("overrun", {}).get("residual", {"base": "", "costs": ""})
        self.demand(fits(of_overrun, OF_OVERRUN), "other members of a table")
        self.demand(all(fits(group, GROUP) for group in entry.get("accounts", ())), "other members of a balance")
        for name, value in (entry | {"key": entry["actor"]["key"], "principal": entry["actor"]["principal"]}).items():
            if name in ("run", "about_run", "key", "principal"):
                self.demand(re.fullmatch(ID, value, re.ASCII) is not None, f"{name} is no id")
            self.demand(name not in TEXTS or isinstance(value, str), f"{name} is no text")
            is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
            self.demand(name not in LISTS or is_list, f"{name} is no list of texts")
            self.demand(name not in ONE_OF or value in ONE_OF[name], f"{name} is none that there is")
            self.demand(name not in FORMS or FORMS[name](value), f"{name} is in another form")
            self.demand(name != "is_partitioned" or isinstance(value, bool), f"{name} is neither yes nor no")
            self.demand(name != "request" or isinstance(value, dict), f"{name} is no object")
            self.demand(name not in ("independent", "accepts_weak_protection") or value is True, f"{name} is not yes")
            self.demand(name != "together" or all(type(one) is int and one > 0 for one in value.values()), "no batch")
            self.demand(name != "kept_for" or bool(value), f"{name} names nothing")
        if kind == "change-proposed":
            is_settled = entry["what"] == "correction" and "number" in entry["proposes"]
            shape = PROPOSES_CORRECTED if is_settled else PROPOSES[entry["what"]]
            self.demand(fits(entry["proposes"], shape), "proposes with other members")
            self.demand(entry["proposes"].get("lowers", True) is True, "lowers is not yes")
            is_of_run = entry["what"] in ("void", "correction", "run")
            self.demand(("about_run" in entry) == is_of_run, "proposes it of a run, or of none")
        elif kind != "proposal-refused" and "proposal" in entry:
            proposal = entry["proposal"]
            is_of_run = kind in ("run-approved", "run-refused")
            people = [proposal[name] for name in ("by", "approved_by") if name in proposal]
            self.demand(fits(proposal, SECONDED_RUN if is_of_run else SECONDED), "other members")
            self.demand(all(fits(one, WITHIN["actor"]) for one in people), "other members")
            self.demand(isinstance(proposal.get("reason", ""), str), "a reason that is no text")

    # --- the dataset

    def dataset_registered(self, entry: Entry) -> dict[Key, Account]:
        self.is_partitioned, self.is_derived = entry.get("is_partitioned", False), bool(entry.get("derived_from"))
        self.terms, self.costing = (entry["bound"], entry["adjacency"]), entry.get("costing", "standalone")
        self.demand(self.costing == "standalone" or entry["bound"] == "certified", "no certificates")
        for origin in entry.get("derived_from", ()):
            is_whole = set(origin) == {"id", "name", "unit_preserving"} and origin["unit_preserving"] is True
            self.demand(is_whole, "derived in another way")
        self.demand(entry["state"] == "active", "not active at first")
        self.demand(("ceiling" in entry) == ("ceiling_limit" in entry), "half a ceiling")
        self.demand((entry["budget"] is None) == (entry["limit"] is None), "half a budget")
        self.ceiling = amount(entry["ceiling_limit"]) if "ceiling_limit" in entry else None
        self.demand(entry["limit"] is not None or self.is_derived, "neither a budget nor an origin")
        if entry["limit"] is None:
            return {}
        limit = self.new_limit(entry)
        if not self.is_partitioned:
            return {OWN: fresh(limit)}
        names = list(stated_in(entry))
        self.demand(all(key[0] is not None and key[1:] == (None, None) for key in names), "somebody's account")
        self.partitions = [key[0] for key in names if key[0] is not None]
        return {key: fresh(limit) for key in names}

    def new_limit(self, entry: Entry) -> list[int]:
        """The dataset's limit, from here on."""
        self.limit = limit_of(entry["limit"])
        self.demand(self.ceiling is None or not exceeds(self.limit, self.ceiling), "above the ceiling")
        return self.limit

    def dataset_changed(self, entry: Entry) -> dict[Key, Account]:
        state = entry.get("state", self.state)
        self.demand(self.state != "retired" or state == "retired", "out of retirement")
        waits = any(run.get("reported") is not None and run["state"] == "started" for run in self.runs.values())
        self.demand(state != "active" or self.state == "active" or not waits, "opened while a number waits")
        if "costing" in entry:
            is_switched = self.costing == "standalone" and entry["costing"] == "residual"
            self.demand(is_switched and self.terms[0] == "certified", "another costing that it cannot have")
            is_idle = all(account["held"] == [0, 0] for account in self.accounts.values())
            self.demand(
                is_idle and bool(self.limit or self.shares), "another costing while runs are held, or of nothing"
            )
            self.costing = "residual"
        self.done(entry, "thaw", state == "active" and self.is_overdrawn())
        return {}

    def is_overdrawn(self) -> bool:
        """Whether to thaw it takes two people, if the policy asks for that."""
        return self.state != "active" and any(account["overdrawn"] != [0, 0] for account in self.accounts.values())

    def budget_set(self, entry: Entry) -> dict[Key, Account]:
        self.demand(self.limit is not None and amount(entry["limit_before"]) == self.limit, "another limit before")
        assert self.limit is not None
        self.done(entry, "budget", "lost" in entry or exceeds(amount(entry["limit"]), self.limit))
        is_fine = is_accounted(entry, self.limit, self.state) if "lost" in entry else "state" not in entry
        self.demand(is_fine, "a limit that does not account for what was lost")
        return self.limited(None, self.new_limit(entry))

    def limited(self, project: str | None, limit: list[int]) -> dict[Key, Account]:
        """The accounts with a new limit, which none of them may be above."""
        after: dict[Key, Account] = {}
        for key, account in self.accounts.items():
            if key[1:] == (project, None):
                is_used = add(account["spent"], account["held"]) != [0, 0]
                if self.costing == "residual" and exceeds(limit, account["limit"]) and is_used:
                    rooms, rest = self.rooms_of(key), left(account)
                    before = rooms.raised[1:] if rooms.raised[0] else rest
                    rooms.raised = self.seq, min(rest[0], before[0]), min(rest[1], before[1])
                after[key] = account | {"limit": limit}
        self.demand(not any(exceeds(over(account), [0, 0]) for account in after.values()), "more than the new limit")
        return after

    def partitions_added(self, entry: Entry) -> dict[Key, Account]:
        self.demand(self.state != "retired", "of a dataset that is retired")
        self.demand(self.is_partitioned and entry["disjoint"] is True, "not said to be disjoint")
        self.demand(self.limit is not None and amount(entry["limit"]) == self.limit, "another limit")
        self.done(entry, "partitions", True)
        names = entry["names"]
        self.demand(0 < len(names) == len(set(names)) and not set(names) & set(self.partitions), "not new")
        self.partitions += names
        return {(name, None, None): fresh(self.limit or []) for name in names}

    def project_set(self, entry: Entry) -> dict[Key, Account]:
        before, project = entry["limit_before"], entry["project"]
        self.demand((None if before is None else amount(before)) == self.shares.get(project), "another limit before")
        self.done(entry, "project", self.is_more_of(entry))
        self.shares[project] = limit_of(entry["limit"])
        return self.limited(project, self.shares[project])

    def fair_use_set(self, entry: Entry) -> dict[Key, Account]:
        use = entry["fair_use"]
        rate = use["runs_per_hour"]
        self.demand((use["held"] is None) == (use["limit"] is None), "half a limit")
        self.demand(rate is None or (type(rate) is int and rate > 0), "no number of runs")
        percent = use.get("waits_above_percent")
        is_part = type(percent) is int and 0 <= percent < 100
        self.demand(is_part or "waits_above_percent" not in use, "no part of a limit")
        self.done(entry, "fair-use", self.is_more_use(use))
        self.fair, self.rate = (None if use["limit"] is None else limit_of(use["limit"])), rate
        self.waits = percent
        return {}

    def is_more_of(self, entry: Entry) -> bool:
        """Whether a project may spend more than before; the first share lets it spend at all."""
        before = self.shares.get(entry["project"])
        return before is None or exceeds(amount(entry["limit"]), before)

    def is_more_use(self, use: dict[str, Any]) -> bool:
        """Whether one principal may hold or ask for more than before."""
        held, rate = use["limit"], use["runs_per_hour"]
        more_held = self.fair is not None and (held is None or exceeds(amount(held), self.fair))
        percent = use.get("waits_above_percent")
        more_held = more_held or (self.waits is not None and (percent is None or percent > self.waits))
        return more_held or (self.rate is not None and (rate is None or rate > self.rate))

    # --- two people

    def change_proposed(self, entry: Entry) -> dict[Key, Account]:
        proposes, what = entry["proposes"], entry["what"]
        self.demand(entry["proposal"] not in self.proposals, "proposed twice")
        self.demand(entry["approve_by"] == later(entry["at"], DAY), "not for a day")
        if what == "budget":
            self.demand(self.limit is not None and amount(proposes["limit_before"]) == self.limit, "another limit")
            is_more = "lost" in proposes or exceeds(amount(proposes["limit"]), self.limit or [0, 0])
            self.demand(is_more, "no more than before")
        elif what == "thaw":
            self.demand(proposes["state"] == "active" and self.is_overdrawn(), "takes no second person")
        elif what == "partitions":
            self.demand(self.is_partitioned and proposes["disjoint"] is True, "not to be added")
        elif what == "project":
            before = self.shares.get(proposes["project"])
            stated = proposes["limit_before"]
            self.demand((None if stated is None else amount(stated)) == before, "another limit")
            self.demand(self.is_more_of(proposes), "no more than before")
        elif what == "fair-use":
            self.demand(self.is_more_use(proposes["fair_use"]), "no more than before")
        elif what == "run":
            self.waiting(entry, proposes)
        elif what == "correction" and "number" in proposes:
            run = self.runs[entry["about_run"]]
            is_next = proposes["number"] == run["corrections"] + 1
            self.demand(run["state"] == "settled" and is_next, "not the next correction of a settled run")
        else:
            run = self.runs[entry["about_run"]]
            self.demand(run["state"] == "started", "of a run that was not started")
            self.demand(what == "void" or run.get("reported") is not None, "of a number that nobody reported")
        self.proposals[entry["proposal"]] = entry
        self.guarded += [] if what == "run" or "lowers" in proposes else [(entry, what, True)]
        return {}

    def waiting(self, entry: Entry, proposes: dict[str, Any]) -> None:
        """A run that asks for so much that it waits for a steward, of this dataset or another that it names."""
        run, names, project = entry["about_run"], proposes["waits_for"], proposes.get("project")
        self.demand(run == entry["proposal"] and run not in self.runs and self.state == "active", "not to be proposed")
        self.demand(proposes["request"].get("project") == project, "another project than asked for")
        self.demand(bool(names) and names == sorted(set(names)), "waits for nothing")
        limits = [limit for limit in (self.limit, self.shares.get(project or "")) if limit is not None]
        self.demand(entry["dataset"] not in names or self.is_much(proposes, limits), "waits, and need not")

    def is_much(self, facts: dict[str, Any], limits: Iterable[list[int]]) -> bool:
        """Whether a run takes more of a limit than one may take without a steward."""
        cost, part = amount(facts["cost"]), self.waits
        much = ([100 * a for a in cost], [[part * b for b in limit] for limit in limits] if part is not None else [])
        return any(exceeds(much[0], limit) for limit in much[1])

    def seconded(self, entry: Entry) -> None:
        """A run that waited, as it was asked for, approved by a steward who is another person."""
        stated, by = entry["proposal"], entry["proposal"]["approved_by"]
        proposed = self.answer(entry | {"actor": by}, stated["id"])
        proposes = proposed["proposes"]
        self.demand((proposed["what"], proposed["about_run"]) == ("run", entry["run"]), "another run than proposed")
        is_so = (stated["by"], stated["at"], entry["actor"]) == (proposed["actor"], proposed["at"], proposed["actor"])
        self.demand(is_so and by["role"] in STEWARDS, "not so proposed")
        if "request_sha256" in entry:
            digest = hashlib.sha256(canonical(proposes["request"]).encode()).hexdigest()
            self.demand(entry["request_sha256"] == digest, "another run than proposed")
        names = [name for name in OF_WAITING if name != "request" or name in entry]
        self.demand(all(entry.get(name) == proposes.get(name) for name in names), "another run than proposed")

    def proposal_refused(self, entry: Entry) -> dict[Key, Account]:
        self.demand(self.answer(entry, entry["proposal"])["what"] == entry["what"], "answers something else")
        return {}

    def answer(self, entry: Entry, proposal: str) -> Entry:
        """What was proposed, and is answered here, by another one and in time."""
        proposed = self.proposals[proposal]
        self.demand(proposed is not None, "answered twice")
        assert proposed is not None
        self.demand(proposed["actor"]["principal"] != entry["actor"]["principal"], "by one person alone")
        self.demand(entry["at"] < proposed["approve_by"], "too late")
        self.proposals[proposal] = None
        return proposed

    def done(self, entry: Entry, what: str, takes_two: bool) -> None:
        """It was proposed before, just so; or done by one person."""
        if "proposal" not in entry:
            self.guarded += [(entry, what, False)] if takes_two else []
            return
        proposed = self.answer(entry, entry["proposal"]["id"])
        stated = (entry["proposal"]["by"], entry["proposal"]["at"], entry["kind"], entry.get("run"))
        is_settled = proposed["what"] == "correction" and "number" in proposed["proposes"]
        kind = "run-corrected" if is_settled else DONE_BY[proposed["what"]]
        self.demand(stated == (proposed["actor"], proposed["at"], kind, proposed.get("about_run")), "not so proposed")
        self.demand(entry["actor"]["role"] in STEWARDS, "by no steward")
        compared = proposed["proposes"].keys() - {"limit_before", "lowers"}
        facts = {name: proposed["proposes"][name] for name in compared}
        if "request" in facts and "request_sha256" in entry:
            digest = hashlib.sha256(canonical(facts.pop("request")).encode()).hexdigest()
            self.demand(entry["request_sha256"] == digest, "something else than proposed")
        self.demand(all(entry.get(name) == value for name, value in facts.items()), "something else than proposed")

    # --- runs

    def run_approved(self, entry: Entry) -> dict[Key, Account]:
        if "request" in entry:
            valid_for = entry["request"].get("valid_for")
            wait = DAY if valid_for is None else duration(valid_for)
            self.demand(entry["start_by"] == later(entry["at"], wait), "another time to start")
        self.check_begin(entry, "start_by")
        touched, bound, cost = self.decided(entry)
        self.demand(not bound, "approved, and does not fit")
        limits = [account["limit"] for key, account in touched.items() if key[2] is None]
        self.demand("proposal" in entry or not self.is_much(entry, limits), "approved without a steward")
        self.demand("level" in entry.get("residual", {"level": 0}), "approved at no level")
        after = {key: account | {"held": add(account["held"], cost)} for key, account in touched.items()}
        rests = {key: left(account)[0] for key, account in after.items()}
        self.batch = in_batch(self.batch, entry, Table(cost, entry.get("residual")), rests)
        self.note(after, entry["seq"], self.runs[entry["run"]]["r"], {key: left(each) for key, each in after.items()})
        return after

    def note(self, touched: dict[Key, Account], seq: int, r: int, rests: dict[Key, list[int]]) -> None:
        """An entry rests on so much that was left, in each account but a principal's."""
        for key, account in touched.items() if r > 0 else ():
            if key[2] is None:
                self.rooms_of(key).note(seq, rests[key][0] - r, account["limit"][0])

    def run_refused(self, entry: Entry) -> dict[Key, Account]:
        touched, bound, _ = self.decided(entry)
        elsewhere = entry.get("binding_elsewhere", [])
        self.demand(entry["binding"] == bound, "refused for another reason")
        self.demand(elsewhere == sorted(set(elsewhere) - {entry["dataset"]}), "refused elsewhere in another form")
        self.demand(bool(bound or elsewhere), "refused, and fits")
        return touched

    def decided(self, entry: Entry) -> tuple[dict[Key, Account], list[str], list[int]]:
        """The accounts that a run charges, before it; the quantities in which it does not fit; its cost."""
        cost, who, run = amount(entry["cost"]), entry["actor"]["principal"], entry["run"]
        self.demand(self.state == "active" and run not in self.runs and min(cost) >= 0, "not to be decided")
        self.demand((entry["bound"], entry["adjacency"]) == self.terms, "other terms than the dataset's")
        touched: dict[Key, Account] = {}
        for scope in self.scopes(entry):
            limits: list[tuple[Key, list[int] | None]] = [((scope, None, None), self.limit)]
            share = self.shares.get(entry["project"]) if "project" in entry else None
            limits.append(((scope, entry.get("project"), None), share))
            limits.append(((scope, None, who), self.fair))
            for key, limit in limits:
                if limit is not None:
                    account = self.accounts.get(key, fresh(limit))
                    least = account["held"] if key[2] is not None else [0, 0]
                    touched[key] = account | {"limit": [max(pair) for pair in zip(limit, least, strict=True)]}
        table = Table(cost, entry.get("residual"))
        self.check_level(entry, table, [left(account)[0] for key, account in touched.items() if key[2] is None])
        lacks: set[str] = set()
        for key, account in touched.items():
            rest, is_plain = left(account), key[2] is not None or "residual" not in entry
            does_fit = cost[0] <= rest[0] if is_plain else table.level >= 0 or bool(table.fitting(rest[0]))
            lacks |= set() if does_fit else {"mu"}
            lacks |= {"delta"} if cost[1] > rest[1] else set()
        bound: list[str] = [name for name in ("mu", "delta") if name in lacks]
        state = "held" if entry["kind"] == "run-approved" else "refused"
        if "proposal" in entry:
            self.seconded(entry)
        run_facts = {
            "state": state,
            "cost": cost,
            "keys": [*touched],
            "who": who,
            "by": entry.get("start_by"),
            "project": entry.get("project"),
        }
        self.runs[run] = run_facts | {"r": table.r, "seq": entry["seq"]}
        return touched, bound, cost

    def check_level(self, entry: Entry, table: Table, rests: list[int]) -> None:
        """That a run is charged at the best level for what is left, here or in the dataset that is named."""
        if "residual" not in entry:
            return
        self.demand(not rests or self.costing == "residual", "beside what is left, and the dataset does not do that")
        another = table.facts.get("by")
        self.demand(another != entry["dataset"], "named as another one")
        if "level" not in table.facts:
            self.demand("by" not in table.facts, "somebody else's level, and none")
            return
        self.demand(not rests or table.level in table.fitting(min(rests)), "beside more than is left")
        is_best = bool(rests) and table.best(min(rests)) == table.level
        self.demand("together" in entry or is_best == ("by" not in table.facts), "not at the best level")

    def scopes(self, entry: Entry) -> list[Any]:
        """The partitions that the request names, here or by what reaches this dataset; or all; or the whole."""
        if "request" not in entry:  # it stands elsewhere, and is not given: by the balances
            if not self.is_partitioned:
                return [None]
            stated = {key[0] for key in stated_in(entry) if key[0] is not None}
            self.demand(bool(stated) or self.limit is None, "charged in no partition")
            self.demand(stated <= set(self.partitions), "partitions that there are not")
            return list(stated)
        request, named = entry["request"], None
        self.demand(entry.get("project") == request.get("project"), "another project than asked for")
        if entry["v"] > 1:
            uses = [use if isinstance(use, dict) else {"name": use} for use in request["datasets"]]
            by_name, via = {use["name"]: use.get("partitions") for use in uses}, entry["via"]
            self.demand(len(by_name) == len(uses), "a dataset is named twice")
            self.demand(0 < len(via) == len(set(via)) and set(via) <= set(by_name), "reached by what is not named")
            self.demand(entry["dataset"] not in by_name or via == [entry["dataset"]], "named, and reached otherwise")
            named = by_name[via[0]] if len(via) == 1 else None
            self.demand(named is None or 0 < len(named) == len(set(named)), "no partitions, or one twice")
        if not self.is_partitioned:
            is_own = entry["v"] > 1 and entry["dataset"] in entry["via"] and not self.is_derived
            self.demand(named is None or not is_own, "partitions of a dataset that has none")
            return [None]
        scopes = self.partitions if named is None else named
        self.demand(bool(scopes) and set(scopes) <= set(self.partitions), "partitions that there are not")
        return list(scopes)

    def moved(self, entry: Entry, *came_from: str) -> tuple[dict[str, Any], dict[Key, Account]]:
        """The run that an entry moves, as it was, and its accounts."""
        run = self.runs[entry["run"]]
        self.demand(run["state"] in came_from, "a run that cannot get there")
        self.runs[entry["run"]] = run | {"state": entry["kind"].removeprefix("run-")}
        return run, {key: dict(self.accounts[key]) for key in run["keys"]}

    def is_owner(self, entry: Entry, run: dict[str, Any]) -> bool:
        """Whether the run is the actor's own, or as if it were."""
        return bool(entry["actor"]["role"] == "admin" or entry["actor"]["principal"] == run["who"])

    def check_begin(self, entry: Entry, due: str) -> None:
        """Until when a job may begin by the receipt of an approval or a start."""
        if entry["v"] > 2:
            moment(entry["begin_by"])
            self.demand(entry["at"] <= entry["begin_by"] <= entry[due], "another time to begin")

    def run_started(self, entry: Entry) -> dict[Key, Account]:
        run, touched = self.moved(entry, "held")
        self.demand(self.state == "active" and self.is_owner(entry, run), "not to be started, or not by this one")
        self.demand(entry["at"] <= run["by"], "started too late")
        self.demand(entry["settle_by"] == later(entry["at"], MONTH), "another time to settle")
        self.check_begin(entry, "settle_by")
        return touched

    def run_voided(self, entry: Entry) -> dict[Key, Account]:
        run, touched = self.moved(entry, "held", "started")
        is_started = run["state"] == "started"
        may = entry["actor"]["role"] in STEWARDS or (not is_started and self.is_owner(entry, run))
        is_free = "independent" in entry
        if "request" in entry:
            self.demand(entry["request"].get("data_independent", False) == is_free, "not what was stated")
        kept = self.kept(entry, run, touched, is_free)
        self.demand(may and add(amount(entry["returned"]), kept) == run["cost"], "not by this one, or another amount")
        self.demand(kept in ([0, 0], run["cost"]), "a part is kept")
        self.done(entry, "void", is_started)
        self.give_back(entry, run, touched, kept, is_free or kept != [0, 0])
        return touched

    def kept(self, entry: Entry, run: dict[str, Any], touched: dict[Key, Account], is_free: bool) -> list[int]:
        """What a run does not give back, because less is left than it rests on, here or elsewhere."""
        self.demand(("kept" in entry) == ("kept_for" in entry), "kept for nothing")
        rests = [left(account)[0] for key, account in touched.items() if key[2] is None]
        is_short = not is_free and run["r"] > 0 and any(rest < run["r"] for rest in rests)
        names = entry.get("kept_for", [])
        self.demand((entry["dataset"] in names) == is_short, "kept for another reason")
        if not names:
            return [0, 0]
        self.demand(not is_free and run["r"] > 0 and names == sorted(set(names)), "kept for no reason")
        kept: list[int] = amount(entry["kept"])
        self.demand(min(kept) >= 0 and max(kept) > 0, "nothing kept")
        return kept

    def give_back(
        self, entry: Entry, run: dict[str, Any], touched: dict[Key, Account], charged: list[int], is_free: bool
    ) -> None:
        """The accounts after a run was charged so much of what it held."""
        if not is_free:
            self.note(touched, entry["seq"], run["r"], {key: left(account) for key, account in touched.items()})
        for key, account in touched.items():
            account["held"] = add(account["held"], run["cost"], -1)
            if key[2] is None:
                account["spent"] = [min(value, INT64_MAX) for value in add(account["spent"], charged)]
            self.ease(key, account)

    def charge_late(
        self, entry: Entry, over_run: dict[str, Any], run: dict[str, Any], touched: dict[Key, Account]
    ) -> bool:
        """Charge at its run's place what was executed beyond a plan. Return whether an account here is overdrawn."""
        cost = amount(over_run["cost"])
        table, place = Table(cost, over_run.get("residual")), run["seq"]
        own = {key: account for key, account in touched.items() if key[2] is None}
        if "residual" in over_run:
            self.demand(not own or self.costing == "residual", "beside what is left, and the dataset does not do that")
            self.demand(table.level >= 0 or bool(over_run["frozen"]), "at no level, and fits")
            for key, account in own.items() if table.level >= 0 else ():
                rest = self.rooms_of(key).rest_at(place, left(account)[0])
                is_enough = table.r + cost[0] <= rest and self.fits_late(key, account, place, cost[0])
                self.demand(is_enough, "at a level that does not fit")
        is_beyond = False
        for key, account in own.items():
            is_beyond |= self.late_in(entry, key, account, cost, table.r, place)
        return is_beyond

    def late_in(self, entry: Entry, key: Key, account: Account, cost: list[int], r: int, place: int) -> bool:
        """Charge one account at a place. Return whether it is overdrawn by that."""
        is_little = cost[1] <= self.rooms_of(key).delta_at(place, left(account)[1])
        does_fit = self.fits_late(key, account, place, cost[0]) and is_little
        self.rooms_of(key).charge(place, cost, r)
        account["spent"] = [min(value, INT64_MAX) for value in add(account["spent"], cost)]
        self.note({key: account}, entry["seq"], r, {key: left(account)})
        if not does_fit:
            most = zip(account["overdrawn"], self.beyond(key, account), strict=True)
            account["overdrawn"] = [max(pair) for pair in most]
        return not does_fit

    def passes(self, touched: dict[Key, Account], over_run: dict[str, Any]) -> bool:
        """Whether an overrun is more than a whole limit, other than a principal's."""
        cost = amount(over_run["cost"])
        return any(key[2] is None and exceeds(cost, account["limit"]) for key, account in touched.items())

    def run_reported(self, entry: Entry) -> dict[Key, Account]:
        run, touched = self.moved(entry, "started")
        over_run = entry["overrun"]
        self.demand(self.is_owner(entry, run) and "is_reported" not in run, "not by this one, or a second time")
        self.demand(entry["state"] == ("retired" if self.state == "retired" else "frozen"), "not frozen")
        Table(amount(over_run["cost"]), over_run.get("residual"))
        named = entry["dataset"] in over_run["beyond_limits"]
        self.demand(bool(over_run["beyond_limits"]) and named == self.passes(touched, over_run), "another limit passed")
        self.runs[entry["run"]] |= {"state": "started", "is_reported": True, "reported": entry.get("request")}
        return touched

    def run_settled(self, entry: Entry) -> dict[Key, Account]:
        run, touched = self.moved(entry, "started")
        request, over_run, is_reported = entry.get("request"), entry.get("overrun"), "is_reported" in run
        report = entry.get("report")
        self.demand(report in (("confirmed", "corrected") if is_reported else (None,)), "answers no report")
        may = entry["actor"]["role"] in STEWARDS if is_reported else self.is_owner(entry, run)
        self.demand(may, "not by this one")
        request = run["reported"] if report == "confirmed" else request
        self.done(entry, "correction", report == "corrected")
        huge = entry["v"] > 2 and over_run is not None and self.passes(touched, over_run)
        self.demand(is_reported or not huge, "no budget covers it, and it was not reported")
        if request is not None:
            for name in ("steps", "stop"):
                self.demand(request.get(name) in (None, entry[name]), f"other {name} than were sent")
            for name in ("restarts", "models"):
                self.demand(entry.get(name) == request.get(name), f"other {name} than were stated")
        charged, returned = amount(entry["charged"]), amount(entry["returned"])
        beyond = [0, 0] if over_run is None else amount(over_run["cost"])
        planned = add(charged, beyond, -1)
        is_all = add(returned, amount(entry.get("kept", {"mu_sq_pico": "0", "delta_atto": "0"}))) == [0, 0]
        is_free = entry["stop"] != "data_dependent" or is_all
        kept = self.kept(entry, run, touched, is_free)
        self.demand(kept == [0, 0] or returned == [0, 0], "a part of the rest is kept")
        self.demand(add(planned, returned) == run["cost"] and min(returned) >= 0, "not what was approved")
        self.demand(not exceeds(kept, planned), "more kept than charged")
        self.give_back(entry, run, touched, planned, is_free or kept != [0, 0])
        again = Table(beyond, over_run.get("residual")).r if over_run is not None else 0
        self.runs[entry["run"]] |= {"charged": charged, "corrections": 0, "r": max(run["r"], again)}
        is_beyond = over_run is not None and self.charge_late(entry, over_run, run, touched)
        froze = ("retired" if self.state == "retired" else "frozen") if is_beyond else None
        self.demand(entry.get("state") == froze, "frozen for nothing, or not frozen")
        if over_run is not None:
            self.demand((entry["dataset"] in over_run["frozen"]) == is_beyond, "what was overdrawn is not said")
            self.demand(over_run["fits"] is (not over_run["frozen"]), "whether it fits is not said")
        return touched

    run_corrected, run_entered = corrected, entered


# --- an export -------------------------------------------------------------------------------------------------------


def header_of(line: str) -> dict[str, Any]:
    """The first line. Raises ValueError."""
    header = json.loads(line, object_pairs_hook=once)
    keys = {"keys"} if header["version"] > 1 else set()
    names = {"format", "version", "tenant"} | keys
    if header["format"] != "privacy-ledger-export" or header["version"] not in (1, 2, 3):
        raise ValueError("unknown format")
    if type(header["version"]) is not int or set(header) - {"dataset"} != names:
        raise ValueError("other members")
    for part in ("tenant", "dataset"):
        if part in header and (set(header[part]) != {"id", "name"} or not re.fullmatch(ID, header[part]["id"])):
            raise ValueError("other members")
    found: dict[str, Any] = header
    return found


def verify(lines: list[str], tenant: list[str] | None = None) -> tuple[int, dict[Key, Account]]:
    """Return (entries, accounts), or raise ValueError naming the first entry that is wrong."""
    seq = 0
    try:
        journal = Journal(header_of(lines[0]))
        request: str | None = None
        for line in lines[1:-1]:
            match = re.fullmatch(r'\{"request":(\{.*\})\}', line, re.DOTALL)
            if match is not None and request is None and journal.header["version"] > 2:
                request, seq = match[1], seq + 1
                continue
            seq += request is None
            journal.read(seq, line, request)
            request = None
        journal.demand(request is None, "a request before no entry")
        head = json.loads(lines[-1], object_pairs_hook=once)["head"]
        journal.demand(type(head["seq"]) is int and (head["seq"], head["hash"]) == (seq, journal.prev), "another head")
        policies = [] if tenant is None else policies_of(tenant, journal.header["tenant"]["id"])
        for entry, what, is_proposal in journal.guarded if tenant is not None else ():
            seq = entry["seq"]
            journal.demand(is_allowed(policies, entry, what, is_proposal), "not as the policy of its time asked")
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"{seq}: {error}") from error
    return seq, journal.accounts


def policies_of(lines: list[str], tenant: str) -> list[tuple[str, set[str], bool]]:
    """From when on what took two people, and whether the policy is of the time when it did not say for what."""
    prev, policies = "0" * 64, list[tuple[str, set[str], bool]]()
    if header_of(lines[0])["tenant"]["id"] != tenant or "dataset" in header_of(lines[0]):
        raise ValueError("the export is none of this tenant's own journal")
    for seq, line in enumerate(lines[1:-1], start=1):
        entry, body = load(line)["entry"], line.split('"entry":', 1)[1][:-1]
        if (entry["seq"], entry["prev"], entry["tenant"]) != (seq, prev, tenant):
            raise ValueError("the tenant's own journal does not follow")
        prev = hashlib.sha256(body.encode()).hexdigest()
        if entry["kind"] == "policy-set":
            guards = set(entry.get("guards", GUARDED_AT_FIRST)) if entry["second_steward"] else set[str]()
            policies.append((entry["at"], guards, entry["second_steward"] and "guards" not in entry))
    if load(lines[-1])["head"]["hash"] != prev:
        raise ValueError("the tenant's own journal has another head")
    return policies


def is_allowed(policies: list[tuple[str, set[str], bool]], entry: Entry, what: str, is_proposal: bool) -> bool:
    """Whether what took two people then is proposed, and what took one is done. An entry before version 3 may be by the
    policy of a minute ago; one of the very moment of a policy by that or by the one before."""
    since = entry["at"] if entry["v"] > 2 else later(entry["at"], -MINUTE)
    before = [policy for policy in policies if policy[0] < since][-1:] or [("", set(), False)]
    meanwhile = [policy for policy in policies if since <= policy[0] <= entry["at"]]
    return any(
        (what in guards) == is_proposal or (is_older and what not in guards)
        for _, guards, is_older in (*before, *meanwhile)
    )


if __name__ == "__main__":
    exports = [pathlib.Path(name).read_text(encoding="utf-8").split("\n")[:-1] for name in sys.argv[1:3]]
    print(*verify(*exports))
