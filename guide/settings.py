"""The reference of the settings, from their declaration."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from guide.markdown import code, sentence, table
from ledger.settings import Settings

UNITS = {
    "seconds": "seconds",
    "seconds_max": "seconds",
    "bytes_max": "bytes",
    "bytes_held_max": "bytes",
    "bytes_held_per_tenant_max": "bytes",
    "bytes_per_second_min": "bytes a second",
    "per_second": "requests a second",
    "burst": "requests",
    "sign_ins": "wrong keys a minute",
    "requests_max": "requests",
    "requests_per_tenant_max": "requests",
    "queue_max": "requests",
    "group_max": "requests",
    "connections_max": "connections",
    "streams_max": "reports and exports",
    "streams_per_tenant_max": "reports and exports",
    "streams_per_key_max": "reports and exports",
    "reports_at_once": "reports",
    "computing_processes": "processes",
    "refusals_per_hour": "refused runs an hour",
    "workers": "processes",
    "threads": "threads",
    "port": "",
}
"""The unit of a number, by how the name of its setting ends."""
KINDS = {"tuple": "a list, separated by commas", "Path": "a path", "SecretStr": "text (secret)"}
"""What else a setting takes, by its type."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{Settings.model_config['env_prefix']}{name.upper()}"


def page() -> str:
    """The page: a row for each setting."""
    rows = [
        (code(variable(name)), sentence(field.description or ""), _values(name, field), _default(field))
        for name, field in Settings.model_fields.items()
    ]
    return f"""# Settings

Set them in the environment of `privacy-ledger serve`, `init`, `migrate` and `check`, or in a file `.env` in the working
directory. The environment has precedence. The server reads them when it starts.

{table(("setting", "meaning", "values", "default"), rows)}
[Limits](../how-to/limits.md) explains the settings that keep callers from each other. They hold for each process.

The client and the command line read `LEDGER_URL`, the address of the server, `LEDGER_KEY`, your key, and
`LEDGER_ALLOW_HTTP`. With `LEDGER_ALLOW_HTTP=1` they send the key over `http://` to another machine too; [otherwise
they refuse](../how-to/keys.md#send-keys-only-over-tls).
"""


def unit(name: str) -> str:
    """The unit of a setting, or nothing."""
    return next((UNITS[end] for end in sorted(UNITS, key=len, reverse=True) if name.endswith(end)), "")


def _values(name: str, field: FieldInfo) -> str:
    return (
        _choices(field)
        or _range(name, field)
        or next((words for kind, words in KINDS.items() if kind in str(field.annotation)), "text")
    )


def _choices(field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    return " or ".join(code(choice) for choice in choices)


def _range(name: str, field: FieldInfo) -> str:
    limits = _limits(field)
    if "gt" in limits:
        return f"more than {limits['gt']:,}, at most {limits['le']:,} {unit(name)}"
    return f"{limits['ge']:,} to {limits['le']:,} {unit(name)}" if "ge" in limits else ""


def _limits(field: FieldInfo) -> dict[str, Any]:
    """The bounds of a number, also if it can be left out."""
    metadata = [*field.metadata]
    for part in get_args(field.annotation):
        metadata += [item for info in get_args(part) if isinstance(info, FieldInfo) for item in info.metadata]
    return {name: getattr(item, name) for item in metadata for name in ("gt", "ge", "le") if hasattr(item, name)}


def _default(field: FieldInfo) -> str:
    default = field.default
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default is None or default == ():
        return "not set"
    return code(default)
