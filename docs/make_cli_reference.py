"""Writes cli.md from the commands themselves and the schemas of their output: uv run python docs/make_cli_reference.py"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any, Final

import click

from tierwise.surfaces.cli.common import config_option, json_option, store_option
from tierwise.surfaces.cli.group import COMMANDS, cli
from tierwise.surfaces.cli.manual import EVERYWHERE, WRONG, read_manual
from tierwise.surfaces.cli.outputs import OUTPUTS, PARTS
from tierwise.surfaces.cli.source import source_options

PAGE: Final = Path(__file__).with_name("cli.md")
COLUMNS: Final = 200

INTRODUCTION: Final = """# Command line

Every command of `tierwise`, made from the commands themselves by `docs/make_cli_reference.py`. `tierwise COMMAND --help` says
the same in a terminal.

- **Data goes to stdout, everything else to stderr**: notes, questions, progress. Colour and progress bars appear on a terminal
  only; `NO_COLOR=1` does without colour.
- **`--json` prints one JSON document** ([its shape](#json) stands with each command), `watch --json` and `calls --nl` one a line.
- **Nothing changes unasked.** What writes a route asks first, unless `--yes` answers; without a terminal and without `--yes` it
  is an error. `--dry-run` looks only.
- **Errors say what is wrong, where, and what to do.** `TIERWISE_DEBUG=1` shows where in the code.

"""

COMPLETION: Final = """## Shell completion

Commands, options and their words, tasks, models, and receipts of the latest calls: from the store, the policy and the route
file that the line names or that are in force. Only what a shell takes as a plain word is offered.

| shell | put this line into | line |
| --- | --- | --- |
| bash 4.4 or newer | `~/.bashrc` | `eval "$(_TIERWISE_COMPLETE=bash_source tierwise)"` |
| zsh | `~/.zshrc`, after `compinit` | `eval "$(_TIERWISE_COMPLETE=zsh_source tierwise)"` |
| fish | `~/.config/fish/completions/tierwise.fish` | `_TIERWISE_COMPLETE=fish_source tierwise \\| source` |

The line starts tierwise once for each new shell. To save that, write what it prints into a file and source the file instead:

```bash
_TIERWISE_COMPLETE=bash_source tierwise > ~/.tierwise-complete.bash
```

"""

JSON: Final = """## JSON

Each document has a JSON Schema (draft 2020-12), which the tests hold it to and from which the tables below are made:

```console
tierwise schema --output plan > plan.schema.json
tierwise schema --output "store status"
```

Units stand in the names: `_usd`, `_s` (seconds), `_ns` (Unix nanoseconds), `_bytes`; `at`, `since` and other times are Unix
seconds; rates and shares lie in [0, 1]. `null` is unknown, infinite or not there, never a guess. An error (exit code 2) is text
on stderr and leaves stdout empty, but for `validate` and `watch`, whose documents hold the errors. A schema describes its own
version of tierwise; later ones may add fields, so read those that you know and leave the rest. In the tables `tasks[].n` is field
`n` of each entry of the list `tasks`, and `models.*.runs` field `runs` under each name in `models`.

"""


def page() -> str:
    """The whole page as Markdown."""
    server = [_name_of(option) for option in _options_of(source_options)]
    parts = [INTRODUCTION, _commands(), _exits(), COMPLETION, JSON, *_common()]
    context = click.Context(cli, info_name="tierwise", terminal_width=COLUMNS, max_content_width=COLUMNS)
    for name, (module, _) in COMMANDS.items():
        command: click.Command = import_module(module).command
        parts += _section(command, name, context, server)
        if isinstance(command, click.Group):
            own = click.Context(command, info_name=name, parent=context)
            for part in command.list_commands(own):
                parts += _section(command.commands[part], f"{name} {part}", own, server)
    return "".join([*parts, *_records()]).rstrip() + "\n"


def _commands() -> str:
    rows = [f"| [`{name}`](#tierwise-{name}) | {_cell(text)} |" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["| command | for |", "| --- | --- |", *rows, "", ""])


def _exits() -> str:
    fault = f"{WRONG}, or something that is needed cannot be read or written; the message says what to do"
    general = {0: "fine", 1: "a finding, where a command looks for some: its section says which", 2: fault}
    rows = [f"| {code} | {meaning} |" for code, meaning in (general | EVERYWHERE).items()]
    return "\n".join(["## Exit codes", "", "| code | meaning |", "| --- | --- |", *rows, "", ""])


def _common() -> Iterator[str]:
    context = click.Context(click.Command("tierwise"), terminal_width=COLUMNS)
    yield "## Options of many commands\n\n"
    yield _table(_options_of(json_option, config_option, store_option), context)
    yield "## Options for a server\n\n"
    yield (
        "`plan`, `explain`, `apply` and `watch` read the evidence of a fleet from a Prometheus-compatible server "
        "([how](prometheus.md)) with:\n\n"
    )
    yield _table(_options_of(source_options), context)


def _section(command: click.Command, name: str, parent: click.Context, server: list[str]) -> Iterator[str]:
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    told = read_manual(command.epilog)
    yield f"{'###' if ' ' in name else '##'} tierwise {name}\n\n"
    yield f"`tierwise {name} {' '.join(command.collect_usage_pieces(context))}`\n\n"
    yield _help(command.help or "")
    yield "\n".join(["```console", *told.examples, "```", "", ""])
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    shared = {
        text: _name_of(one) for one in _options_of(config_option, store_option, json_option) if (text := one.help)
    }
    own = [one for one in options if _name_of(one) not in server and one.help not in shared]
    if own:
        yield _table(own, context)
    common = [f"`{_record(one, context)[0]}`" for one in options if one.help in shared]
    also = [f"[{', '.join(common)}](#options-of-many-commands)"] if common else []
    if any(_name_of(one) == "--url" for one in options):
        also.append("[those for a server](#options-for-a-server)")
    if also:
        yield f"{'Further options' if own else 'Options'}: {', '.join(also)}.\n\n"
    yield f"Exit codes: {told.exits}\n\n"
    if name in OUTPUTS:
        yield _output(name)


def _help(text: str) -> str:
    """A help text as Markdown: a paragraph that begins with # is code."""
    paragraphs = (paragraph.removeprefix("\b\n") for paragraph in cleandoc(text).split("\n\n"))
    made = [
        f"```text\n{paragraph}\n```" if paragraph.startswith("#") else " ".join(paragraph.split())
        for paragraph in paragraphs
    ]
    return "\n\n".join(made) + "\n\n"


def _options_of(*decorators: Any) -> list[click.Option]:
    """The options that decorators add."""

    def nothing() -> None:
        """Takes them."""

    command: Any = nothing
    for decorator in reversed(decorators):
        command = decorator(command)
    return [one for one in click.command()(command).params if isinstance(one, click.Option)]


def _name_of(option: click.Option) -> str:
    return max(option.opts, key=len)


def _record(option: click.Option, context: click.Context) -> tuple[str, str]:
    """How an option is written, and what it means, as in the help."""
    left, right = option.get_help_record(context) or ("", "")
    return left.replace("INTEGER RANGE", "N").replace("FLOAT RANGE", "NUMBER"), right


def _table(options: list[click.Option], context: click.Context) -> str:
    rows = []
    for option in options:
        left, right = _record(option, context)
        rows.append(f"| `{left.replace('|', chr(92) + '|')}` | {_cell(right)} |")
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows, "", ""])


