"""The reference of the command line, from Typer's own tree of commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from guide.markdown import anchor, code, codes, sentence, table
from ledger.cli import app, failing

PROGRAM = "privacy-ledger"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by what you type."""
    yield from _below(PROGRAM, get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part in command.commands.values():
        if not part.hidden:
            yield from _below(f"{name} {part.name}", part)


def page() -> str:
    """The page: a table of all commands, then each with its arguments and options."""
    every = list(commands())
    rows = ((f"[{code(name)}](#{anchor(name)})", _short(command)) for name, command in every)
    statuses = "\n".join(f"| {status} | {text} |" for status, text in failing.STATUSES.items())
    text = f"""# Command line

Commands ask the server at `LEDGER_URL` with the key in `LEDGER_KEY`, or those of a
[profile](../how-to/keys.md#log-in) that `{PROGRAM} login` stored. `--profile`, `--url` and `--key-file` come before the
command: `{PROGRAM} --profile work runs`. `serve`, `init`, `migrate`, `check` and `signing-key` work on the database and
its key file, with the [settings](settings.md) of the server. `verify`, `receipt verify`, `proof verify`, `recompute`
and `registry` read files and ask nobody.

`--help` prints what is on this page. `--json` prints JSON for scripts: an object; a list as
`{{"items": […], "more": false}}`; an error as a problem (`type`, `title`, `code`, `detail` and its facts) on standard
output. `{PROGRAM} --install-completion` installs completion for your shell. Commands that make a key show it in a
terminal, and otherwise [keep it in a file](../how-to/keys.md#where-a-new-key-is-shown). A key is [not sent over
`http://`](../how-to/keys.md#send-keys-only-over-tls) to another machine.

Control characters, terminal sequences and marks that change the direction of writing are printed escaped (`\\u001b`),
in answers, errors and `--json`.

| exit status | meaning |
|---|---|
{statuses}

{table(("command", "does"), rows)}"""
    return text + "".join(f"\n## {code(name)} {{ #{anchor(name)} }}\n\n{_command(command)}" for name, command in every)


def _short(command: Any) -> str:
    return sentence((command.help or "").partition("\n\n")[0])


def _command(command: Any) -> str:
    parts = [sentence(command.help or "")]
    if command.params:
        parts.append(table(("argument or option", "", "meaning"), map(_parameter, _shown(command.params))))
    return "\n\n".join(parts)


def _shown(parameters: list[Any]) -> list[Any]:
    return [one for one in parameters if not getattr(one, "hidden", False) and one.name != "help"]


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        names = code(parameter.metavar or str(parameter.name).upper())
    else:
        names = codes([*parameter.opts, *parameter.secondary_opts])
    notes = ["required"] if parameter.required else []
    if parameter.multiple:
        notes.append("can be repeated")
    return names, ", ".join(notes), _meaning(parameter)


def _meaning(parameter: Any) -> str:
    text = sentence(parameter.help or "")
    default = parameter.default
    if default is None or callable(default) or isinstance(default, bool) or default in ("", (), []):
        return text
    return f"{text} Default: {code(default)}."
