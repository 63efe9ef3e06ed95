"""Past runs: what was spent before there was a ledger, read from where it is known.

    from ledger.client import past

    runs = [run for _, run in past.from_csv(Path("runs.csv").read_text())]
    runs = [past.from_opacus(past.history_in("model.pt"), version="1.5.3", adaptive_clipping=False, sampling="poisson")]
    runs = [past.from_event(event, adjacency="add_or_remove_one")]
    runs = [past.from_statement(epsilon=1, delta=1e-6)]
    ledger.past_runs("mnist", runs, reason="the team's notes", preview=True)

A run is a dict with `mechanism`, and perhaps `purpose`, `ran_at`, `library`, `version`, `partitions` and `evidence`.
Nothing here runs code from a file: a checkpoint is read for its numbers alone.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger.client.dp_events import from_dp_event
from ledger.client.mechanisms import Number
from ledger.deferred import Deferred
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    import torch
else:
    torch = Deferred("torch")

RUNS_MAX: Final = 1_000
BYTES_MAX: Final = 1_000_000
_ABOUT: Final = ("purpose", "ran_at", "library", "version", "size_differs")
_OWN: Final = ("mechanism", "partitions", "evidence_json", *_ABOUT)
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_VERSION: Final = re.compile(r"([0-9]+)\.([0-9]+)(\.[0-9A-Za-z.+-]+)?")
_STATE: Final = "privacy_accountant_state_dict"
"""Where `PrivacyEngine.save_checkpoint` puts the history."""
_LESS: Final = 1 - 2.0**-40
"""Far more than the error of the few operations that it makes up for."""


# --- a table of runs -------------------------------------------------------------------------------------------------


def from_csv(text: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the runs of a CSV file with a header, each with its line.

    The column `mechanism` has its type, such as gaussian, or the whole mechanism as a JSON object. `purpose`, `ran_at`,
    `library`, `version`, `size_differs`, `partitions` (separated by spaces) and `evidence_json` are about the run;
    every other column is a field of the mechanism. An empty cell is left out. Raises InvalidRequest, which names every
    wrong line and column.
    """
    if len(text.encode()) > BYTES_MAX:
        raise InvalidRequest(f"csv: has more than {BYTES_MAX:,} bytes. Enter it in several files", field="csv")
    reader = csv.DictReader(io.StringIO(text), strict=True)
    runs: list[tuple[int, dict[str, Any]]] = []
    mistakes: list[str] = []
    try:
        _demand_header(reader.fieldnames or ())
        for cells in reader:
            if len(runs) == RUNS_MAX:
                raise InvalidRequest(f"csv: has more than {RUNS_MAX:,} runs. Enter it in several files", field="csv")
            runs.append((reader.line_num, _of_row(cells, reader.line_num, mistakes)))
    except csv.Error as error:
        raise InvalidRequest(f"csv: line {reader.line_num}: {error}", field="csv") from None
    if not runs:
        raise InvalidRequest("csv: has no runs below its header", field="csv")
    if mistakes:
        raise InvalidRequest(f"csv: {'; '.join(mistakes)}. Nothing was sent", field="csv")
    return runs


def _demand_header(names: Sequence[str]) -> None:
    if "mechanism" not in names:
        raise InvalidRequest(
            "csv: line 1: the column mechanism is missing. The first line names the columns, such as"
            " purpose,ran_at,mechanism,noise_multiplier",
            field="csv",
        )
    if len(set(names)) < len(names) or not all(names):
        raise InvalidRequest("csv: line 1: has a column without a name, or one twice. Name each once", field="csv")


def _of_row(cells: Mapping[str | None, Any], line: int, mistakes: list[str]) -> dict[str, Any]:
    """Return the run of a row, and add to the mistakes what is wrong with it."""
    if None in cells or None in cells.values():
        mistakes.append(f"line {line}: has another number of cells than the header. Add or remove commas")
        return {}
    given = {str(name): str(value).strip() for name, value in cells.items() if str(value).strip()}
    run: dict[str, Any] = {name: given[name] for name in _ABOUT if name in given}
    fields = {name: _value(value) for name, value in given.items() if name not in _OWN}
    if "partitions" in given:
        run["partitions"] = given["partitions"].split()
    if "evidence_json" in given:
        run["evidence"] = _object(given["evidence_json"], line, "evidence_json", mistakes)
    stated = given.get("mechanism", "")
    if not stated:
        mistakes.append(f"line {line}, column mechanism: is empty. State its type, such as gaussian")
    elif stated.startswith("{"):
        if fields:
            mistakes.append(f"line {line}, column {next(iter(fields))}: must be empty beside a whole mechanism")
        run["mechanism"] = _object(stated, line, "mechanism", mistakes)
    else:
        run["mechanism"] = {"type": stated, **fields}
    return run


def _value(text: str) -> Any:
    """Return the number, truth value or text that a cell has."""
    if _NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else Decimal(text)
    return {"true": True, "false": False}.get(text, text)


def _object(text: str, line: int, column: str, mistakes: list[str]) -> Any:
    try:
        value = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        mistakes.append(f'line {line}, column {column}: is no JSON object. In a cell, write " twice')
    return value


# --- Opacus ----------------------------------------------------------------------------------------------------------


