"""Datasets, their origins, and the projects that have a share of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, insert, or_, select, update

from ledger.core.books import Books
from ledger.core.commands import Register
from ledger.core.datasets import NO_FAIR_USE, Dataset, Definition, Least, Project
from ledger.core.entries import NO_HASH
from ledger.core.journal import chain
from ledger.store.days import DayWriter
from ledger.store.repository import Repository
from ledger.store.rows import amount_row, dataset_of, definition_of, project_of
from ledger.store.tables import datasets, lineage, places, projects, runs

_CHANGE: Final = update(datasets).where(
    datasets.c.tenant_id == bindparam("tenant"), datasets.c.id == bindparam("dataset")
)


class DatasetReader(Repository):
    """Reads datasets and projects."""

    def definitions(
        self, *, names: Collection[str] = (), ids: Collection[UUID] = (), with_ancestors: bool = False
    ) -> list[Definition]:
        """Return the datasets of these names and ids; with_ancestors: with all that they are derived from."""
        is_named = or_(datasets.c.name.in_(names), datasets.c.id.in_(ids))
        rows = self.connection.execute(select(datasets).where(self._registered(), is_named)).all()
        lines = self._lineage([row.id for row in rows])
        definitions = [definition_of(row, lines.get(row.id, ())) for row in rows]
        if with_ancestors and lines:
            missing = {id_ for definition in definitions for id_ in definition.ancestors} - {row.id for row in rows}
            definitions += self.definitions(ids=missing) if missing else []
        return definitions

    def by_name(self, name: str) -> Dataset | None:
        rows = self.by_names([name])
        return rows[0] if rows else None

    def by_names(self, names: Sequence[str]) -> list[Dataset]:
        """Return those of these datasets that exist."""
        return self._datasets(select(datasets).where(datasets.c.name.in_(names)))

    def page(self, *, after: str | None, limit: int, only: frozenset[str] | None) -> list[Dataset]:
        """Return datasets by name, the first after `after`; only: those names, or None for all."""
        query = select(datasets).order_by(datasets.c.name).limit(limit)
        if after is not None:
            query = query.where(datasets.c.name > after)
        if only is not None:
            query = query.where(datasets.c.name.in_(sorted(only)))
        return self._datasets(query)

    def behind(self, *, seq_max: int, limit: int) -> list[Dataset]:
        """Return datasets with residual costs whose least limit is older than their journal, the shortest first.
        seq_max: none with a longer journal."""
        is_counted = and_(datasets.c.costing == "residual", datasets.c.limit_mu_sq_pico.is_not(None))
        is_old = or_(datasets.c.least_seq.is_(None), datasets.c.least_seq < datasets.c.seq)
        query = select(datasets).where(is_counted, is_old, datasets.c.seq <= seq_max)
        return self._datasets(query.order_by(datasets.c.seq, datasets.c.id).limit(limit))

    def existing_names(self, names: Sequence[str]) -> set[str]:
        """Return which of these names exist."""
        query = select(datasets.c.name).where(datasets.c.tenant_id == self.tenant_id, datasets.c.name.in_(names))
        return set(self.connection.execute(query).scalars())

    def name_page(self, *, after: str | None, limit: int) -> list[tuple[str, UUID]]:
        """Return names and ids of datasets by name; other columns are not read."""
        query = select(datasets.c.name, datasets.c.id).where(
            datasets.c.tenant_id == self.tenant_id, datasets.c.name > (after or "")
        )
        return [(row.name, row.id) for row in self.connection.execute(query.order_by(datasets.c.name).limit(limit))]

    def by_ids(self, dataset_ids: Sequence[UUID]) -> list[Dataset]:
        """Return those of these datasets that exist."""
        return self._datasets(select(datasets).where(datasets.c.id.in_(dataset_ids)))

    def names_of(self, dataset_ids: Sequence[UUID]) -> dict[UUID, str]:
        """Return the names of these datasets, by id."""
        query = select(datasets.c.id, datasets.c.name).where(
            datasets.c.tenant_id == self.tenant_id, datasets.c.id.in_(dataset_ids)
        )
        return {row.id: row.name for row in self.connection.execute(query)}

    def end(self, dataset_id: UUID) -> tuple[int, bytes] | None:
        """Return the number and hash of a dataset's newest entry, by its row; None if there is no row."""
        mine = datasets.c.tenant_id == self.tenant_id, datasets.c.id == dataset_id
        row = self.connection.execute(select(datasets.c.seq, datasets.c.head).where(*mine)).one_or_none()
        return None if row is None else (row.seq, bytes(row.head))

    def ids_derived_from(self, dataset_id: UUID) -> set[UUID]:
        """Return the ids of the datasets that are derived from this one, directly or through others."""
        query = select(lineage.c.dataset_id).where(
            lineage.c.tenant_id == self.tenant_id, lineage.c.ancestor_id == dataset_id
        )
        return set(self.connection.execute(query).scalars())

    def projects(self, dataset_ids: Collection[UUID], names: Collection[str] | None = None) -> list[Project]:
        """Return the projects that have a share of these datasets, by name; names: only those, or None for all."""
        query = select(projects).where(projects.c.tenant_id == self.tenant_id, projects.c.dataset_id.in_(dataset_ids))
        if names is not None:
            query = query.where(projects.c.name.in_(names))
        return [project_of(row) for row in self.connection.execute(query.order_by(projects.c.name))]

    def names_in_project(self, project: str) -> frozenset[str]:
        """Return the names of the datasets in which a project has a share or runs."""
        with_share = select(projects.c.dataset_id).where(
            projects.c.tenant_id == self.tenant_id, projects.c.name == project
        )
        with_runs = (
            select(places.c.dataset_id)
            .join(runs, and_(runs.c.tenant_id == places.c.tenant_id, runs.c.id == places.c.run_id))
            .where(places.c.tenant_id == self.tenant_id, runs.c.tenant_id == self.tenant_id, runs.c.project == project)
        )
        is_in_project = or_(datasets.c.id.in_(with_share), datasets.c.id.in_(with_runs))
        query = select(datasets.c.name).where(self._registered(), is_in_project)
        return frozenset(self.connection.execute(query).scalars())

    def _registered(self) -> ColumnElement[bool]:
        # A dataset that is being registered has seq 0 until its transaction ends; other transactions never see it so.
        return and_(datasets.c.tenant_id == self.tenant_id, datasets.c.seq > 0)

    def _datasets(self, query: Select[Any]) -> list[Dataset]:
        rows = self.connection.execute(query.where(self._registered())).all()
        lines = self._lineage([row.id for row in rows])
        return [dataset_of(row, lines.get(row.id, ())) for row in rows]

    def names_derived_from(self, dataset_id: UUID, *, only: frozenset[str] | None, limit: int) -> list[str]:
        """Return the names of datasets that are derived from this one, directly or through others, in order. only:
        among these names."""
        query = (
            select(datasets.c.name)
            .join(lineage, and_(lineage.c.tenant_id == datasets.c.tenant_id, lineage.c.dataset_id == datasets.c.id))
            .where(lineage.c.tenant_id == self.tenant_id, lineage.c.ancestor_id == dataset_id)
        )
        if only is not None:
            query = query.where(datasets.c.name.in_(only))
        return list(self.connection.execute(query.order_by(datasets.c.name).limit(limit)).scalars())

    def _lineage(self, dataset_ids: Sequence[UUID]) -> dict[UUID, list[Row[Any, Any, Any, Any]]]:
        query = (
            select(lineage.c.dataset_id, lineage.c.ancestor_id, lineage.c.position, datasets.c.name)
            .join(datasets, and_(datasets.c.tenant_id == lineage.c.tenant_id, datasets.c.id == lineage.c.ancestor_id))
            .where(lineage.c.tenant_id == self.tenant_id, lineage.c.dataset_id.in_(dataset_ids))
        )
        lines: dict[UUID, list[Row[Any, Any, Any, Any]]] = {}
        for row in self.connection.execute(query) if dataset_ids else ():
            lines.setdefault(row.dataset_id, []).append(row)
        return lines


