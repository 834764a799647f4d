"""`train_finetune`: from an offline run to an online one that continues it."""

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import xql
from worlds import Line, line_data, register_line, same_bits, spec_of, stop_after
from xql.agents import AGENTS, OFFLINE, Unchecked, configure, member
from xql.agents.hyperparameters import AUTO, inactive, learning_rates
from xql.agents.policies import DeterministicPolicy
from xql.agents.update import trainable
from xql.agents.xql import DISCRETE_SHARE, XQLState
from xql.cli import main
from xql.data.actions import Discrete
from xql.data.dataset import Dataset, DeviceData
from xql.envs.given import Simulator
from xql.errors import InputError
from xql.experiments.cells import finetuned_cell, kept, offline_cell, train_and_keep
from xql.runs.checkpoints import save_checkpoint
from xql.runs.config import EvaluationPlan, OnlineLoop, RunConfig
from xql.runs.folder import SMALLER, Divergence, RunFolder
from xql.runs.policy import load_policy, template, template_of
from xql.runs.run import Run
from xql.training.evaluate import evaluate_run
from xql.training.finetune import _continued, plan_finetune
from xql.training.online_state import _EXPLORATION
from xql.training.recipe import AtSuccessOf, Mixture, draw_batch, rule_at_success
from xql.training.replay import Replay, empty_replay
from xql.training.transitions import _played

