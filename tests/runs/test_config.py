"""`RunConfig`: what it holds comes back from plain values, and what is damaged is one line."""

import copy
import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from xql.agents import AGENTS, XQLConfig, configure, make_td3, make_xql
from xql.agents.hyperparameters import inactive
from xql.agents.td3 import TD3Config
from xql.data.actions import Box, Discrete
from xql.data.columns import Column, TableColumns
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.evaluation.scores import Reference
from xql.runs.config import (
    DataConfig,
    EvaluationPlan,
    Extent,
    Member,
    OnlineLoop,
    RunConfig,
)
from xql.runs.sweep import choose_members, with_beta

FULL = RunConfig(
    agent="xql",
    preset="tuned",
    steps=1000,
    members=(Member(3, {"beta": 0.5}), Member(4, {"beta": 0.5})),
    hyperparameters=XQLConfig(beta=2.0, hidden=(8, 4), max_gradient_norm=None),
    scaling=Scaling(
        "scale:2",
        "standardised",
        2.0,
        0.5,
        np.array([1, 2], np.float32),
        np.array([3, 4], np.float32),
    ),
    data=DataConfig(
        name="hopper",
        source="d4rl:x.hdf5",
        observation_size=2,
        actions=Box((-1.0, -2.0), (1.0, 2.5)),
        observation_keys=("a", "b"),
        reference=Reference(1.0, 2.0, "by hand"),
        extent=Extent(10, 2, -3.5),
        subset="top:0.5",
        whole=Extent(20, 4, -7.0),
    ),
    environment="Hopper-v4",
    evaluation=EvaluationPlan(3, 2, 1, stop_at_success=True),
    sources={"beta": "given"},
)
ONLINE = dataclasses.replace(
    FULL,
    agent="td3",
    hyperparameters=TD3Config(hidden=(4,)),
    members=(Member(0),),
    loop=OnlineLoop(2, 10, 1.5, 100),
    keep_policies=True,
)


TABLE = dataclasses.replace(
    FULL,
    data=dataclasses.replace(
        FULL.data,
        columns=TableColumns(
            observation=(Column("grade", ("A", "B")),),
            action=(Column("valve_1"), Column("valve_2", offset=1e6)),
            reward="yield",
            time="t",
            files=("log.csv",),
        ),
    ),
)


@pytest.mark.parametrize("config", [FULL, ONLINE, TABLE], ids=["offline", "online", "table"])
def test_plain_values_and_back(config: RunConfig, tmp_path: Path) -> None:
    plain = config.to_dict()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    assert json.loads(json.dumps(plain)) == plain
    back = RunConfig.load(tmp_path)
    for field in dataclasses.fields(RunConfig):
        if field.name != "scaling" and field.name != "hyperparameters":
            assert getattr(back, field.name) == getattr(config, field.name), field.name
    assert back.to_dict() == plain
    for one, other in zip(back.scaling, config.scaling, strict=True):
        np.testing.assert_array_equal(one, other)
    # TD3 has no β: config.yaml does not show one.
    assert ("beta" in plain["hyperparameters"]) == (config.agent == "xql")