def _cell(text: str) -> str:
    plain = " ".join(text.split())
    coded = re.sub(r"(?<![`\w])(--[a-z-]+|[A-Z]+_[A-Z_]+|\S*\*\S*)(?![`\w])", r"`\1`", plain)
    return coded.replace("|", "\\|").replace("<", "&lt;")


# --- shapes ------------------------------------------------------------------------------------------------------


def _output(name: str) -> str:
    output = OUTPUTS[name]
    forms = output.schema.get("anyOf", [output.schema])
    how = "a document a line" if output.lines else "a list" if output.schema.get("type") == "array" else "a document"
    made = []
    for form in forms:
        about = str(form.get("description", "")).rstrip(".")
        lines = list(_lines(form, ""))
        head = f"With `--json`, {how}: {about[:1].lower() + about[1:]}."
        made.append("\n".join([head, "", *_fields(lines), ""]) + "\n")
    return "".join(made)


def _fields(lines: list[tuple[str, str, str]]) -> list[str]:
    rows = [f"| `{path}` | {kind} | {about} |" for path, kind, about in lines]
    return ["| field | value | meaning |", "| --- | --- | --- |", *rows]


def _records() -> Iterator[str]:
    yield "## Shared records\n\nWhat several documents hold.\n\n"
    for name, schema in PARTS.items():
        yield f"### {name}\n\n{schema['description']}\n\n"
        yield "\n".join([*_fields(list(_lines(schema, ""))), "", ""])


def _lines(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """(path, kind, meaning) of each field of a record, those of records inside it after it."""
    if schema.get("type") == "array":
        path, schema = f"{path}[]", schema["items"]
    if "$ref" in schema:
        yield path, _kind(schema), ""
        return
    for name, value in schema.get("properties", {}).items():
        at = f"{path}.{name}" if path else name
        about = _cell_of_schema(value)
        if name not in schema.get("required", ()):
            about = f"{about} Not always there.".strip()
        yield at, _kind(value), about
        yield from _inside(value, at)


def _inside(value: dict[str, Any], at: str) -> Iterator[tuple[str, str, str]]:
    for form in value.get("anyOf", [value]):
        inner, below = form, at
        while True:
            if inner.get("type") == "array":
                inner, below = inner["items"], f"{below}[]"
            elif inner.get("type") == "object" and isinstance(inner.get("additionalProperties"), dict):
                inner, below = inner["additionalProperties"], f"{below}.*"
            else:
                break
        for one in inner.get("anyOf", [inner]):
            if "properties" in one:
                yield from _lines(one, below)


def _cell_of_schema(schema: dict[str, Any]) -> str:
    return str(schema.get("description", "")).replace("|", "\\|")


def _kind(schema: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if "enum" in schema:
        return ", ".join("`null`" if word is None else f"`{word}`" if word else "empty" for word in schema["enum"])
    if "const" in schema:
        return f"`{str(schema['const']).lower()}`"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(_simple(kind, schema) for kind in kinds)


def _simple(kind: str, schema: dict[str, Any]) -> str:
    if kind == "array":
        return f"list of {_plural(_kind(schema['items']))}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"by name: {_kind(values)}".replace(": by name", ", by name") if isinstance(values, dict) else "record"
    if (schema.get("minimum"), schema.get("maximum")) == (0, 1):
        return "share" if kind == "number" else "`null`"
    return {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "null": "`null`",
    }[kind]


def _plural(word: str) -> str:
    return {"text": "texts", "record": "records", "whole number": "whole numbers", "number": "numbers"}.get(word, word)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
