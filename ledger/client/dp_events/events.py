"""The members of an event, without its library: of an object, of its named tuple, or of JSON.

dp-accounting writes events as named tuples (`to_named_tuple`), which carry the name of their class, and has no JSON.
The JSON here is that of these tuples: an object with `class_name` and the fields. `module_name` may be there; it is
compared and never imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.errors import InvalidMechanism

LIBRARY: Final = "dp_accounting"
DEPTH_MAX: Final = 50
NODES_MAX: Final = 50_000
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "NoOpDpEvent": (),
    "NonPrivateDpEvent": (),
    "UnsupportedDpEvent": (),
    "RandomizedResponseDpEvent": ("noise_parameter", "num_buckets"),
    "GaussianDpEvent": ("noise_multiplier",),
    "LaplaceDpEvent": ("noise_multiplier",),
    "DiscreteLaplaceDpEvent": ("noise_parameter", "sensitivity"),
    "SelfComposedDpEvent": ("event", "count"),
    "ComposedDpEvent": ("events",),
    "PoissonSampledDpEvent": ("sampling_probability", "event"),
    "SampledWithReplacementDpEvent": ("source_dataset_size", "sample_size", "event"),
    "SampledWithoutReplacementDpEvent": ("source_dataset_size", "sample_size", "event"),
    "SingleEpochTreeAggregationDpEvent": ("noise_multiplier", "step_counts"),
    "RepeatAndSelectDpEvent": ("event", "mean", "shape"),
    "MixtureOfGaussiansDpEvent": ("standard_deviation", "sensitivities", "sampling_probs"),
    "ZCDpEvent": ("rho", "xi"),
    "TruncatedSubsampledGaussianDpEvent": (
        *("dataset_size", "sampling_probability", "truncated_batch_size", "noise_multiplier"),
    ),
}
"""The fields of every event of dp-accounting 0.6."""
_DEFAULTS: Final = {("ZCDpEvent", "xi"): 0}


@dataclass(frozen=True, slots=True)
class Event:
    """One node of a tree. path: of the node within the event that was given, for errors. nodes: one item for each node
    of the tree that was read."""

    name: str
    members: Mapping[str, Any]
    path: str
    nodes: list[None] = field(repr=False, compare=False)

    def inner(self) -> Event:
        """Return the event in the field `event`. Raises InvalidMechanism."""
        return read(self.members["event"], f"{self.path}.event", self.nodes)

    def each(self) -> Iterator[Event]:
        """Yield the events in the field `events`. Raises InvalidMechanism."""
        items = self.members["events"]
        if not isinstance(items, Sequence) or isinstance(items, str):
            raise self.refused("events must be a list")
        for index, item in enumerate(items):
            yield read(item, f"{self.path}.events[{index}]", self.nodes)

    def refused(self, why: str) -> InvalidMechanism:
        """Return the error that this event has no mechanism, or is not valid."""
        return InvalidMechanism(f"{self.path}: {self.name}: {why}", field=self.path)


def read(value: Any, path: str = "event", nodes: list[None] | None = None) -> Event:
    """Return an event that was given as an object, a named tuple or JSON.

    Raises InvalidMechanism if it is none of dp-accounting's events, has other fields, or is too deep or too large.
    """
    nodes = [] if nodes is None else nodes
    nodes.append(None)
    if len(nodes) > NODES_MAX:
        raise InvalidMechanism(f"event: has more than {NODES_MAX:,} events. Repeat by a count.", field="event")
    if path.count(".") > DEPTH_MAX:
        raise InvalidMechanism(f"event: is nested more than {DEPTH_MAX} deep. Compose it flat.", field="event")
    name, module, given = _parts(value, path)
    if name not in FIELDS or (module is not None and module.partition(".")[0] != LIBRARY):
        where = f"{module}.{name}" if module else name
        raise InvalidMechanism(
            f"{path}: {where[:80]!r} is no event of dp-accounting that is known here. Declare the mechanism itself.",
            field=path,
        )
    members = {known: given.get(known, _DEFAULTS.get((name, known))) for known in FIELDS[name]}
    wrong = sorted((set(given) - set(members)) | {known for known, member in members.items() if member is None})
    if wrong:
        raise InvalidMechanism(
            f"{path}: {name} has the fields {', '.join(FIELDS[name]) or '(none)'}; wrong or missing: "
            f"{', '.join(wrong)[:200]}",
            field=path,
        )
    return Event(name, members, path, nodes)


def _parts(value: Any, path: str) -> tuple[str, str | None, dict[str, Any]]:
    """Return the name of an event's class, its module if that is known, and its fields."""
    if isinstance(value, Mapping):
        members = {str(name): member for name, member in value.items()}
    elif hasattr(value, "_asdict"):
        members = value._asdict()
    elif hasattr(type(value), "__attrs_attrs__"):
        names = [attribute.name for attribute in type(value).__attrs_attrs__]
        return type(value).__name__, type(value).__module__, {name: getattr(value, name) for name in names}
    else:
        members = {}
    name, module = members.pop("class_name", None), members.pop("module_name", None)
    if not isinstance(name, str | bytes):
        raise InvalidMechanism(
            f"{path}: is no event. Give a DpEvent, what its to_named_tuple() returns, or an object with class_name and "
            "the fields.",
            field=path,
        )
    return _text(name), None if module is None else _text(module), members


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def to_json(event: Any) -> dict[str, Any]:
    """Return an event as an object for JSON, which `from_dp_event` and `privacy-ledger dp-event` read.

    Raises InvalidMechanism as `from_dp_event` does for what is no event.
    """
    node = read(event)
    return _written(node)


def _written(node: Event) -> dict[str, Any]:
    written: dict[str, Any] = {"class_name": node.name}
    for name, value in node.members.items():
        if name == "event":
            written[name] = _written(node.inner())
        elif name == "events":
            written[name] = [_written(event) for event in node.each()]
        else:
            written[name] = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return written