def history_in(path: str | Path) -> list[Any]:
    """Return the history of the accountant in a checkpoint of Opacus, or in a JSON file of its state.

    Reads a checkpoint with torch, which must be installed, and only its numbers and tensors: no code from the file is
    run. Raises InvalidRequest.
    """
    data = Path(path).read_bytes()
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            return _history(json.loads(data, parse_float=Decimal), path)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"checkpoint: {path} is no JSON: {error}", field="checkpoint") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds, by the file
        raise InvalidRequest(
            f"checkpoint: {path} cannot be read without running code from it. Where it was made, write"
            ' json.dumps({"history": accountant.history}) to a file, and give that',
            field="checkpoint",
        ) from error
    return _history(state, path)


def _history(state: Any, path: str | Path) -> list[Any]:
    inner = state.get(_STATE, state) if isinstance(state, Mapping) else state
    history = inner.get("history") if isinstance(inner, Mapping) else inner
    if not isinstance(history, list) or not history:
        raise InvalidRequest(
            f"checkpoint: {path} has no history of an accountant. Save it with PrivacyEngine.save_checkpoint, or as"
            ' {"history": [[noise_multiplier, sample_rate, steps], …]}',
            field="checkpoint",
        )
    return history


def from_opacus(
    history: Sequence[Sequence[Any]],
    *,
    version: str,
    sampling: str,
    adaptive_clipping: bool | None = None,
    unclipped_num_std: Number | None = None,
) -> dict[str, Any]:
    """Return the run of an accountant's history: (noise multiplier, sample rate, steps) for each phase.

    version: the oldest Opacus that trained any part of it. Before 1.6, adaptive clipping recorded the noise of the
    gradients alone, which is more than the whole run had. So whether it was used must be stated, and with it the
    `unclipped_num_std` of the optimizer. sampling: "poisson", "shuffle" or "fixed_size". Raises InvalidRequest.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise InvalidRequest(f"version: {version!r} is no version of Opacus. State it as 1.5.4", field="version")
    is_old = (int(match[1]), int(match[2])) < (1, 6)
    if is_old and adaptive_clipping is None:
        raise InvalidRequest(
            f"adaptive_clipping: is missing. With Opacus {version} it decides what the history means: state whether"
            " clipping was adaptive (AdaClipDPOptimizer)",
            field="adaptive_clipping",
        )
    spread = unclipped_num_std if is_old and adaptive_clipping else None
    if is_old and adaptive_clipping and spread is None:
        raise InvalidRequest(
            f"unclipped_num_std: is missing. With adaptive clipping, Opacus {version} recorded the noise of the"
            " gradients alone; state the noise of the count too, as the optimizer had it",
            field="unclipped_num_std",
        )
    phases = [_phase(entry, number, spread) for number, entry in enumerate(history, start=1)]
    phases = [(*pair, sum(steps for *_, steps in same)) for pair, same in groupby(phases, key=lambda one: one[:2])]
    parts = [{"noise_multiplier": noise, "sample_rate": rate, "steps": steps} for noise, rate, steps in phases]
    whole = {"type": "dpsgd", **parts[0]} if len(parts) == 1 else {"type": "dpsgd_schedule", "phases": parts}
    options = {"adaptive_clipping": adaptive_clipping, "unclipped_num_std": unclipped_num_std}
    stated = {name: value for name, value in options.items() if value is not None}
    return {
        "mechanism": {**whole, "sampling": sampling},
        "library": "opacus",
        "version": version,
        **({"evidence": {"options": stated}} if stated else {}),
    }


def _phase(entry: Any, number: int, spread: Number | None) -> tuple[Any, Any, int]:
    is_phase = isinstance(entry, list | tuple) and len(entry) == 3
    if not is_phase or not all(isinstance(value, int | float | Decimal) and value > 0 for value in entry):
        raise InvalidRequest(
            f"history.{number}: is not a noise multiplier, a sample rate and a number of steps, all above 0",
            field="history",
        )
    noise, rate, steps = entry
    if steps != int(steps):
        raise InvalidRequest(f"history.{number}: {steps} is no whole number of steps", field="history")
    return noise if spread is None else _whole_noise(float(noise), float(spread)), rate, int(steps)


def _whole_noise(noise: float, spread: float) -> float:
    """Return the noise of gradients and count together, rounded down (Andrew et al. 2021, Theorem 1)."""
    if spread <= 0:
        raise InvalidRequest("unclipped_num_std: must be above 0", field="unclipped_num_std")
    return _LESS / math.sqrt(noise**-2 + (2 * spread) ** -2)


# --- events and statements -------------------------------------------------------------------------------------------


def from_event(event: Any, *, adjacency: Any) -> dict[str, Any]:
    """Return the run of a dp-accounting `DpEvent`, or of its JSON. adjacency: that of the dataset."""
    return {"mechanism": from_dp_event(event, adjacency=adjacency), "library": "dp-accounting"}


def from_statement(*, epsilon: Number, delta: Number | None = None) -> dict[str, Any]:
    """Return the run of which only its (epsilon, delta) is known. Without delta it is pure."""
    if not delta:
        return {"mechanism": {"type": "pure_dp", "epsilon": epsilon}}
    return {"mechanism": {"type": "approximate_dp", "epsilon": epsilon, "delta": delta}}
