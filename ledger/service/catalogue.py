"""From the names in a request to the datasets that it touches: which names the key sees, and which roots they reach.

The definition of a dataset never changes, and a dataset is never removed, so definitions are remembered.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cachetools import LRUCache

from ledger.core.datasets import Adjacency, Bound, Dataset, Definition
from ledger.core.people import Actor
from ledger.core.runs import Use
from ledger.errors import Forbidden, InvalidRequest, NotFound, UnitMismatch
from ledger.service.requests.runs import DatasetUse
from ledger.store import Reading, Store

DEFINITIONS_MAX: Final = 10_000
USES_ON_LOOP_MAX: Final = 64
"""The most datasets and partitions that are resolved at once on the event loop."""

_LookUp = Callable[[UUID, Sequence[str | UUID]], dict[str | UUID, Definition]]


class _UnreadError(Exception):
    """A definition is not in memory."""


def no_dataset(name: str, *, meant: str | None = None) -> NotFound:
    """Return the error for a dataset that does not exist or that the caller may not see; both get the same text. meant:
    the dataset that the caller sees and that was probably meant."""
    hint, facts = ("", {}) if meant is None else (f" Did you mean {meant}?", {"did_you_mean": meant})
    return NotFound(
        f"No dataset is named {name!r}, or your key may not see it.{hint} GET /v1/datasets lists those that it sees.",
        dataset=name,
        **facts,
    )


NAMED_MAX: Final = 5
"""How many projects of a key an error names. All of them are in `projects`."""


def demand_sight(actor: Actor, name: str) -> None:
    """Raise NotFound if the caller's key is limited to other datasets."""
    if not actor.sees(name):
        raise no_dataset(name)


def demand_project_of_key(actor: Actor, project: str | None) -> None:
    """Raise Forbidden if the caller's key is limited to other projects."""
    if actor.projects is not None and project not in actor.projects:
        allowed = sorted(actor.projects)
        more = f" and {len(allowed) - NAMED_MAX:,} more" if len(allowed) > NAMED_MAX else ""
        named = "none" if project is None else f"{project!r}"
        raise Forbidden(
            (
                f"This key is limited to the projects {', '.join(allowed[:NAMED_MAX])}{more}, and the request names"
                f" {named}. Set `project` to one of them, or ask an admin for another key."
            ),
            projects=allowed,
        )


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a request touches: the datasets that it names, in that order, then their ancestors, by name."""

    uses: tuple[Use, ...]
    definitions: dict[UUID, Definition]
    bound: Bound
    adjacency: Adjacency


class Catalogue:
    """Finds definitions, in memory if they were read before."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known = LRUCache[tuple[UUID, str | UUID], Definition](DEFINITIONS_MAX)

    async def resolve(self, actor: Actor, datasets: Sequence[DatasetUse]) -> Resolved:
        """Return `resolve_now`, at once if it is little work and in memory, else in a thread."""
        if sum(1 + len(use.partitions or ()) for use in datasets) <= USES_ON_LOOP_MAX:
            with suppress(_UnreadError):
                return self._resolve(actor, datasets, self._remembered)
        return await asyncio.to_thread(self.resolve_now, actor, datasets)

    def resolve_now(self, actor: Actor, datasets: Sequence[DatasetUse]) -> Resolved:
        """Return what a run on these datasets touches.

        Raises NotFound; InvalidRequest if one root is reached twice or partitions of an unpartitioned dataset are
        named; and UnitMismatch.
        """
        return self._resolve(actor, datasets, self._look_up)

    def _resolve(self, actor: Actor, datasets: Sequence[DatasetUse], look_up: _LookUp) -> Resolved:
        names = [use.name for use in datasets]
        for name in names:
            demand_sight(actor, name)
        named = _named(look_up(actor.tenant_id, names), names)
        for index, definition in enumerate(named):
            if definition in named[:index]:
                raise InvalidRequest(
                    f"datasets: names {definition.name} twice; name each dataset once", field="datasets"
                )
        ancestors = {id_ for definition in named for id_ in definition.ancestors}
        reached = look_up(actor.tenant_id, list(ancestors))
        if len(reached) < len(ancestors):
            raise ArithmeticError("an ancestor of a dataset is missing: its runs would not be charged")
        in_order = (*named, *sorted(reached.values(), key=lambda definition: definition.name))
        definitions = {definition.id: definition for definition in in_order}
        via = _demand_apart(named, definitions)
        bound, adjacency = demand_one_unit(named)
        stated = {
            definition.id: None if use.partitions is None else tuple(use.partitions)
            for definition, use in zip(named, datasets, strict=True)
        }
        uses = tuple(
            Use(id_, _partitions(definition, [stated[d.id] for d in via[id_]]), tuple(d.name for d in via[id_]))
            for id_, definition in definitions.items()
        )
        for definition in named:
            lineage = [definitions[id_] for id_ in (definition.id, *definition.ancestors)]
            if stated[definition.id] and not any(origin.is_partitioned for origin in lineage):
                raise InvalidRequest(
                    f"datasets: {definition.name} has no partitions; leave out `partitions`", field="datasets"
                )
        return Resolved(uses, definitions, bound, adjacency)

    async def named(self, actor: Actor, names: Sequence[str]) -> list[Definition]:
        """Return the definitions of these names, in order. Raises NotFound."""
        return _named(await asyncio.to_thread(self._look_up, actor.tenant_id, names), names)

    def _remembered(self, tenant_id: UUID, keys: Sequence[str | UUID]) -> dict[str | UUID, Definition]:
        """Return the definitions if all are in memory, else raise _UnreadError."""
        with self._lock:
            known = {key: self._known[tenant_id, key] for key in keys if (tenant_id, key) in self._known}
        if len(known) < len(set(keys)):
            raise _UnreadError
        return known

    def _look_up(self, tenant_id: UUID, keys: Sequence[str | UUID]) -> dict[str | UUID, Definition]:
        """Return the definitions that exist for these names or ids."""
        with self._lock:
            known = {key: self._known[tenant_id, key] for key in keys if (tenant_id, key) in self._known}
        missing = [key for key in keys if key not in known]
        if not missing:
            return known
        read = self._read(tenant_id, missing)
        by_key = {key: definition for definition in read for key in (definition.name, definition.id)}
        return known | {key: by_key[key] for key in missing if key in by_key}

    def _read(self, tenant_id: UUID, keys: Sequence[str | UUID]) -> list[Definition]:
        names = [key for key in keys if isinstance(key, str)]
        ids = [key for key in keys if isinstance(key, UUID)]
        with self._store.reading(tenant_id) as reading:
            definitions = reading.datasets.definitions(names=names, ids=ids, with_ancestors=True)
        with self._lock:
            for definition in definitions:
                self._known[tenant_id, definition.name] = self._known[tenant_id, definition.id] = definition
        return definitions