class DatasetWriter(DatasetReader):
    """Adds datasets, and saves the changes of a decision to them and their projects."""

    def claim_names(self, commands: Sequence[Register]) -> set[UUID]:
        """Insert the rows of new datasets, by name. Return the ids of those whose name was free."""
        won: set[UUID] = set()
        for command in sorted(commands, key=lambda command: command.definition.name):
            row = {"tenant_id": self.tenant_id, **_new_row(command)}
            new = self.connection.execute(self._insert_new(datasets).returning(datasets.c.id), [row]).scalars().all()
            if new:
                self._add_lineage(command.definition)
                DayWriter(self.connection, self.tenant_id).open(
                    command.definition, has_budget=command.limit is not None
                )
            won.update(new)
        return won

    def _add_lineage(self, definition: Definition) -> None:
        positions = {parent.id: position for position, parent in enumerate(definition.derived_from)}
        rows = [
            {
                "tenant_id": self.tenant_id,
                "dataset_id": definition.id,
                "ancestor_id": ancestor_id,
                "position": positions.get(ancestor_id),
            }
            for ancestor_id in definition.ancestors
        ]
        if rows:
            self.connection.execute(insert(lineage), rows)

    def keep_least(self, dataset_id: UUID, least: Least) -> None:
        """Keep a least limit, unless a newer one is kept."""
        mine = datasets.c.tenant_id == self.tenant_id, datasets.c.id == dataset_id
        is_newer = or_(datasets.c.least_seq.is_(None), datasets.c.least_seq < least.seq)
        row = {"least_seq": least.seq, **amount_row("least", least.amount)}
        self.connection.execute(update(datasets).where(*mine, is_newer).values(row))

    def save(self, before: Books, after: Books, heads: Mapping[UUID, bytes]) -> None:
        """Write the changed datasets and projects. heads: the journals' new hashes."""
        self._save_datasets([row for id_, row in after.datasets.items() if row != before.datasets.get(id_)], heads)
        self._save_projects([row for key, row in after.projects.items() if row != before.projects.get(key)])

    def _save_datasets(self, changed: Sequence[Dataset], heads: Mapping[UUID, bytes]) -> None:
        rows = [
            {
                "tenant": self.tenant_id,
                "dataset": dataset.id,
                "title": dataset.title,
                "description": dataset.description,
                "budget": None if dataset.budget is None else chain.canonical(dataset.budget),
                **amount_row("limit", dataset.limit),
                "fair_use": None if dataset.fair_use == NO_FAIR_USE else chain.canonical(dataset.fair_use.facts()),
                "state": dataset.state,
                "seq": dataset.seq,
                "head": heads[dataset.id],
                "created_us": dataset.created_us,
                "costing": dataset.costing,
            }
            for dataset in changed
        ]
        if rows:
            self.connection.execute(_CHANGE, rows)

    def _save_projects(self, changed: Sequence[Project]) -> None:
        for project in changed:
            row = {"budget": chain.canonical(project.budget), **amount_row("limit", project.limit)}
            key = {"tenant_id": self.tenant_id, "dataset_id": project.dataset_id, "name": project.name}
            statement = self._insert(projects).on_conflict_do_update(
                index_elements=["tenant_id", "dataset_id", "name"], set_=row
            )
            self.connection.execute(statement, [{**key, **row}])


def _new_row(command: Register) -> dict[str, Any]:
    """Return the row of a dataset before its first entry."""
    definition = command.definition
    return {
        "id": definition.id,
        "name": definition.name,
        "title": command.title,
        "description": command.description,
        "privacy_unit": definition.privacy_unit,
        "adjacency": definition.adjacency,
        "bound": definition.bound,
        "size": definition.size,
        "is_partitioned": int(definition.is_partitioned),
        **amount_row("ceiling", definition.ceiling),
        "budget": None if command.budget is None else chain.canonical(command.budget),
        **amount_row("limit", command.limit),
        "costing": command.costing,
        "state": "active",
        "seq": 0,
        "head": NO_HASH,
        "created_us": 0,
    }
