"""A user's own environment in every place where one is stepped."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import own_worlds
import xql
from worlds import Line, line_data, register_line, same_bits
from xql.cli import main
from xql.envs.make import make_environment
from xql.errors import InputError
from xql.evaluation.rollout import time_limit
from xql.reports.film import film_run
from xql.runs.config import OnlineLoop, RunConfig
from xql.runs.run import Run
from xql.training.evaluate import evaluate_run

SMALL: dict[str, Any] = {
    "seeds": [4, 2],
    "options": {"hidden": [16], "batch_size": 16},
    "evaluations": 2,
    "episodes": 2,
    "last_episodes": 3,
    "progress": False,
}


class Short(Line):
    """`Line` for some steps; nothing that a specification makes."""

    def __init__(self, steps: int) -> None:
        self.most = steps

    def step(self, action: Any) -> Any:
        *rest, truncated, info = super().step(action)
        return (*rest, truncated or self._steps >= self.most, info)


def offline(out: Path, env: Any, **changes: Any) -> Run:
    settings = SMALL | {"options": SMALL["options"] | {"policy_schedule": "constant"}} | changes
    return xql.train_offline(line_data(), agent="bc", steps=4, out=out, env=env, **settings)


def online(out: Path, env: Any, **changes: Any) -> Run:
    loop = OnlineLoop(warmup=20)
    return xql.train_online(env, agent="td3", steps=60, loop=loop, out=out, **(SMALL | changes))


def same(one: Any, other: Any) -> bool:
    """Whether the same episodes were played; a batch of another size rounds differently."""
    plain = [[(row.member, row.episode, row.length) for row in rows] for rows in (one, other)]
    returns = [[row.episode_return for row in rows] for rows in (one, other)]
    return plain[0] == plain[1] and returns[0] == pytest.approx(returns[1], rel=1e-5)


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    (*_, line) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose environment no folder can make: a factory without a name, with a limit."""
    return offline(tmp_path_factory.mktemp("own") / "run", lambda: Line(), episode_limit=5)