def _named(definitions: dict[str | UUID, Definition], names: Sequence[str]) -> list[Definition]:
    for name in names:
        if name not in definitions:
            raise no_dataset(name)
    return [definitions[name] for name in names]


def find_dataset(reading: Reading, actor: Actor, name: str) -> Dataset:
    """Return the dataset of this name, in an open transaction. Raises NotFound."""
    demand_sight(actor, name)
    dataset = reading.datasets.by_name(name) if "\x00" not in name else None
    if dataset is None:
        raise no_dataset(name)
    return dataset


def find_definition(reading: Reading, actor: Actor, name: str) -> Definition:
    """Return a dataset's definition, in an open transaction. Raises NotFound."""
    demand_sight(actor, name)
    for definition in reading.datasets.definitions(names=[name]):
        return definition
    raise no_dataset(name)


def _demand_apart(named: Sequence[Definition], definitions: dict[UUID, Definition]) -> dict[UUID, list[Definition]]:
    """Return for each dataset the named datasets that reach it. Two named datasets may not reach the same root: one
    unit could be in both, and would be used twice in a run that is charged once."""
    via: dict[UUID, list[Definition]] = {id_: [] for id_ in definitions}
    for definition in named:
        for id_ in (definition.id, *definition.ancestors):
            via[id_].append(definition)
    for id_, reached_by in via.items():
        if len(reached_by) > 1 and not definitions[id_].ancestors:
            root, names = definitions[id_].name, [definition.name for definition in reached_by]
            raise InvalidRequest(
                (
                    f"datasets: {' and '.join(names)} have units of {root} in common, which would be used twice"
                    f" and charged once; name {root} itself, or one dataset that is derived from all of them"
                ),
                field="datasets",
                root=root,
                via=names,
                instead=[root],
            )
    return via


def _partitions(definition: Definition, stated: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    if not definition.is_partitioned:
        return ()
    if len(stated) == 1:
        return stated[0]
    # Only a dataset in between can be reached by several that share no root, and none of those is partitioned.
    return None


def demand_one_unit(together: Sequence[Definition]) -> tuple[Bound, Adjacency]:
    """Return the bound and unit that datasets of one run have in common. Raises UnitMismatch."""
    first = together[0]
    for other in together[1:]:
        for field in ("privacy_unit", "adjacency", "bound"):
            if getattr(other, field) != getattr(first, field):
                raise UnitMismatch(
                    (
                        f"{first.name} and {other.name} differ in {field}. Datasets that are used together must"
                        " have the same privacy unit, adjacency and bound."
                    ),
                    what=field,
                    datasets=[{"name": used.name, field: getattr(used, field)} for used in (first, other)],
                )
    return first.bound, first.adjacency
