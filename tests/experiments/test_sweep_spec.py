"""A sweep's specification: what it says, and what is refused, in one line each."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from xql.errors import InputError
from xql.experiments.sweep_spec import (
    Asha,
    Distribution,
    Method,
    Resources,
    SweepSpec,
    is_swept,
    read_spec,
    spec_from,
)
from xql.runs.plain import read_yaml, yaml_by_hand

XQL = Method("xql", "default")


def spec(**values: Any) -> SweepSpec:
    return spec_from({"data": "a.npz", **values})


def test_one_alone_stands_for_a_list_of_one_and_a_number_of_seeds_for_the_seeds() -> None:
    found = spec(agents="iql", seeds=3, checkpoint_every=500)
    assert (found.agents, found.data, found.seeds) == (("iql",), ("a.npz",), (0, 1, 2))
    assert found.checkpoint_every == "500" and found.checkpoints.interval() == (500, None)
    assert spec(seeds=[7, 9]).seeds == (7, 9)


def test_what_is_written_down_is_read_back(tmp_path: Path) -> None:
    found = spec(
        agents=["xql:consistent", "iql"],
        seeds=2,
        search="optuna",
        sweep={"beta": {"log_uniform": [0.5, 2]}, "policy": ["awr", "ddpg_bc"]},
        options={"hidden": [8]},
        asha={"first": 2},
        resources={"gpus": 0.5},
    )
    assert found.asha == Asha(2, 3) and found.resources == Resources(None, 0.5)
    assert spec_from(found.to_plain()) == found
    assert spec_from(spec().to_plain()) == spec()
    path = tmp_path / "s.yaml"
    path.write_text("data: a.npz\nsearch: optuna\nsweep: {beta: [1, 2]}\nasha: null\n")
    assert read_spec(path).asha is None


def test_methods_are_agents_with_the_presets() -> None:
    found = spec(agents=["xql:consistent", "xql", "bc:default"], presets=["default", "fixed"])
    assert [one.label for one in found.methods] == ["xql-consistent", "xql", "xql-fixed", "bc"]
    assert found.sources_of(XQL) == ("a.npz",)
    both = spec_from({"agents": ["bc", "sac"], "data": "a.npz", "envs": "HalfCheetah-v5"})
    assert [both.sources_of(one) for one in both.methods] == [("a.npz",), ("HalfCheetah-v5",)]


def test_a_grid_is_every_combination() -> None:
    found = spec(sweep={"beta": [0.5, 2], "policy": ["awr", "flow"]})
    assert found.points_of(XQL) == [
        {"beta": beta, "policy": policy} for beta in (0.5, 2) for policy in ("awr", "flow")
    ]
    assert spec().points_of(XQL) == [{}]


def test_an_agent_is_given_what_it_has() -> None:
    found = spec(agents=["xql", "bc"], sweep={"beta": [0.5, 2]}, options={"discount": 0.9})
    bc = Method("bc", "default")
    assert found.points_of(bc) == [{}] and found.options_of(bc) == {}
    assert len(found.points_of(XQL)) == 2 and found.options_of(XQL) == {"discount": 0.9}


def test_random_draws_depend_on_the_seed_the_trial_and_their_own_name() -> None:
    space = {
        "beta": {"log_uniform": [0.5, 2]},
        "critics": {"int": [1, 3]},
        "policy_learning_rate": {"uniform": [1e-4, 1e-3]},
    }
    found = spec(search="random", trials=50, sweep=space).points_of(XQL)
    assert len(found) == 50
    assert all(0.5 <= one["beta"] <= 2 and one["critics"] in (1, 2, 3) for one in found)
    assert {one["critics"] for one in found} == {1, 2, 3}
    more = spec(search="random", trials=60, sweep=space).points_of(XQL)
    assert more[:50] == found
    alone = spec(search="random", trials=50, sweep={"beta": space["beta"]}).points_of(XQL)
    assert [one["beta"] for one in alone] == [one["beta"] for one in found]
    other = spec(search="random", trials=50, seed=1, sweep=space).points_of(XQL)
    assert other != found
    # log-uniform: as many below the geometric mean as above it
    below = sum(one["beta"] < 1 for one in found)
    assert 12 <= below <= 38
    repeated = spec(search="random", trials=30, sweep={"policy": ["awr", "flow"]})
    assert sorted(one["policy"] for one in repeated.points_of(XQL)) == ["awr", "flow"]


def test_what_a_field_declares_says_whether_members_may_differ_in_it() -> None:
    assert is_swept("xql", "beta", 0.5) and not is_swept("xql", "beta", "auto")
    assert not is_swept("xql", "hidden", [8]) and not is_swept("xql", "rewards", "raw")
    # Rewards are scaled by one discount of the whole population.
    assert not is_swept("xql", "discount", 0.9)


def test_numbers_may_be_written_without_a_point(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "data: a.npz\nsearch: random\noptions: {clip: 1.5e1, batch_size: 1e2}\n"
        "sweep: {policy_learning_rate: {log_uniform: [1e-4, 3E-3]}, policy: [awr, flow]}\n"
    )
    found = read_spec(path)
    assert found.space_of(XQL) == {
        "policy_learning_rate": Distribution("log_uniform", (1e-4, 3e-3)),
        "policy": Distribution("choice", ("awr", "flow")),
    }
    assert found.options == {"clip": 15.0, "batch_size": 100}
    assert isinstance(found.options["batch_size"], int)
    path.write_text(
        "agents: sac\nenvs: X-v0\nsteps: 1e5\nloop: {warmup: 1e3}\n"
        "env_args: {dt: 1e-3, gains: [1e-3, {k: 2E4}], code: '1e3', low: -.5}\n"
    )
    found = read_spec(path)
    assert (found.steps, found.loop) == (100_000, {"warmup": 1000})
    assert found.env_args == {
        "dt": 1e-3,
        "gains": [1e-3, {"k": 20_000}],
        "code": "1e3",
        "low": -0.5,
    }
    path.write_text(yaml_by_hand(found.to_plain()))
    assert read_spec(path) == found


def test_where_to_evaluate_has_no_effect_on_online_agents() -> None:
    with pytest.raises(InputError, match="env has no effect on sac; leave it out, or choose from"):
        spec_from({"agents": "sac", "envs": "X-v0", "env": "Y-v0"})


def test_a_choice_may_be_written_out() -> None:
    found = spec(search="random", sweep={"beta": {"choice": [1, 2]}})
    assert found.space_of(XQL) == {"beta": Distribution("choice", (1, 2))}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"agent": "xql"}, "the sweep: agent is unknown; did you mean 'agents'?"),
        ({"agents": "xqll"}, "the sweep: unknown agent 'xqll'; did you mean 'xql'?"),
        ({"agents": []}, "the sweep: agents is empty; name one, or leave the key out"),
        ({"agents": ["bc", "bc"]}, "the sweep: agents names one twice; name each one once"),
        (
            {"agents": ["bc", "bc:default"]},
            "the sweep: an agent is named twice with one preset; name each one once",
        ),
        (
            {"presets": "tund"},
            "the sweep: unknown preset 'tund' of agent xql; did you mean 'tuned'?",
        ),
        ({"data": []}, "the sweep: data is empty; name one, or leave the key out"),
        (
            {"agents": "sac"},
            "the sweep: sac learns from an environment, and envs names none; add envs: …",
        ),
        (
            {"agents": "sac", "envs": "X-v0"},
            "the sweep: data is given, and no agent learns from logged data; leave it out, or "
            "choose from xql, iql, cql, td3-bc, awac, rebrac, bc",
        ),
        ({"steps": 0}, "the sweep: steps: expected a whole number, at least 1 and at most "),
        ({"steps": "1e5"}, "the sweep: steps: expected a whole number"),
        ({"seeds": 0}, "the sweep: `seeds=0` is too small; give at least 1"),
        ({"seeds": [1, 1]}, "the sweep: seeds names one twice; name each one once"),
        ({"evaluations": 0}, "the sweep: `evaluations=0` is too small; give at least 1"),
        (
            {"checkpoint_every": "often"},
            "the sweep: `checkpoint_every='often'` is no time and no number of steps; write it "
            "as 30s, 10min, 2h or 5000",
        ),
        (
            {"loop": {"warmup": 10}},
            "the sweep: loop has no effect on xql; leave it out, or choose from sac, ",
        ),
        (
            {"agents": "xql:fixed", "presets": "tuned"},
            "the sweep: presets has no effect, since each agent names its own; leave it out",
        ),
        ({"loop": {"warm": 1}}, "the sweep: loop.warm is unknown; did you mean 'warmup'?"),
        (
            {"sweep": {"betta": [1]}},
            "the sweep: sweep: xql has no betta; did you mean 'beta'?",
        ),
        (
            {"options": {"hiden": [1]}},
            "the sweep: options: xql has no hiden; did you mean 'hidden'?",
        ),
        (
            {"options": {"env": "none"}},
            "the sweep: options: xql has no env; write env: … beside options",
        ),
        ({"sweep": {"beta": []}}, "the sweep, sweep: beta has no values; give one or more"),
        (
            {"sweep": {"beta": [1, 1]}},
            "the sweep, sweep: beta has a value twice; give each one once",
        ),
        (
            {"sweep": {"beta": 1}},
            "the sweep, sweep: beta is 1; give a list of values, or one of {uniform: [low, "
            "high]}, {log_uniform: [low, high]}, {int: [low, high]}",
        ),
        (
            {"sweep": {"beta": {"uniform": [1, 2]}}},
            "the sweep, sweep: beta is a distribution, and a grid takes values; give a list, or "
            "search: random",
        ),
        (
            {"search": "random", "sweep": {"beta": {"unifrom": [1, 2]}}},
            "the sweep, sweep: beta: there is no distribution 'unifrom'; did you mean 'uniform'?",
        ),
        (
            {"search": "random", "sweep": {"beta": {"uniform": [2, 1]}}},
            "the sweep, sweep: beta: uniform goes from 2 to 1; give two finite numbers, the "
            "lower one first",
        ),
        (
            {"search": "random", "sweep": {"beta": {"log_uniform": [0, 1]}}},
            "the sweep, sweep: beta: log_uniform begins at 0; begin above 0",
        ),
        (
            {"search": "random", "sweep": {"beta": {"uniform": [-1, 1]}}},
            "the sweep, sweep: beta cannot be -1; give a number above 0",
        ),
        (
            {"search": "random", "sweep": {"critics": {"int": [1, 2.5]}}},
            "the sweep, sweep: critics: int is [1, 2.5]; give [low, high], whole numbers",
        ),
        (
            {"search": "random", "sweep": {"beta": {"int": [1, 10**400]}}},
            "the sweep, sweep: beta: int is [1, 1000",
        ),
        (
            {"search": "random", "sweep": {"hidden": {"int": [1, 4]}}},
            "the sweep, sweep: hidden takes tuple[int, ...], no range of numbers; give a list of "
            "values",
        ),
        (
            {"sweep": {"beta": [1]}, "options": {"beta": 1}},
            "the sweep, sweep, options: beta is swept and given; give it in one of them",
        ),
        (
            {"trials": 3},
            "the sweep: trials has no effect with search: grid; leave it out, or choose "
            "search: random or optuna",
        ),
        (
            {"search": "random"},
            "the sweep, sweep: search: random has nothing to search; add sweep: …",
        ),
        ({"search": "gird"}, "the sweep: search: expected 'grid' or 'random' or 'optuna', found"),
        (
            {"sweep": {"beta": list(range(1, 200)), "policy_kl": list(range(1, 200))}},
            "the sweep, sweep: the grid has 39,601 points; give at most 10,000, or search: random",
        ),
        ({"resources": {"gpu": 1}}, "the sweep: resources.gpu is unknown; did you mean 'gpus'?"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as found:
        spec(**values)
    assert str(found.value).startswith(line) and "\n" not in str(found.value)
    assert "restore the file" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- a\n", "this is no mapping of keys to values; write KEY: VALUE lines"),
        ("a: [\n", "this is no YAML (line 2: "),
        ("a: 1\na: 2\n", "this is no YAML (line 2: the key 'a' stands there twice)"),
        ("", "this is no mapping"),
    ],
)
def test_a_file_that_is_no_specification_is_refused(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as found:
        read_spec(path)
    assert str(found.value).startswith(f"{path}: {line}")
    with pytest.raises(InputError, match="this file cannot be read"):
        read_spec(tmp_path)


def test_the_page_s_specifications_can_be_read_and_every_key_is_on_it() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text("utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        spec_from(read_yaml(block))
    table = re.findall(r"^\| (`\w+`.*?) \| ([^|]*) \|", text, flags=re.MULTILINE)
    shown = {key: default for keys, default in table for key in re.findall(r"`(\w+)`", keys)}
    for one in dataclasses.fields(SweepSpec):
        assert one.name in shown, one.name
    spec = SweepSpec()
    assert shown["steps"] == f"{spec.steps}" and shown["members"] == f"{spec.members}"
    assert shown["evaluations"] == f"{spec.evaluations}, {spec.episodes}, {spec.last_episodes}"
    assert (
        spec_from(
            {"asha": read_yaml(shown["asha"].strip("`")), "search": "optuna"}
            | {"data": "a.npz", "sweep": {"beta": [1]}}
        ).asha
        == spec.asha
    )
