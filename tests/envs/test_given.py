"""An environment is given as an id, an instance or a factory; what a run folder says of it."""

import functools
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import own_worlds
from own_worlds import Walk
from xql.envs import given
from xql.envs.given import PYTHON, simulator
from xql.envs.make import make_environment
from xql.envs.trusted import trusted_environment
from xql.errors import InputError
from xql.evaluation.rollout import time_limit

PENDULUM = "Pendulum-v1"


class Halved(gymnasium.ActionWrapper[Any, Any, Any]):
    """A wrapper that no specification can make again."""

    def action(self, action: Any) -> Any:
        return action / 2


def spec(**fields: Any) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("env", "more", "record"),
    [
        (PENDULUM, {}, PENDULUM),
        (PENDULUM, {"kwargs": {"g": 9.8}}, spec(id=PENDULUM, kwargs={"g": 9.8})),
        (PENDULUM, {"limit": 20}, spec(id=PENDULUM, max_episode_steps=20)),
        (
            spec(id=PENDULUM, kwargs={"g": 1.0, "b": 2}),
            {"kwargs": {"g": 9.8}, "limit": 3},
            spec(id=PENDULUM, kwargs={"g": 9.8, "b": 2}, max_episode_steps=3),
        ),
        (Walk, {}, "own_worlds:Walk"),
        (own_worlds.the_same, {"limit": 7}, spec(id="own_worlds:the_same", max_episode_steps=7)),
        (Walk, {"kwargs": {"size": 3}}, spec(id="own_worlds:Walk", kwargs={"size": 3})),
        (Walk, {"kwargs": {"size": np.float32(3)}}, spec(python="Walk")),
        (lambda: Walk(), {"limit": 7}, spec(python="lambda", max_episode_steps=7)),
        (functools.partial(Walk, size=1.0), {}, spec(python="Walk")),
    ],
)
def test_what_is_recorded(env: Any, more: dict[str, Any], record: str) -> None:
    found = simulator(env, **more)
    assert found.record == record
    assert (found.factory is None) is isinstance(env, str)
    name = json.loads(record) if record.startswith("{") else {"id": record}
    assert found.name == name.get("id", name.get(PYTHON))


def test_arguments_and_limit_reach_the_environment() -> None:
    for env in ("OwnWalk-v0", "own_worlds:OwnWalk-v0", "own_worlds:Walk", Walk):
        made: Any = make_environment(simulator(env, {"size": 0.5}, 4))
        assert (made.unwrapped.size, time_limit(made)) == (0.5, 4)
        made.reset(seed=0)
        made.unwrapped.x = 0.0
        ends = [made.step(np.zeros(1, np.float32))[2:4] for _ in range(4)]
        assert ends == [(False, False)] * 3 + [(False, True)]  # truncated, never terminated


@pytest.mark.parametrize("way", ["id", "instance", "factory"])
def test_a_limit_replaces_the_one_that_an_environment_is_registered_with(way: str) -> None:
    made = {"id": PENDULUM, "instance": gymnasium.make(PENDULUM)}
    env = make_environment(simulator(made.get(way, lambda: gymnasium.make(PENDULUM)), limit=210))
    env.reset(seed=0)
    action = np.zeros(1, np.float32)
    cut = [bool(env.step(action)[3]) for _ in range(210)]
    assert cut.index(True) == 209
    assert time_limit(env) == 210


def test_an_instance_is_made_again_from_its_spec() -> None:
    with gymnasium.make("OwnWalk-v0", size=0.5, render_mode="rgb_array") as env:
        found = simulator(env)
        assert (found.record, found.alone) == (
            spec(id="OwnWalk-v0", kwargs={"size": 0.5}, max_episode_steps=30),
            False,
        )
        one: Any = make_environment(found)
        other = make_environment(found)
        assert one.unwrapped is not other.unwrapped is not env.unwrapped
        assert (one.unwrapped.size, one.render_mode, time_limit(one)) == (0.5, None, 30)
    assert simulator(gymnasium.make("OwnWalk-v0")).record == "OwnWalk-v0"
    made = gymnasium.make("OwnWalk-v0")
    found = simulator(gymnasium.wrappers.RescaleAction(made, np.float32(-2), np.float32(2)))
    assert not found.alone and make_environment(found).action_space.high == 2  # type: ignore[attr-defined]
    assert found.record == spec(python="OwnWalk-v0")  # no JSON holds these arguments
    found = simulator(gymnasium.wrappers.ClipReward(made, -1.0, 1.0))
    assert not found.alone
    with pytest.raises(InputError, match="recorded through the wrapper ClipReward"):
        trusted_environment(found.record, ["own_worlds"], where="run")


