"""Tables that are written from the code, so that they cannot fall behind it.

```{hyperparameters} xql            the options of an agent, from its configuration
```{command} train offline          the options of a command, from its signature and docstring
"""

import inspect
import re
import typing
from pathlib import Path
from typing import Any

import docstring_parser
import tyro
import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

OTHER_NAMES = Path(__file__).with_name("other_names.yaml")


class _Table(Directive):
    required_arguments = 1
    final_argument_whitespace = True
    has_content = False

    def text(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        parent = nodes.Element()
        lines = StringList(self.text().splitlines(), source=self.state_machine.reporter.source)
        self.state.nested_parse(lines, self.content_offset, parent)
        return parent.children


class Hyperparameters(_Table):
    """One row for each field of an agent's configuration."""

    def text(self) -> str:
        return hyperparameter_table(self.arguments[0])


class Command(_Table):
    """What a command does, and one row for each of its options."""

    def text(self) -> str:
        return command_text(self.arguments[0].split())


def hyperparameter_table(agent: str) -> str:
    """Markdown: name, default, type and range, whether it sweeps, meaning, and other names."""
    from xql.agents import AGENTS
    from xql.agents.hyperparameters import hyperparameters

    algorithm = AGENTS[agent]
    others = other_names()
    rows = []
    for one in hyperparameters(algorithm.config).values():
        default = algorithm.defaults.get(one.name, one.default)
        doc = one.doc.rstrip(".")
        also = others.get(agent, {}).get(one.name) or others["any"].get(one.name)
        rows.append(
            (
                f"`{one.name}`",
                f"`{_value(default)}`",
                _kind(one.type, one.range),
                "yes" if one.swept else "",
                doc + (f". Elsewhere: {also}" if also else ""),
            )
        )
    return _markdown(("option", "default", "type", "sweeps", "meaning"), rows)


def other_names() -> dict[str, dict[str, str]]:
    """What other libraries and papers call an option."""
    loaded: dict[str, dict[str, str]] = yaml.safe_load(OTHER_NAMES.read_text("utf-8"))
    return loaded


def command_text(path: list[str]) -> str:
    """Markdown: the command's usage, its docstring, and a table of its options."""
    from xql.cli import COMMANDS, _load

    place: Any = COMMANDS
    for word in path:
        place = place[word]
    command = _load(place)
    about = docstring_parser.parse(inspect.getdoc(command) or "")
    meanings = {one.arg_name: _linked(one.description or "") for one in about.params}
    words, rows = [], []
    for one in inspect.signature(command).parameters.values():
        kind, marks = _parts(one.annotation)
        name = one.name.replace("_", "-")
        several = typing.get_origin(kind) is tuple
        metavar = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), "")
        if any(mark is tyro.conf.Positional for mark in marks) or _is_positional(one.annotation):
            shown = (metavar or one.name.upper()).removesuffix("...")
            words.append(shown + ("..." if several else ""))
            rows.append((f"`{shown}`", "required", meanings.get(one.name, "")))
            continue
        if kind is bool:
            shown = f"--no-{name}" if one.default is True else f"--{name}"
            rows.append((f"`{shown}`", "", _negated(one.default, meanings.get(one.name, ""))))
            continue
        required = one.default is inspect.Parameter.empty
        if required:
            words.append(f"--{name} {name.upper()}")
        default = "required" if required else _default(one.default)
        shown = f"`--{name}`" + (f" `{metavar}`" if metavar else "")
        choices = ", ".join(f"`{one}`" for one in _choices(kind))
        meaning = meanings.get(one.name, "") + (f" One of {choices}." if choices else "")
        rows.append((shown, default, meaning))
    usage = " ".join(["xql", *path, *words, "[options]" if rows else ""]).strip()
    parts = [f"```text\n{usage}\n```", about.short_description or ""]
    if about.long_description:
        parts.append(about.long_description)
    if rows:
        parts.append(_markdown(("option", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _linked(meaning: str) -> str:
    """On one line, and with links where it names a page."""
    return re.sub(r"\bdocs/([\w-]+)\.md", r"[\1](\1.md)", " ".join(meaning.split()))


def _choices(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal, also an optional one."""
    for one in (kind, *typing.get_args(kind)):
        if typing.get_origin(one) is typing.Literal:
            return typing.get_args(one)
    return ()


def _negated(default: Any, meaning: str) -> str:
    return f"do not {meaning}" if default is True else meaning


def _is_positional(annotation: Any) -> bool:
    return "Positional" in str(annotation)


def _parts(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(annotation) is typing.Annotated:
        kind, *marks = typing.get_args(annotation)
        return kind, tuple(marks)
    return annotation, ()


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    return f"`{value}`"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else repr(value)
    if isinstance(value, tuple):
        return str(list(value))
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _kind(kind: str, range: Any) -> str:
    """What values an option takes, in words."""
    plain = kind.removesuffix(" or None")
    several = plain.startswith("tuple")
    if several:
        plain = plain.removeprefix("tuple[").split(",")[0]
    if plain in ("number", "float", "int"):
        word = "integer" if plain == "int" else "number"
        word = f"even {word}" if range.even else word
        text = range.text.removeprefix("a number").removeprefix("an even number")
        text = text if text.startswith((" ", ",")) else f", {text}"
        plain = f"{word}{'s' * several}{text}"
    elif "'" in plain:
        plain = ", ".join(f"`{one}`" for one in re.findall(r"'([^']+)'", plain))
    elif plain == "bool":
        plain = "true, false"
    nullable = ", or null" if kind.endswith("None") else ""
    return ("list of " if several else "") + plain + nullable


def _markdown(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register both directives."""
    app.add_directive("hyperparameters", Hyperparameters)
    app.add_directive("command", Command)
    return {"version": "1", "parallel_read_safe": True}
