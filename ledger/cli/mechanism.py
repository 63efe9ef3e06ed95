"""The options that declare a mechanism: a field of each of the client's classes is an option of the same name."""

from __future__ import annotations

import csv
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from decimal import Decimal
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import typer

from ledger.cli import completion
from ledger.cli.options import given_fields, number_option, numbers_option, optional_object, parsed, text_of
from ledger.client.mechanisms import BY_TYPE, Composed, merged
from ledger.errors import InvalidRequest

TYPES: Final = tuple(type_ for type_, mechanism in BY_TYPE.items() if mechanism is not Composed)
"""The values of `--type`. A composed mechanism is declared with `--mechanism`."""
_RENAMED: Final = {name: f"mechanism_{name}" for name in ("epsilon", "delta", "mu")}
"""Fields whose name is already an option of the commands."""
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "dpsgd": {"sampling": "poisson"},
    "dpsgd_schedule": {"sampling": "poisson"},
}
"""What is sent for an option that was left out, if the server has no default for it."""
_STARTS: Final[Mapping[str, Any]] = {
    "noise_multiplier": 1,
    "steps": 1,
    "epochs": 1,
    "epsilon": 1,
    "mu": 1,
    "rho": 1,
    "sample_rate": Decimal("0.01"),
}
"""Where the search for a parameter begins that was left out. The value that is found does not depend on it."""
_DURATIONS: Final = frozenset({"steps", "epochs"})
"""Two options for how long a training is; a mechanism has one of them."""
_COLUMNS: Final = frozenset({"noise_multiplier", "sample_rate", "steps"})


def option_of(field: str) -> str:
    """Return the option that sets a field of a mechanism."""
    return "--" + _RENAMED.get(field, field).replace("_", "-")


def takes_mechanism(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that declare a mechanism. It gets the mechanism as its argument `declared`."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "declared"]

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        declared = _declared(**{name: arguments.pop(name) for name in _OPTIONS})
        command(declared=declared, **arguments)

    required = [parameter for parameter in own if parameter.default is parameter.empty]
    optional = [parameter for parameter in own if parameter.default is not parameter.empty]
    together = [*required, *_OPTIONS.values(), *optional]
    with_options.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in together}
    return with_options


def _declared(type_: str, whole: str | None, **options: Any) -> dict[str, Any]:
    """Return the mechanism that these options declare."""
    given = given_fields(**options)
    if whole is not None:
        if given:
            raise InvalidRequest(
                "--mechanism and the options of a mechanism exclude each other. Give one or the other.",
                field="mechanism",
            )
        return optional_object(whole, "mechanism") or {}
    if "phases" in given:
        given["phases"] = _phases(given["phases"])
    return {"type": type_, **_DEFAULTS.get(type_, {}), **given}


def started(declared: Mapping[str, Any], solve_for: str) -> dict[str, Any] | None:
    """Return a mechanism with a value of the parameter to solve for, if it can have one and it was left out; else
    None."""
    mechanism = BY_TYPE.get(declared.get("type", ""))
    given = _DURATIONS if solve_for in _DURATIONS else {solve_for}
    if mechanism is None or given & declared.keys() or solve_for not in _STARTS:
        return None
    if solve_for == "steps" and "epochs" in declared:  # they are its epochs, as the server reads it
        return None
    # One that has a default value was not left out.
    if all(field.name != solve_for or field.default not in (MISSING, None) for field in fields(mechanism)):
        return None
    return {**declared, solve_for: _STARTS[solve_for]}


def _phases(text: str) -> Any:
    """Parse the phases of a schedule: JSON, or a file as @FILE, which is CSV if its name ends so. Raises
    InvalidRequest."""
    source = text_of(text, "phases")
    if not (text.startswith("@") and text.lower().endswith(".csv")):
        return parsed(source, "phases")
    rows = csv.DictReader(source.splitlines())
    names = set(rows.fieldnames or ())
    if names not in (_COLUMNS, _COLUMNS - {"steps"}):
        raise InvalidRequest(
            "phases: the first line of a CSV file must name the columns noise_multiplier,sample_rate,steps, or without "
            f"steps if each line is one step; it is {','.join(rows.fieldnames or ())!r}",
            field="phases",
        )
    return merged(_phase(row, rows.line_num) for row in rows)


def _phase(row: Mapping[str, Any], line: int) -> dict[str, Any]:
    try:
        noise, rate, steps = Decimal(row["noise_multiplier"]), Decimal(row["sample_rate"]), int(row.get("steps", 1))
    except (ArithmeticError, TypeError, ValueError):
        raise InvalidRequest(
            f"phases: line {line} is not a noise multiplier, a sample rate and a whole number of steps", field="phases"
        ) from None
    return {"noise_multiplier": noise, "sample_rate": rate, "steps": steps}


# --- the options -----------------------------------------------------------------------------------------------------


def _options() -> Iterator[inspect.Parameter]:
    types = f"The kind of mechanism: {TYPES[0]} (the default), {', '.join(TYPES[1:-1])} or {TYPES[-1]}."
    yield _parameter(
        "type_", str, typer.Option("--type", help=types, autocompletion=completion.mechanism_type), default=TYPES[0]
    )
    descriptions: dict[str, tuple[Any, str]] = {}
    users: dict[str, list[str]] = {}
    for type_ in TYPES:
        hints = get_type_hints(BY_TYPE[type_], include_extras=True)
        for field in fields(BY_TYPE[type_]):
            users.setdefault(field.name, []).append(type_)
            if get_origin(hints[field.name]) is Annotated:
                descriptions[field.name] = get_args(hints[field.name])
    for name, (hint, description) in descriptions.items():
        help_ = description if TYPES[0] in users[name] else f"{description} For {', '.join(users[name])}."
        yield _field_parameter(name, hint, help_)
    whole = typer.Option("--mechanism", help="The whole mechanism as JSON, or @FILE, instead of its options.")
    yield _parameter("whole", str | None, whole)


def _field_parameter(name: str, hint: Any, help_: str) -> inspect.Parameter:
    kinds = {hint, *get_args(hint)}
    items = [get_args(kind)[0] for kind in kinds if get_origin(kind) is Sequence]
    if items and get_origin(items[0]) is not Mapping:
        return _parameter(name, str | None, numbers_option(help_, option_of(name)))
    if Decimal in kinds:
        return _parameter(name, Decimal | None, number_option(help_, option_of(name)))
    return _parameter(name, int | None if int in kinds else str | None, typer.Option(option_of(name), help=help_))


def _parameter(name: str, type_: Any, option: Any, *, default: Any = None) -> inspect.Parameter:
    annotation = Annotated[type_, option]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


_OPTIONS: Final = {parameter.name: parameter for parameter in _options()}