@pytest.mark.parametrize("env", [Walk(), Halved(gymnasium.make("OwnWalk-v0"))])
def test_an_instance_that_cannot_be_made_again_is_alone_and_stays_open(
    env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = simulator(env, limit=6)
    assert found.alone and json.loads(found.record)["max_episode_steps"] == 6
    made = make_environment(found)
    assert made.unwrapped is env.unwrapped and time_limit(made) == 6
    closed: list[int] = []
    monkeypatch.setattr(env.unwrapped, "close", lambda: closed.append(1))
    made.close()
    assert not closed
    with pytest.raises(InputError, match="give a function that makes a new one"):
        found.require_copies()


def test_what_no_environment_is() -> None:
    lines: dict[str, tuple[Any, Any, int | None]] = {
        "`env` is a builtins.int, not one environment": (3, {}, None),
        "`episode_limit=0` is no number of steps": (PENDULUM, {}, 0),
        "`env_kwargs` has no effect on an instance": (Walk(), {"size": 1.0}, None),
        "`env_kwargs`: g is a numpy.ndarray, which no run": (PENDULUM, {"g": np.ones(1)}, None),
        "`env=none`: no simulator: no scores; xql ope RUN": ("none", {}, None),
    }
    for line, (env, kwargs, limit) in lines.items():
        with pytest.raises(InputError) as error:
            simulator(env, kwargs, limit)
        assert line in str(error.value)


def test_a_picture_needs_render_mode() -> None:
    assert make_environment(simulator(Walk), picture=(64, 40)).render_mode == "rgb_array"
    with pytest.raises(InputError, match=r"^lambda: it cannot be drawn"):
        make_environment(simulator(lambda: Walk()), picture=(64, 40))


def test_a_file_names_a_module_only_where_it_is_trusted() -> None:
    record = spec(id="own_worlds:OwnWalk-v0", kwargs={"size": 0.5}, max_episode_steps=9)
    with pytest.raises(InputError, match=r"a module to import.*`trust=\['own_worlds:OwnWalk-v0"):
        trusted_environment(record, ["gymnasium"], where="run")
    for trust in (["own_worlds:OwnWalk-v0"], ["own_worlds"]):
        assert trusted_environment(record, trust, where="run") == record
    inside = json.loads(record) | {"kwargs": {"file": "/etc/passwd"}}
    with pytest.raises(InputError, match="the argument file of the environment"):
        trusted_environment(json.dumps(inside), ["own_worlds:OwnWalk-v0"], where="run")
    with pytest.raises(InputError, match=r"in Python \(lambda\).*give it again with `env`"):
        trusted_environment(spec(python="lambda"), ["lambda"], where="run")


def test_a_module_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xql_here.py").write_text("from own_worlds import Walk\n")
    (tmp_path / "xql_broken.py").write_text("import gymnasium\nWalk = gymnasium.nothing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [one for one in __import__("sys").path if one != ""])
    assert make_environment("xql_here:Walk").unwrapped.spec.id == "xql_here:Walk"  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"^xql_broken:Walk: importing xql_broken raised Attrib"):
        make_environment("xql_broken:Walk")
    with pytest.raises(InputError, match=r"needs the module xql_absent, which is not installed"):
        make_environment("xql_absent:Walk")


def test_a_script_has_no_import_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walk, "__module__", "__main__")
    assert simulator(Walk).record == spec(python="Walk")
    assert given.name_in("not {json") == "not {json"
