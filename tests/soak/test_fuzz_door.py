"""Random configurations and random words: each is taken, or refused in one line."""

import copy
import shutil
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from soak.frame import fuzz, refused_in_a_line
from soak.inputs import OLD_RUN, original
from xql.agents import AGENTS, XQLConfig
from xql.agents.hyperparameters import hyperparameters
from xql.cli.train import parse_settings, parse_sweep
from xql.presets import resolve
from xql.runs.config import RunConfig

PLAIN = original()
SECONDS = 150
"""Of each fuzz in `make soak`."""
DURATIONS = [pytest.param(0, id="quick"), pytest.param(SECONDS, id="long", marks=pytest.mark.soak)]

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, -(10**4000)]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "xql", "[red]", "\x1b[31m", "1e5", "null", "box", "online", "nan"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def configurations(draw: st.DrawFn) -> Any:
    """A run's plain values, of which one to three are others, gone, or more."""
    plain: Any = copy.deepcopy(PLAIN)
    for _ in range(draw(st.integers(1, 3))):
        place = plain
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            match draw(st.sampled_from(["replace", "remove", "add"])):
                case "remove":
                    del place[key]
                case "add" if isinstance(place, dict):
                    place[draw(st.text(max_size=8))] = draw(VALUES)
                case _:
                    place[key] = draw(VALUES)
            break
    return plain


@pytest.mark.parametrize("seconds", DURATIONS)
def test_configurations(seconds: int) -> None:
    def check(plain: Any) -> None:
        config = refused_in_a_line(lambda: RunConfig.from_dict(plain))
        if isinstance(config, RunConfig):
            # What is taken can be used, written, and read back.
            assert config.evaluation.steps(config.steps)
            config.member_config(0)
            again = RunConfig.from_dict(
                yaml.safe_load(yaml.safe_dump(config.to_dict(), sort_keys=False))
            )
            assert repr(again.to_dict()) == repr(config.to_dict())

    assert fuzz(check, configurations(), seconds=seconds, each=60) >= 60


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """The text of a configuration, with some bytes others, gone, twice, or moved."""
    text = bytearray((OLD_RUN / "config.yaml").read_bytes())
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        more = draw(
            st.one_of(
                st.binary(max_size=12),
                st.sampled_from([b"[", b"{", b"&a ", b"*a", b"!!int ", b"? ", b"- ", b"<<: "]),
                st.just(bytes(text[start:end]) * 2),
            )
        )
        text[start:end] = more
    return bytes(text)


@pytest.mark.parametrize("seconds", DURATIONS)
def test_texts(seconds: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(OLD_RUN, folder)

    def check(text: bytes) -> None:
        (folder / "config.yaml").write_bytes(text)
        refused_in_a_line(lambda: RunConfig.load(folder))
        assert (folder / "config.yaml").read_bytes() == text

    assert fuzz(check, texts(), seconds=seconds, each=40) >= 40


NAMES = [*hyperparameters(XQLConfig), "rewards", "observations", "subset", "", "bta", "[red]", "ß"]
WORDS = st.one_of(
    st.text(max_size=30),
    st.text(string.digits + "eE+-._xb", max_size=12),
    st.text("[]{}:,&*!|>'\"%@`#~ \n\t0aé", max_size=30),
    st.sampled_from(["null", "true", "[256,256]", "scale:1", "top:0.1", "huber", "1e400", ".inf"]),
)
ASSIGNMENTS = st.lists(
    st.builds(lambda name, word: f"{name}={word}", st.sampled_from(NAMES), WORDS), max_size=3
)


@pytest.mark.parametrize("seconds", DURATIONS)
def test_settings(seconds: int) -> None:
    def check(given: Any) -> None:
        agent, words = given
        settings = refused_in_a_line(lambda: parse_settings([words]))
        if settings is not None:
            assert isinstance(settings, dict)
            refused_in_a_line(lambda: resolve(agent, "default", "line", settings))
        refused_in_a_line(lambda: parse_sweep([words]))

    drawn = st.tuples(st.sampled_from(list(AGENTS)), ASSIGNMENTS)
    assert fuzz(check, drawn, seconds=seconds, each=80) >= 80
