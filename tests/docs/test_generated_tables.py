"""The generated reference covers every agent and every command."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xql.agents import AGENTS
from xql.agents.hyperparameters import hyperparameters
from xql.cli import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def tables() -> Iterator[Any]:
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOCS / "_ext"))
    yield importlib.import_module("generated_tables")
    sys.path.remove(str(DOCS / "_ext"))


def commands(place: dict[str, Any] = COMMANDS, path: tuple[str, ...] = ()) -> list[str]:
    found = []
    for name, inner in place.items():
        if isinstance(inner, dict):
            found += commands(inner, (*path, name))
        else:
            found.append(" ".join((*path, name)))
    return found


def test_every_agent_has_its_options_on_the_page() -> None:
    shown = re.findall(r"```\{hyperparameters\} (\S+)", (DOCS / "options.md").read_text("utf-8"))
    assert shown == list(dict.fromkeys(shown))
    assert set(shown) == set(AGENTS)


def test_every_command_is_on_the_page() -> None:
    shown = re.findall(r"```\{command\} (.+)", (DOCS / "command-line.md").read_text("utf-8"))
    assert sorted(shown) == sorted(commands())


@pytest.mark.parametrize("agent", AGENTS)
def test_option_table(tables: Any, agent: str) -> None:
    text = tables.hyperparameter_table(agent)
    for name in hyperparameters(AGENTS[agent].config):
        assert f"| `{name}` |" in text


def test_variants_show_their_own_defaults(tables: Any) -> None:
    assert "| `value` | `gumbel` |" in tables.hyperparameter_table("x-sac")
    assert "| `critics` | `1` |" in tables.hyperparameter_table("ddpg")


def test_other_names_are_of_options_that_exist(tables: Any) -> None:
    fields = {agent: set(hyperparameters(AGENTS[agent].config)) for agent in AGENTS}
    for agent, names in tables.other_names().items():
        known = set().union(*fields.values()) if agent == "any" else fields[agent]
        assert set(names) <= known, agent


@pytest.mark.parametrize("command", commands())
def test_command_table(tables: Any, command: str) -> None:
    text = tables.command_text(command.split())
    assert text.startswith(f"```text\nxql {command}")
    # Every option says what it means.
    for row in re.findall(r"^\| `--.*$", text, flags=re.MULTILINE):
        assert row.split("|")[3].strip(), row