def test_a_configuration_without_a_table_says_nothing_of_one() -> None:
    # Its hash is the name of a cell that is trained already.
    assert "columns" not in FULL.to_dict()["data"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            ("columns",),
            "sensor",
            "the description of the table's columns is damaged: it is 'sensor'",
        ),
        (("columns", "observation"), [], "it names no observation"),
        (
            ("columns", "observation", 0, "categories"),
            ["A"],
            "data.columns has 1 numbers, data.obs",
        ),
        (
            ("columns", "action", 0, "categories"),
            ["A", "B"],
            "data.columns has 3 actions, data.act",
        ),
        (
            ("columns", "action", 1, "offset"),
            float("nan"),
            "the categories or the offset of 'valve",
        ),
        (("columns", "time"), 3, "time is 3"),
    ],
)
def test_damaged_columns_are_one_line(path: Any, value: Any, said: str) -> None:
    plain = json.loads(json.dumps(TABLE.to_dict()))
    place = plain["data"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(InputError) as error:
        RunConfig.from_dict(plain, "run/config.yaml")
    assert str(error.value).startswith("run/config.yaml: ")
    assert said in str(error.value)


@pytest.mark.parametrize("agent", list(AGENTS))
def test_every_agent_s_configuration_comes_back(agent: str) -> None:
    kind = AGENTS[agent]
    made = kind.config(**kind.defaults)
    config = dataclasses.replace(FULL, agent=agent, hyperparameters=made, members=(Member(0),))
    assert RunConfig.from_dict(config.to_dict()).hyperparameters == config.hyperparameters


def test_discrete_actions_come_back() -> None:
    config = dataclasses.replace(FULL, data=dataclasses.replace(FULL.data, actions=Discrete(3)))
    back = RunConfig.from_dict(config.to_dict())
    assert back.data.actions == Discrete(3)
    assert back.spec.actions == Discrete(3)


NEEDED = ("agent", "steps", "members", "hyperparameters", "scaling", "data", "environment")


@pytest.mark.parametrize("key", [*NEEDED, "evaluation"])
def test_a_missing_or_wrong_value_is_named(key: str) -> None:
    plain = FULL.to_dict()
    without = {name: value for name, value in plain.items() if name != key}
    for values, fault in ((without, " is missing"), (plain | {key: 1.5}, ": expected .*found 1.5")):
        with pytest.raises(InputError, match=rf"^run/config.yaml: {key}{fault}; restore the file"):
            RunConfig.from_dict(values, "run/config.yaml")


def put(path: str, value: Any) -> dict[str, Any]:
    """The plain values of an online run, but one: "members.1.seed"."""
    plain = copy.deepcopy(ONLINE.to_dict())
    *above, last = path.split(".")
    place: Any = plain
    for name in above:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value
    return plain


WRONG = [
    ("members.0.seed", "x", "members[0].seed: expected a whole number, found 'x'"),
    ("members.0.seed", True, "members[0].seed: expected a whole number, found True"),
    ("members.0.seed", -1, "members[0].seed: expected a whole number, at least 0 and at most"),
    ("members.0.seed", 10**5000, "found a number of more than 40 digits"),
    ("members.0.changes", [1], "members[0].changes: expected keys with values, found a list of 1"),
    ("members.0.changes", {"polyak": "a"}, "changes.polyak: expected a number, found 'a'"),
    ("members.0.changes", {"polyak": 2}, "changes.polyak: expected a number above 0 and at most 1"),
    ("members.0.changes", {"hidden": 2.0}, "changes.hidden is nothing that agent td3 sweeps"),
    ("members.0", 3, "members[0]: expected keys with values, found 3"),
    ("members", [], "members is empty"),
    ("steps", 0, "steps: expected a whole number, at least 1 and at most 2147483647, found 0"),
    ("hyperparameters.hidden", "big", "hyperparameters: option hidden cannot be 'big'"),
    ("hyperparameters.batch_size", 10**400, "option batch_size cannot be a number of more than"),
    ("scaling.reward_scale", None, "scaling.reward_scale: expected a number, found nothing"),
    ("scaling.observation_shift", ["a", 1], "scaling.observation_shift[0]: expected a number"),
    ("scaling.observation_shift", [1.0, 1e39], "shift[1]: expected a number that float32 can hold"),
    ("scaling.observation_shift", [1.0], "observation_shift has 1 numbers, data.observation_size"),
    ("data.observation_size", 2.0, "data.observation_size: expected a whole number, found 2.0"),
    ("data.transitions", "many", "data.transitions: expected a whole number, found 'many'"),
    ("data.reference.minimum", 2.0, "data.reference.minimum is not below data.reference.maximum"),
    ("data.reference", 7, "data.reference: expected keys with values, found 7"),
    (
        "data.actions.kind",
        "tuple",
        "data.actions.kind: expected 'box' or 'discrete', found",
    ),
    ("data.actions.low", [0.0], "data.actions: its bounds low and high are not finite pairs"),
    ("data.actions.high", [1.0, float("nan")], "data.actions: its bounds low and high are not"),
    ("data.observation_keys", "ab", "data.observation_keys: expected a list, found 'ab'"),
    ("evaluation.episodes", 10**12, "evaluation.episodes: expected a whole number, at least 0"),
    (
        "evaluation.stop_at_success",
        1,
        "evaluation.stop_at_success: expected true or false",
    ),
    ("environment", ["Hopper-v4"], "environment: expected text, found a list of 1"),
    ("sources", {"beta": 1}, "sources.beta: expected text, found 1"),
    (
        "loop.update_to_data",
        float("inf"),
        "loop.update_to_data: expected a finite number, found inf",
    ),
    ("loop", None, "loop: an online run has one"),
    ("loop.buffers", 3, "loop.buffers is unknown; did you mean 'buffer'?"),
    ("kind", "both", "kind: expected 'offline' or 'online' or 'finetune', found 'both'"),
    ("trust", ["os"], "trust is unknown"),
    ("xql", 1, "xql: expected text, found 1"),
]


@pytest.mark.parametrize(("path", "value", "said"), WRONG, ids=[said for *_, said in WRONG])
def test_a_wrong_value_anywhere_is_one_line(path: str, value: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        RunConfig.from_dict(put(path, value), "run/config.yaml")
    assert said in str(error.value)
    assert str(error.value).startswith("run/config.yaml: ") and len(str(error.value)) < 300


DAMAGED: list[tuple[dict[str, Any], str]] = [
    ({"agent": "iqm"}, "there is no agent 'iqm'"),
    ({"hyperparameters": {"beta": 0.0}}, "option beta cannot be 0"),
    ({"hyperparameters": {"betta": 1.0}}, "unknown option 'betta'"),
    ({"members": [{"changes": {}}]}, "members[0].seed is missing"),
    ({"members": [{"seed": 1}, {"seed": 2, "changes": {"beta": 1}}]}, "members[1].changes names"),
    ({"evaluation": {"episode": 3}}, "evaluation.episode is unknown; did you mean 'episodes'?"),
    (
        {"data": FULL.to_dict()["data"] | {"actions": {"kind": "box"}}},
        "data.actions.low is",
    ),
    ({"version": 3}, "its version is 3, this xql reads up to 2; update xql"),
    ({"version": "two"}, "version: expected a number from 1 to 2, found 'two'"),
]


@pytest.mark.parametrize(("changes", "said"), DAMAGED, ids=[said for _, said in DAMAGED])
def test_a_damaged_configuration_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        RunConfig.from_dict(FULL.to_dict() | changes, "run/config.yaml")
    assert said in str(error.value)
    assert "run/config.yaml" in str(error.value) and "\n" not in str(error.value)


BOMB = "a: &a [1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in itertools.pairwise("abcdefgh")
)
NOT_YAML = [
    (b"", "expected keys with values, found nothing"),
    (b"- 1\n", "expected keys with values, found a list of 1"),
    (b"agent: [1", "this is not YAML: line "),
    (b"agent: xql\nagent: iql\n", "this is not YAML: line 2: the key 'agent' stands there twice"),
    (b"agent: \xff\n", "this is not YAML: it is not UTF-8 text, from byte 7"),
    (b"? [1]\n: 2\n", "this is not YAML: line 1: a key is no word"),
    (b"a: " + b"[" * 5000 + b"]" * 5000, "line 1: its values are nested too deeply"),
    (b"a: {" * 200_000, "line 1: its values are nested too deeply"),
    (BOMB.encode(), "line 2: aliases are not read"),
    (b"a: !!python/object/apply:os.system [ls]", "line 1: tags such as !!int are not read"),
    (b"a: 1\nb: !!int", "line 2: tags such as !!int are not read"),
    (b"a: 2001-13-45", "this is not YAML: month must be in 1..12"),
    (b"steps: " + b"9" * 5000, "this is not YAML: Exceeds the limit"),
    (b"a: \x00", "this is not YAML: "),
    (b"#" * (17 << 20), "this is not YAML: it is longer than 16 MiB"),
]


@pytest.mark.parametrize(("text", "said"), NOT_YAML, ids=[said for _, said in NOT_YAML])
def test_what_is_no_plain_yaml_is_one_line(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(text)
    with pytest.raises(InputError) as error:
        RunConfig.load(tmp_path)
    assert said in str(error.value) and len(str(error.value)) < 300 + len(str(tmp_path))


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        RunConfig.load(tmp_path)
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(InputError, match="this is no file"):
        RunConfig.load(tmp_path)
    (tmp_path / "folder" / "config.yaml").mkdir(parents=True)
    with pytest.raises(InputError, match="this is no file"):
        RunConfig.load(tmp_path / "folder")


def test_evaluations_are_evenly_spaced_and_include_the_last_step() -> None:
    assert EvaluationPlan(evaluations=4).steps(10) == [3, 5, 8, 10]
    assert EvaluationPlan(evaluations=3).steps(10, stride=2) == [4, 8, 10]
    assert EvaluationPlan(evaluations=20).steps(3) == [1, 2, 3]
    assert EvaluationPlan(evaluations=10**15).steps(4) == [1, 2, 3, 4]
    for plan in (EvaluationPlan(0), EvaluationPlan(1, -1), EvaluationPlan(1, 1, -1)):
        with pytest.raises(InputError, match="is too small; give at least"):
            plan.check()
    for plan in (EvaluationPlan(10**12), EvaluationPlan(1, 10**12), EvaluationPlan(1, 1, 10**400)):
        with pytest.raises(InputError, match="is too large; give at least"):
            plan.check()


def test_members_are_every_combination_with_seeds_innermost() -> None:
    agent = make_xql(XQLConfig(), 10)
    members = choose_members(agent, "xql", [5, 3], {"beta": [1.0, 2.0], "discount": [0.9]})
    assert members == (
        Member(5, {"beta": 1.0, "discount": 0.9}),
        Member(3, {"beta": 1.0, "discount": 0.9}),
        Member(5, {"beta": 2.0, "discount": 0.9}),
        Member(3, {"beta": 2.0, "discount": 0.9}),
    )
    assert choose_members(agent, "xql", 2, {}) == (Member(0), Member(1))


def test_what_cannot_be_swept_says_what_can() -> None:
    agent = make_td3(TD3Config(), 10)
    with pytest.raises(InputError) as error:
        choose_members(agent, "td3", 1, {"policy_delay": [1.0, 2.0]})
    assert str(error.value) == (
        "`sweep`: policy_delay cannot be swept: it changes the compiled program; give it with "
        "`options`, one run for each; these can: discount, polyak, critic_learning_rate, "
        "policy_learning_rate"
    )
    with pytest.raises(InputError, match="beta has no effect on agent td3 as it is configured"):
        choose_members(agent, "td3", 1, {"beta": [1.0]})


def test_giant_populations_are_refused_before_they_are_made() -> None:
    agent = make_xql(XQLConfig(), 10)
    hundred = [float(i) for i in range(1, 101)]
    with pytest.raises(InputError, match="these are too many seeds"):
        choose_members(agent, "xql", 10**9, {})
    with pytest.raises(InputError, match="these are too many seeds"):
        choose_members(agent, "xql", range(2**31), {})
    with pytest.raises(InputError, match="the seeds and the sweep make 30,000 members"):
        choose_members(agent, "xql", 3, {"beta": hundred, "clip": hundred})
    with pytest.raises(InputError, match="beta cannot be nan"):
        choose_members(agent, "xql", 1, {"beta": [float("nan")]})


def test_beta_is_short_for_a_sweep_or_an_option() -> None:
    assert with_beta(None, None, 2.0, "xql") == ({"beta": [2.0]}, {})
    swept = with_beta({"clip": [3.0]}, None, [1.0, 2.0], "xql")
    assert swept == ({"beta": [1.0, 2.0], "clip": [3.0]}, {})
    assert with_beta(None, {"clip": 3.0}, "auto", "xql") == ({}, {"clip": 3.0, "beta": "auto"})
    assert with_beta(None, None, None, "iql") == ({}, {})
    with pytest.raises(InputError, match="beta is given twice"):
        with_beta({"beta": [1.0]}, None, 2.0, "xql")
    with pytest.raises(InputError, match="beta is given twice"):
        with_beta(None, {"beta": 1.0}, "auto", "xql")
    for beta in ("auto", 2.0, [1.0, 2.0]):
        with pytest.raises(InputError, match="agent iql has no beta; leave out `beta`"):
            with_beta(None, None, beta, "iql")
    # An agent that does not exist is refused elsewhere.
    assert with_beta(None, None, 2.0, "iqql") == ({"beta": [2.0]}, {})


def test_a_member_s_own_values_come_on_top() -> None:
    assert FULL.member_config(1).beta == 0.5
    assert FULL.member_config(1).clip == 5.0
    with pytest.raises(InputError, match="there is no member 2; choose 0 to 1"):
        FULL.require_member(2, "run")
    assert FULL.require_environment("run", None).record == "Hopper-v4"
    assert FULL.require_environment("run", "Ant-v4").record == "Ant-v4"
    with pytest.raises(InputError, match="this run has no environment; give one with `env`"):
        dataclasses.replace(FULL, environment=None).require_environment("run")


NOT_OF_AWR = {"bc_weight", "candidates", "exploration_noise", "flow_steps", "maclaurin_order"}
OF_GUMBEL = {"beta", "beta_kl", "clip", "maclaurin_order", "max_gradient_norm"}
OF_X_SAC = {*OF_GUMBEL, "loss", "target_network"}
INACTIVE = [
    ("sac", {}, {*OF_X_SAC, "value_layer_norm", "value_learning_rate"}),
    ("sac", {"value": "soft"}, OF_X_SAC),
    ("x-sac", {}, {"beta_kl", "maclaurin_order"}),
    ("x-sac", {"beta": "auto", "loss": "maclaurin"}, set()),
    ("td3", {}, OF_GUMBEL),
    ("x-td3", {}, {"beta_kl", "maclaurin_order"}),
    ("x-td3", {"beta": "auto", "loss": "maclaurin"}, set()),
    ("iql", {}, {"huber_delta"}),
    ("iql", {"critic_loss": "huber"}, set()),
    ("cql", {}, {"initial_multiplier", "target_gap"}),
    ("cql", {"lagrange": True}, set()),
    ("awac", {"weights": "softmax"}, {"weight_cap"}),
    ("xql", {}, {"beta_kl", "beta_optimism", "policy_kl", *NOT_OF_AWR}),
    ("xql", {"beta": "auto", "critic_loss": "squared"}, {"huber_delta", "policy_kl", *NOT_OF_AWR}),
    (
        "xql",
        {"policy": "flow", "beta": "auto", "inverse_temperature": "auto"},
        {
            "inverse_temperature",
            "policy_kl",
            "weight_cap",
            "policy_dropout",
            "candidates",
            "exploration_noise",
            "maclaurin_order",
        },
    ),
]


@pytest.mark.parametrize(("agent", "options", "names"), INACTIVE)
def test_what_has_no_effect_cannot_be_swept(
    agent: str, options: dict[str, Any], names: set[str]
) -> None:
    config = configure(agent, options)
    assert inactive(config) == names
    made = AGENTS[agent].make(config, 10)
    for name in names:
        with pytest.raises(InputError, match=f"{name} has no effect on agent {agent}"):
            choose_members(made, agent, 1, {name: [1.0, 2.0]})