def test_a_run_in_a_factory_needs_it_again(
    made: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = RunConfig.load(made.path).environment
    assert record is not None
    assert json.loads(record) == {"python": "lambda", "max_episode_steps": 5}
    with pytest.raises(InputError, match=r"given in Python \(lambda\), and no run folder can make"):
        evaluate_run(made.path, episodes=3)
    with pytest.raises(InputError, match=r"given in Python \(lambda\), and no run folder can make"):
        xql.resume(made.path, data=line_data(), steps=8, progress=False)
    for command in ("evaluate", "reproduce"):
        data = ["--data", "x.npz"] if command == "reproduce" else []
        line = complaint(capsys, command, str(made.path), "--env", "none", *data)
        assert line.startswith("xql: --env none: no simulator: no scores")
    rows = evaluate_run(made.path, episodes=3, env=lambda: Line(), episode_limit=5)
    last = [row for row in made.folder.read_evaluations() if row.step == 4]
    assert same(rows, last) and {row.length for row in rows} == {5}


def test_an_instance_plays_alone_what_copies_play_together(made: Run) -> None:
    together = evaluate_run(made.path, episodes=4, env=lambda: Short(7))
    assert same(evaluate_run(made.path, episodes=4, env=Short(7)), together)
    assert {row.length for row in together} == {7}
    copied = evaluate_run(made.path, episodes=4, env=gymnasium.make(register_line()))
    assert same(copied, evaluate_run(made.path, episodes=4, env=register_line()))


def test_a_film_of_an_instance(made: Run, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from worlds import Drawn

    _, (one,) = film_run(made.path, tmp_path / "a.mp4", env=Drawn("rgb_array"), episode_limit=3)
    assert one.length == 3
    with pytest.raises(InputError, match="it cannot be drawn; give an environment that was made"):
        film_run(made.path, tmp_path / "b.mp4", env=Line())


def test_an_offline_run_goes_on_in_its_factory_or_without(tmp_path: Path) -> None:
    run = offline(tmp_path / "run", lambda: Line(), episode_limit=5)
    longer = xql.resume(
        run.path, data=line_data(), steps=8, env=lambda: Line(), progress=False
    ).folder
    assert {row.length for row in longer.read_evaluations()} == {5}  # the limit is the run's own
    xql.resume(run.path, data=line_data(), steps=12, env="none", progress=False)
    assert RunConfig.load(run.path).environment is None
    assert max(row.step for row in longer.read_evaluations()) == 8
    with pytest.raises(InputError, match="this run was made without evaluation; leave out `env`"):
        xql.resume(run.path, data=line_data(), steps=16, env=lambda: Line(), progress=False)


def test_an_online_run_goes_on_in_its_factory_bit_for_bit(tmp_path: Path) -> None:
    whole = online(tmp_path / "whole", lambda: Short(9), last_episodes=2)
    part = online(tmp_path / "part", lambda: Short(9), last_episodes=2)
    assert whole.config.data.name == "lambda"
    with pytest.raises(InputError, match="no run folder can make it; give it again with `env`"):
        xql.resume(part.path, steps=80, progress=False)
    folders = [
        xql.resume(run.path, steps=80, env=lambda: Short(9), progress=False)
        for run in (whole, part)
    ]
    assert same_bits(folders[0].population, folders[1].population)
    assert folders[0].folder.read_evaluations()[-1].length == 9


def test_a_policy_is_pickled_without_the_environment(made: Run) -> None:
    again = pickle.loads(pickle.dumps(made.policy))
    observations = np.ones((3, 2))
    assert np.array_equal(again(observations), made.policy(observations))


def test_one_instance_is_not_enough_online(tmp_path: Path, made: Run) -> None:
    with pytest.raises(InputError, match="Line: this instance cannot be made again from its spec"):
        online(tmp_path / "run", Line())
    assert not (tmp_path / "run").exists()


def test_a_class_is_named_again_with_the_arguments_of_the_run(made: Run) -> None:
    record = json.dumps({"id": "own_worlds:Walk", "kwargs": {"size": 0.5}, "max_episode_steps": 9})
    config = dataclasses.replace(made.config, environment=record, given=None)
    for kwargs in (None, {"size": 0.5}):
        again = config.with_environment("run", own_worlds.Walk, kwargs).require_environment("run")
        env: Any = make_environment(again)
        assert (env.unwrapped.size, time_limit(env)) == (0.5, 9)
    spec = json.dumps({"id": "OwnWalk-v0", "kwargs": {"size": 0.5}})
    of_spec = dataclasses.replace(config, environment=spec)
    wrong: list[tuple[RunConfig, Any, Any, str]] = [
        (config, own_worlds.Unmade, None, "`env` is own_worlds:Unmade, and this run was made in"),
        (config, own_worlds.Walk, {"size": 1.0}, "`env_kwargs` are not those of the run, {'size'"),
        (of_spec, gymnasium.make("OwnWalk-v0"), None, "`env_kwargs` are not those of the run"),
        (of_spec, gymnasium.make("Pendulum-v1"), None, "`env` is Pendulum-v1, and this run was"),
    ]
    for made_in, env, kwargs, line in wrong:
        with pytest.raises(InputError) as error:
            made_in.with_environment("run", env, kwargs)
        assert line in str(error.value)


def test_the_environment_is_named_again(made: Run) -> None:
    record = json.dumps({"id": "own_worlds:OwnWalk-v0", "kwargs": {"size": 0.5}})
    config = dataclasses.replace(made.config, environment=record, given=None)
    with pytest.raises(InputError, match="names a module to import"):
        config.require_environment("run")
    named: list[tuple[Any, Any]] = [
        ("own_worlds:OwnWalk-v0", None),
        ("own_worlds:OwnWalk-v0", {"size": 0.5}),
        (record, None),
    ]
    for env, kwargs in named:
        again = config.with_environment("run", env, kwargs)
        assert json.loads(again.require_environment("run").record) == json.loads(record)
        assert again.environment == record
    wrong: dict[str, tuple[Any, Any]] = {
        "is OwnWalk-v0, and this run was made in own_worlds:OwnWalk-v0": ("OwnWalk-v0", None),
        "`env_kwargs` are not those of the run, {'size': 0.5}": (named[0][0], {"size": 1.0}),
        "are of an environment that is not named; name it with `env`": (None, {"size": 1.0}),
    }
    for line, (env, kwargs) in wrong.items():
        with pytest.raises(InputError) as error:
            config.with_environment("run", env, kwargs)
        assert line in str(error.value)
    with pytest.raises(InputError, match="this instance cannot be made again from its spec"):
        dataclasses.replace(config, loop=OnlineLoop()).with_environment("run", Line())
    # What the user did not type is a file's word: an entry point in it is not called.
    evil = json.dumps({"id": "OwnWalk-v0", "entry_point": "no_such_module:make"})
    config = dataclasses.replace(config, environment=evil)
    again = config.with_environment("run", "OwnWalk-v0")
    assert json.loads(again.require_environment("run").record) == {"id": "OwnWalk-v0", "kwargs": {}}