SMALL: dict[str, Any] = {"hidden": [16], "batch_size": 16, "beta": 1.0}
SCALED = {"rewards": "affine:2,-1", "observations": "standardised"}
OFFLINE_WORDS = ["--steps", "30", "--evaluations", "1", "--episodes", "1", "--last-episodes", "1"]
TUNE_WORDS = ["--steps", "40", "--warmup", "10", "--evaluations", "2", "--episodes", "1"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = line_data(episodes=20)
    rows = data.starts
    path = tmp_path_factory.mktemp("data") / "line.npz"
    np.savez(
        path,
        observations=data.observations[rows],
        actions=data.actions[rows],
        rewards=data.rewards[rows],
        terminated=np.zeros(len(rows), bool),
        truncated=np.arange(len(rows)) % 10 == 9,
        next_observations=data.observations[rows + 1],
    )
    return path


@pytest.fixture(scope="module")
def run(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two members that learned 30 updates from scaled data."""
    return xql.train_offline(
        log,
        env=register_line(),
        steps=30,
        seeds=[4, 2],
        options=SMALL | SCALED,
        evaluations=1,
        episodes=1,
        last_episodes=1,
        out=tmp_path_factory.mktemp("runs") / "offline",
        progress=False,
    )


def tune(run: Run | Path, folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "steps": 40,
        "loop": OnlineLoop(warmup=10),
        "evaluations": 2,
        "episodes": 1,
        "last_episodes": 2,
        "trust": ["worlds"],
        "out": folder,
        "progress": False,
    }
    return xql.train_finetune(run, **(settings | changes))


@pytest.fixture(scope="module")
def tuned(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tune(run, tmp_path_factory.mktemp("runs") / "tuned", keep_replay=True)


def same_leaves(one: Any, other: Any) -> bool:
    return same_bits(jax.tree.leaves(one), jax.tree.leaves(other))


def test_no_steps_at_all_are_the_loaded_run(run: Run, tmp_path: Path) -> None:
    still = tune(run, tmp_path / "still", steps=0)
    assert same_leaves(still.population, run.population)
    assert same_leaves(Run.open(tmp_path / "still").population, run.population)
    assert still.config.kind == "finetune" and still.config.steps == 0
    assert still.evaluations == [
        row._replace(step=0) for row in evaluate_run(run.path, episodes=2, trust=["worlds"])
    ]
    assert same_leaves(still.resume(trust=["worlds"]).population, run.population)


def test_the_run_is_like_any_other_and_says_where_it_comes_from(run: Run, tuned: Run) -> None:
    config = RunConfig.load(tuned.path)
    assert config.kind == "finetune" and config.online
    assert config.finetune is not None
    assert dataclasses.asdict(config.finetune) == {
        "run": "offline",
        "step": 30,
        "replay": "symmetric",
        "at_success": "simulator",
        "rolled_back": (),
    }
    assert "rolled_back" not in config.to_dict()["finetune"]
    assert config.data == run.config.data and config.members == run.config.members
    assert config.hyperparameters.policy_schedule == "constant"
    assert "constant from here on" in config.sources["policy_schedule"]
    # As precise before as after; 30 updates offline and 30 here.
    counts = dict.fromkeys((0, 20, 40), 0)
    for row in tuned.evaluations:
        counts[row.step] += 1
    assert counts == {0: 4, 20: 2, 40: 4}
    assert tuned.population.step.tolist() == [60, 60]
    assert not same_leaves(tuned.population.policy.network, run.population.policy.network)
    assert same_bits(Run.open(tuned.path).population, tuned.population)
    last = tuned.folder.read_metrics()[-1].values
    # Returns of episodes are the simulator's own, and −|x| is never above 0.
    assert max(last["training_return"]) < 0


def test_networks_and_replay_have_the_units_of_the_log(run: Run, tuned: Run) -> None:
    kept = np.load(tuned.path / "replay.npz")
    scaling = run.config.scaling
    here, after = (
        kept[name] / scaling.observation_scale + scaling.observation_shift
        for name in ("observations", "next_observations")
    )
    # The world's own rule: x moves by a fifth of the action, and the reward is −|x|, here 2r − 1.
    moved = here[..., 0] + 0.2 * kept["actions"][..., 0]
    np.testing.assert_allclose(after[..., 0], moved, atol=1e-5)
    np.testing.assert_allclose(kept["rewards"], -2 * np.abs(moved) - 1, atol=1e-5)
    assert (kept["masks"] == 1).all()  # it only ever times out
    assert abs(float(scaling.observation_scale[0]) - 1) > 0.1
    # The very first action is the loaded policy's, for the scaled observation.
    for index, one in enumerate(run.config.members):
        key = jax.random.fold_in(jax.random.key(one.seed), _EXPLORATION)
        actor = run.config.make_agent().actor(member(run.population, index))
        first = actor(jnp.asarray(kept["observations"][index, :1]), jax.random.split(key)[1])
        np.testing.assert_allclose(kept["actions"][index, 0], first[0], atol=1e-5)


def test_a_command_and_a_member_alone(
    log: Path, tuned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = register_line()
    words = [f"{name}={value}" for name, value in (SMALL | SCALED).items()]
    words = ["train", "offline", "--data", str(log), "--env", env, *OFFLINE_WORDS, "--set", *words]
    main([*words, "--first-seed", "2", "--out", str(tmp_path / "offline"), "--no-plot"])
    capsys.readouterr()
    words = ["train", "finetune", "--from", str(tmp_path / "offline"), *TUNE_WORDS]
    words += ["--last-episodes", "2", "--trust-environment", "worlds", "--no-plot"]
    main([*words, "--out", str(tmp_path / "tuned")])
    printed, said = capsys.readouterr()
    assert "last of 3 evaluations (step 40)" in printed
    assert "half of each batch is the log's, half the replay buffer's" in said
    alone = Run.open(tmp_path / "tuned")
    assert alone.config.to_dict()["finetune"]["run"] == "offline"
    for ours, theirs in zip(
        jax.tree.leaves(member(tuned.population, 1).critic.network),
        jax.tree.leaves(member(alone.population, 0).critic.network),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


batch_of = jax.jit(draw_batch, static_argnums=(4, 5))


def test_a_cell_of_table_2_goes_on_online_where_it_ended_offline(log: Path, tmp_path: Path) -> None:
    cell = offline_cell(
        "line",
        "line",
        opened=str(log),
        agent="xql",
        steps=30,
        seeds=1,
        env=register_line(),
        options=SMALL | SCALED,
        evaluation=EvaluationPlan(2, 1, 2),
        quiet=True,
    )
    cell = finetuned_cell(cell, 40, "symmetric")
    folder = train_and_keep(tmp_path, cell)
    assert kept(tmp_path, cell) == folder
    rows = RunFolder.open(folder).read_evaluations()
    assert [row.step for row in rows] == [0, 0, 20, 40, 40]
    changes: list[dict[str, Any]] = [{"online_steps": 44}, {"offline": {}}]
    for change in changes:
        assert kept(tmp_path, cell._replace(more={**cell.more, **change})) is None


def rows_of(rewards: list[float], starts: list[float], ends: list[float]) -> Replay:
    """Rows of one member: the reward, where each began, and where it ended."""
    column = functools.partial(jnp.asarray, dtype=jnp.float32)
    return Replay(
        column(starts)[:, None], column(rewards)[:, None], column(rewards), column(rewards) * 0 + 1,
        column(ends)[:, None],
    )  # fmt: skip


def logged(count: int, returns: bool = False) -> DeviceData:
    """A log of one episode with the rewards −1, −2, …"""
    column = np.arange(count + 1, dtype=np.float32)
    return Dataset(
        observations=column[:, None],
        actions=-column[:, None],
        rewards=np.where(column < count, -column - 1, 0.0).astype(np.float32),
        lengths=np.array([count]),
        terminated=np.array([False]),
        truncated=np.array([True]),
    ).to_device(returns=10 * column if returns else None)


@pytest.mark.parametrize("size", [8, 7])
def test_symmetric_batches_are_half_and_half_in_every_block(size: int) -> None:
    memory = rows_of([1.0, 2.0, 3.0, 9.0], [0, 1, 2, 0], [1, 2, 3, 0])
    mixture = Mixture("symmetric", 1)
    seen = []
    for seed in range(10):
        batch = batch_of(memory, logged(4), jax.random.key(seed), jnp.int32(3), size, mixture)
        assert len(batch.rewards) == size
        assert (np.asarray(batch.rewards[::2]) < 0).all()
        assert (np.asarray(batch.rewards[1::2]) > 0).all()
        seen += batch.rewards.tolist()
        # Each row is a whole transition of its own source.
        log_rows, rows = np.asarray(batch.observations[::2, 0]), batch.observations[1::2, 0]
        np.testing.assert_array_equal(batch.rewards[::2], -log_rows - 1)
        np.testing.assert_array_equal(batch.rewards[1::2], rows + 1)
    assert set(seen) == {-1.0, -2.0, -3.0, -4.0, 1.0, 2.0, 3.0}


def test_prefilled_batches_are_of_all_rows_alike() -> None:
    memory = rows_of([1.0, 2.0, 3.0, 9.0], [0, 1, 2, 0], [1, 2, 3, 0])
    mixture = Mixture("prefill", 1)
    batch = batch_of(memory, logged(4), jax.random.key(0), jnp.int32(3), 7000, mixture)
    values, counts = np.unique(np.asarray(batch.rewards), return_counts=True)
    assert values.tolist() == [-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0]
    np.testing.assert_allclose(counts, 1000, atol=150)
    # Where nothing has been played there is the log alone; where there is no log, what was played.
    batch = batch_of(memory, logged(4), jax.random.key(0), jnp.int32(0), 50, mixture)
    assert (np.asarray(batch.rewards) < 0).all()
    batch = batch_of(memory, None, jax.random.key(0), jnp.int32(3), 50, Mixture("online", 1))
    assert set(batch.rewards.tolist()) == {1.0, 2.0, 3.0}


def test_the_next_action_of_a_played_row_is_that_of_the_same_episode() -> None:
    # Two copies side by side; the first ends its episode with its second step.
    starts, ends = [0, 50, 1, 51, 7, 52, 0, 0], [1, 51, 2, 52, 8, 53, 0, 0]
    memory = rows_of([1, 2, 3, 4, 5, 6, 0, 0], starts, ends)  # type: ignore[arg-type]
    mixture = Mixture("online", 2)
    batch = batch_of(memory, None, jax.random.key(0), jnp.int32(6), 200, mixture)
    found = {
        (int(reward), int(action) if acted else None)
        for reward, action, acted in zip(
            batch.rewards, batch.next_actions[:, 0], batch.next_acted, strict=True
        )
    }
    # Rows 5 and 6 are the newest: what follows is not known yet.
    assert found == {(1, 3), (2, 4), (3, None), (4, 6), (5, None), (6, None)}
    # A full ring, whose newest rows are 3 and 4: the oldest stand behind them.
    wrapped = jax.tree.map(lambda column: column[:6], memory)
    wrapped = jax.tree.map(lambda column: jnp.roll(column, 4, axis=0), wrapped)
    batch = batch_of(wrapped, None, jax.random.key(0), jnp.int32(6), 200, mixture)
    again = {
        (int(reward), int(action) if acted else None)
        for reward, action, acted in zip(
            batch.rewards, batch.next_actions[:, 0], batch.next_acted, strict=True
        )
    }
    assert again == found


def test_played_rows_have_no_return_to_be_calibrated_by() -> None:
    memory = rows_of([1.0, 2.0], [0, 1], [1, 2])
    mixture = Mixture("symmetric", 1)
    batch = batch_of(memory, logged(4, True), jax.random.key(0), jnp.int32(2), 8, mixture)
    np.testing.assert_array_equal(batch.returns[::2], 10 * batch.observations[::2, 0])
    assert (np.asarray(batch.returns[1::2]) == -np.inf).all()


@pytest.mark.parametrize("agent", [name for name in OFFLINE if name != "bc"])
def test_every_agent_with_a_critic_learns_from_log_and_replay(agent: str) -> None:
    spec = spec_of(1, 1)
    given: dict[str, Any] = {"hidden": [4], "batch_size": 4}
    given |= {"calibrated": True, "critic_hidden": [4]} if agent == "cql" else {}
    made = AGENTS[agent].make(configure(agent, given), 0)
    assert made.backup is not None
    memory = jax.tree.map(lambda column: column[0], empty_replay(1, 4, spec))

    def learned(state: Any, key: Any) -> Any:
        state = jax.tree.map(lambda leaf: leaf[0], state)
        drawn = (key, jnp.int32(2), made.transitions, Mixture("symmetric", 1))
        return state, made.update(state, draw_batch(memory, logged(4, True), *drawn))[0]

    before, after = jax.eval_shape(learned, template(made, spec, 1), jax.random.key(0))
    structures: list[Any] = [jax.tree.structure(before), jax.tree.structure(after)]
    assert structures[0] == structures[1]


def sparse(rewards: list[float], terminated: list[bool], lengths: list[int]) -> Dataset:
    rows = sum(lengths) + len(lengths)
    padded = np.zeros(rows, np.float32)
    padded[np.delete(np.arange(rows), np.cumsum(np.array(lengths) + 1) - 1)] = rewards
    return Dataset(
        observations=np.zeros((rows, 1), np.float32),
        actions=np.zeros((rows, 1), np.float32),
        rewards=padded,
        lengths=np.array(lengths),
        terminated=np.array(terminated),
        truncated=~np.array(terminated),
    )


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (sparse([0, 1, 0, 0], [True, False], [2, 2]), "terminate"),
        (sparse([0, 1, 1, 0], [False, False], [2, 2]), "continue"),
        (sparse([0, 1, 1, 0], [True, False], [2, 2]), "simulator"),  # both kinds
        (sparse([0, 0, 0, 0], [True, False], [2, 2]), "simulator"),  # no success to see
        (sparse([0, 1, 0.5, 0], [True, False], [2, 2]), "simulator"),  # dense
    ],
)
def test_the_log_says_what_a_success_ends(data: Dataset, rule: str) -> None:
    assert rule_at_success(data) == rule


class Succeeds(Line):
    """Reports success at every step, and terminates at the third."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, _ = super().step(action)
        return observation, reward, self._steps == 3, truncated, {"success": self._steps != 2}


def test_online_episodes_end_at_a_success_as_the_log_s_do() -> None:
    def flags(rule: Any) -> list[tuple[bool, bool]]:
        env: gymnasium.Env[Any, Any] = AtSuccessOf(Succeeds(), rule)
        env.reset(seed=0)
        return [env.step(np.zeros(1, np.float32))[2:4] for _ in range(3)]

    assert flags("terminate") == [(True, False), (False, False), (True, False)]
    # What the simulator ends all the same is cut, as by a time limit.
    assert flags("continue") == [(False, False), (False, False), (False, True)]


def edited(run: Run, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the run with another config.yaml."""
    shutil.copytree(run.path, folder)
    values = yaml.safe_load((folder / "config.yaml").read_text())
    edit(values)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def to_bc(values: dict[str, Any]) -> None:
    values |= {"agent": "bc", "hyperparameters": {}}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (to_bc, "agent bc has no critic, and nothing else says which new actions are good"),
        (lambda values: values.update(environment=None), "this run has no environment; give one"),
        (lambda values: values["data"].update(source="arrays"), "give it again with `data`"),
        (lambda values: values["data"].update(transitions=199), "had 199 transitions and has 200"),
    ],
)
def test_runs_that_cannot_be_continued_are_refused(
    run: Run, tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    folder = edited(run, tmp_path / "edited", edit)
    with pytest.raises(InputError) as error:
        tune(folder, tmp_path / "out")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trust": []}, "worlds"),
        ({"env": "Hoper-v9"}, "no environment 'Hoper-v9'"),
        ({"env": "Pendulum-v1"}, "do not fit Pendulum-v1, which has observation size 3 and"),
        ({"steps": -1}, "`steps=-1` is too small; give at least 0"),
        ({"steps": 10}, "`warmup=10` leaves nothing to learn in of `steps=10`"),
        ({"step": 29}, "there is no checkpoint 29"),
        ({"replay": "rlpd"}, "choose from symmetric, prefill, online"),
        ({"options": {"hidden": [8]}}, "hidden cannot change: the run's networks follow from it"),
        ({"options": {"critics": 3}}, "critics cannot change"),
        ({"options": {"critics": 3, "beta": "auto"}}, "critics cannot change: the run's networks"),
        ({"options": {"value_layer_norm": False}}, "the run's value follows from it"),
        ({"options": {"policy": "flow"}}, "policy cannot change"),
        ({"options": {"beta_kl": 0.1}}, "give beta=auto, or leave it out of `options`"),
        ({"options": {"rewards": "raw"}}, "rewards is part of what the run has learned"),
        ({"options": {"policy_schedule": "cosine"}}, "policy_schedule cannot be 'cosine'"),
        ({"options": {"bata": 2.0}}, "did you mean 'beta'"),
        ({"options": {"replay": "online"}}, "give `replay` beside it"),
        ({"options": {"bc_weight": 2.0}}, "bc_weight has no effect on agent xql"),
        ({"data": line_data(episodes=3)}, "its data had 200 transitions and has 30 now"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_written(
    run: Run, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        tune(run, tmp_path / "out", **changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_fine_tuned_run_is_no_offline_run(tuned: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this run has learned online already"):
        tune(tuned, tmp_path / "out")


def test_options_change_the_members_and_data_may_be_given(run: Run) -> None:
    before: Any = run.population
    plan = plan_finetune(
        run,
        steps=40,
        loop=OnlineLoop(warmup=10),
        data=line_data(),
        trust=["worlds"],
        options={"policy_learning_rate": 1e-5, "policy_dropout": 0.1},
    )
    population: Any = plan.start.population
    rates = np.asarray(population.config.policy_learning_rate)
    np.testing.assert_array_equal(rates, np.array([1e-5, 1e-5], np.float32))
    assert plan.config.hyperparameters.policy_dropout == 0.1
    assert plan.config.sources["policy_learning_rate"] == "given"
    assert same_leaves(population.critic, before.critic)
    assert plan.config.data.source == run.config.data.source


def made_of(run: Run, folder: Path, population: Any, **changes: Any) -> Path:
    """A run like another one, with a population and some of the configuration of its own."""
    shutil.copytree(run.path, folder)
    config = dataclasses.replace(run.config, **changes)
    RunFolder.open(folder).configure(config)
    seeds = [one.seed for one in config.members]
    save_checkpoint(folder / "checkpoints", 30, population, seeds=seeds)
    return folder


def slower(population: Any) -> Any:
    """The population with smaller learning rates in member 1."""
    config, by = population.config, np.array([1, SMALLER], np.float32)
    rates = {name: getattr(config, name) / by for name in learning_rates(config)}
    return population._replace(config=dataclasses.replace(config, **rates))


BACK = Divergence(1, 10, 20, "rolled back", 10)


def rolled_back(run: Run, folder: Path) -> Path:
    """A run of which member 1 diverged once."""
    made_of(run, folder, slower(run.population))
    RunFolder.open(folder).log_divergence(BACK, {})
    return folder


def test_a_member_that_was_rolled_back_goes_on_with_its_smaller_learning_rates(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = rolled_back(run, tmp_path / "offline")
    whole = tune(parent, tmp_path / "whole")
    assert whole.config.finetune is not None and whole.config.finetune.rolled_back == (1,)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(25, patch)
        tune(parent, tmp_path / "run")
    again = xql.resume(tmp_path / "run", trust=["worlds"], progress=False)
    assert same_leaves(again.population, whole.population)
    for name in learning_rates(run.config.hyperparameters):
        rates = np.asarray(getattr(again.population.config, name))
        expected = np.array([3e-4, 3e-4], np.float32) / np.array([1, SMALLER], np.float32)
        np.testing.assert_array_equal(rates, expected)
    # Where it diverges again, its rates are smaller still.
    path, text = again.path / "config.yaml", (again.path / "config.yaml").read_text()
    save_checkpoint(again.folder.checkpoints, 40, slower(again.population), seeds=[4, 2])
    again.folder.log_divergence(BACK, {})
    assert load_policy(again.path, 1).step == 40
    path.write_text(text.replace("  rolled_back:\n  - 1\n", ""))
    with pytest.raises(InputError, match=r"member 1 was trained with .*_learning_rate 3e-06"):
        load_policy(again.path, 1)


def test_learning_rates_that_are_given_are_those_of_every_member(run: Run, tmp_path: Path) -> None:
    parent = rolled_back(run, tmp_path / "offline")
    every = dict.fromkeys(learning_rates(run.config.hyperparameters), 1e-5)
    some = {"policy_learning_rate": 1e-5}
    settings: Any = {"steps": 40, "loop": OnlineLoop(warmup=10), "trust": ["worlds"]}
    for options, slower in ((every, ()), (some, (1,))):
        plan = plan_finetune(parent, options=options, **settings)
        assert plan.config.finetune is not None and plan.config.finetune.rolled_back == slower
        said = "diverged offline, and keep learning rates divided by 10: 1"
        assert (said in plan.start.notes) == bool(slower)
        rates = np.asarray(plan.start.population.config.policy_learning_rate)
        np.testing.assert_array_equal(rates, np.array([1e-5, 1e-5], np.float32))


def tuning_itself(run: Run, folder: Path, kls: Sequence[float] = ()) -> Path:
    """A run whose temperatures tune themselves; its members may differ in `beta_kl`."""
    auto: Any = {"beta": AUTO, "inverse_temperature": AUTO}
    config = dataclasses.replace(run.population.config, **auto)
    members = run.config.members
    if kls:
        config = dataclasses.replace(config, beta_kl=jnp.array(kls))
        pairs = zip(members, kls, strict=True)
        members = tuple(one._replace(changes={"beta_kl": kl}) for one, kl in pairs)
    now = {"value": jnp.array([2.0, 4.0]), "policy": jnp.array([3.0, 5.0])}
    population = run.population._replace(config=config, temperatures=now)
    own = dataclasses.replace(run.config.hyperparameters, **auto)
    return made_of(run, folder, population, hyperparameters=own, members=members)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"value": [2, 4], "policy": [3, 5]}),
        ({"beta": 0.5}, {"policy": [3, 5]}),
        ({"inverse_temperature": 0.5}, {"value": [2, 4]}),
        ({"beta": 0.5, "inverse_temperature": 0.5}, {}),
    ],
)
def test_a_temperature_that_tuned_itself_can_become_a_number(
    run: Run, tmp_path: Path, given: dict[str, float], expected: dict[str, list[float]]
) -> None:
    parent = tuning_itself(run, tmp_path / "offline")
    assert_temperatures(parent, given, expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"beta": "auto"}, {"value": [1, 1]}),
        ({"inverse_temperature": "auto"}, {"policy": [1 / 3, 1 / 3]}),
    ],
)
def test_a_number_can_become_a_temperature_that_tunes_itself(
    run: Run, given: dict[str, str], expected: dict[str, list[float]]
) -> None:
    assert_temperatures(run, given, expected)


def assert_temperatures(
    parent: Run | Path, given: dict[str, Any], expected: dict[str, list[float]]
) -> None:
    """Check what a run goes on with, and that it can."""
    settings: Any = {"steps": 40, "loop": OnlineLoop(warmup=10), "trust": ["worlds"]}
    plan = plan_finetune(parent, options=given, **settings)
    population: Any = plan.start.population
    assert population.temperatures.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(population.temperatures[name], np.array(values, np.float32))
    again = RunConfig.from_dict(plan.config.to_dict())
    for name, value in given.items():
        assert getattr(again.hyperparameters, name) == value
        assert again.sources[name] == "given"
    assert not set(again.sources) & inactive(again.hyperparameters)
    agent, state = again.make_agent(), member(population, 0)
    memory = jax.tree.map(lambda column: column[0], empty_replay(1, 4, again.spec))
    drawn = (jax.random.key(0), jnp.int32(2), agent.transitions, Mixture("online", 1))

    def learned(state: Any) -> Any:
        return agent.update(state, draw_batch(memory, None, *drawn))[0]

    states = (population, template_of(again), state, jax.eval_shape(learned, state))
    structures: list[Any] = [jax.tree.structure(one) for one in states]
    assert structures[0] == structures[1] and structures[2] == structures[3]


def test_over_discrete_actions_the_kl_follows_from_their_number(run: Run) -> None:
    discrete = dataclasses.replace(run.config.data, actions=Discrete(4))
    parent = dataclasses.replace(run.config, data=discrete)
    auto = {"inverse_temperature": "auto"}
    config, changed = _continued(parent, auto, "run")
    assert config.policy_kl == round(DISCRETE_SHARE * math.log(4), 3)
    assert changed["policy_kl"] == "ours: from the number of actions"
    config, changed = _continued(parent, {**auto, "policy_kl": 0.1}, "run")
    assert (config.policy_kl, changed["policy_kl"]) == (0.1, "given")


def test_what_the_members_differ_in_keeps_its_effect(run: Run, tmp_path: Path) -> None:
    parent = tuning_itself(run, tmp_path / "offline", [0.1, 0.2])
    with pytest.raises(InputError, match="differ in beta_kl, which would have no effect"):
        plan_finetune(parent, options={"beta": 2.0}, trust=["worlds"])


def test_the_log_is_found_again_where_it_lies_now(run: Run, log: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.npz"
    shutil.copy(log, moved)
    plan = plan_finetune(run, steps=40, loop=OnlineLoop(warmup=10), data=moved, trust=["worlds"])
    assert plan.config.data == dataclasses.replace(run.config.data, source=str(moved))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda values: values.pop("finetune"), "finetune: a run of that kind has it"),
        (lambda values: values.update(kind="online"), "finetune: a run of that kind has it"),
        (lambda values: values["finetune"].update(replay="all"), "finetune.replay"),
        (lambda values: values["finetune"].update(step=-1), "finetune.step"),
    ],
)
def test_a_damaged_description_is_refused(
    tuned: Run, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    values = tuned.config.to_dict()
    edit(values)
    with pytest.raises(InputError, match=message):
        RunConfig.from_dict(values)


@pytest.mark.parametrize(
    ("agent", "given"), [("td3-bc", {}), ("rebrac", {}), ("xql", {"policy": "ddpg_bc"})]
)
def test_deterministic_policies_explore_with_noise_of_their_own(
    agent: str, given: dict[str, Any]
) -> None:
    spec = spec_of(2, 1, bound=2.0)
    options = {"hidden": [4], "exploration_noise": 0.2} | given
    made = AGENTS[agent].make(configure(agent, options), 0)
    network = DeterministicPolicy.create(jax.random.key(0), spec, (4,))
    # Of a state, what acts needs these two alone.
    nothing: list[Any] = [None] * 6
    actor = made.actor(XQLState._make([trainable(network), *nothing, made.config]))
    here = jnp.zeros((4000, 2))
    noise = (actor(here, jax.random.key(0)) - actor(here)) / 2.0
    # In half action ranges; a fresh policy acts in the middle of its bounds.
    np.testing.assert_allclose(np.std(noise), 0.2, rtol=0.05)


def test_what_a_run_plays_for_its_bellman_errors_is_scaled(run: Run) -> None:
    batch = _played(run.config, Simulator(register_line()), run.policy, 20, 0, jax.random.key(0))
    scaling = run.config.scaling
    here = np.asarray(batch.observations) / scaling.observation_scale + scaling.observation_shift
    moved = here[:, 0] + 0.2 * np.asarray(batch.actions)[:, 0]
    np.testing.assert_allclose(batch.rewards, -2 * np.abs(moved) - 1, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("agent", [name for name in OFFLINE if name not in ("bc", "xql")])
def test_every_agent_is_fine_tuned(agent: str, log: Path, tmp_path: Path) -> None:
    given = {"hidden": [16], "batch_size": 16} | (
        {"calibrated": True, "critic_hidden": [16]} if agent == "cql" else {}
    )
    offline = xql.train_offline(
        log, agent=Unchecked(agent), env=register_line(), steps=30, options=given,
        evaluations=1, last_episodes=1, out=tmp_path / "offline", progress=False,
    )  # fmt: skip
    for replay in ("symmetric", "prefill"):
        run = tune(offline, tmp_path / replay, replay=replay)
        assert run.population.step.tolist() == [60]
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.population.policy))
