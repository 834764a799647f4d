"""Data from online runs: what each kind holds, against the run itself; bytes; refusals."""

import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import xql
from xql.cli.make import make
from xql.collect.mujoco import make_mujoco, play
from xql.collect.trained import medium_step, open_source, random_return, to_logs
from xql.data.actions import Discrete
from xql.data.check import check_dataset
from xql.data.dataset import Dataset
from xql.data.sources import open_dataset
from xql.envs import trusted
from xql.envs.make import make_environment
from xql.errors import InputError
from xql.evaluation.rollout import rollout
from xql.evaluation.scores import reference_score
from xql.presets import resolve, suite
from xql.runs.config import Member, OnlineLoop
from xql.runs.run import Run
from xql.training.evaluate import EVALUATION_SEED
from xql.training.replay import Rows

pytest.importorskip("gymnasium_robotics")
minari = pytest.importorskip("minari")

LINE = "XQLTestDataLine-v0"
"""The world of one line, under an id whose specification can be written down."""

SMALL = {
    "hidden": [32],
    "batch_size": 64,
    "critic_learning_rate": 3e-3,
    "policy_learning_rate": 3e-3,
}


@pytest.fixture(autouse=True, scope="module")
def the_tests_own_environments_are_trusted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trusted, "PACKAGES", (*trusted.PACKAGES, "worlds"))
        yield


@pytest.fixture(scope="module", autouse=True)
def line() -> None:
    if LINE not in gymnasium.registry:
        gymnasium.register(LINE, entry_point="worlds:Line")


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def learn(folder: Path, **changes: Any) -> Run:
    asked: dict[str, Any] = {
        "agent": "sac",
        "steps": 900,
        "seeds": [3],
        "out": folder,
        "options": SMALL,
        "loop": OnlineLoop(warmup=200),
        "evaluations": 20,
        "episodes": 5,
        "last_episodes": 20,
        "keep_replay": True,
        "keep_policies": True,
        "progress": False,
    }
    return xql.train_online(LINE, **(asked | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, line: None) -> Run:
    return learn(tmp_path_factory.mktemp("runs") / "line")


def made(run: Run, kind: str, **changes: Any) -> Dataset:
    return open_dataset(f"minari:{make_mujoco(None, kind, run=run.path, **changes)}")


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_medium_policy_is_the_first_a_third_of_the_way() -> None:
    # From random actions at -90 to the last policy at 30 a third of the way is -50.
    returns = {10: -95.0, 20: -51.0, 30: -50.0, 40: -80.0, 50: 30.0}
    assert medium_step(returns, -90.0) == 30
    assert medium_step({10: -51.0, 20: 30.0}, -90.0) is None
    # Of negative returns a third of the last one, -50 here, would be more than the last one.
    assert medium_step({10: -260.0, 20: -250.0, 30: -150.0}, -300.0) == 20


def test_transitions_become_episodes_with_their_final_observations() -> None:
    # Two episodes, of 2 steps (terminated) and 3 steps (a time limit), and one step of a third.
    rows = Rows(
        observations=np.array([[[0], [1], [10], [11], [12], [20]]], np.float32),
        actions=np.arange(6, dtype=np.float32).reshape(1, 6, 1),
        rewards=np.arange(6, dtype=np.float32)[None],
        masks=np.array([[1, 0, 1, 1, 1, 1]], np.float32),
        next_observations=np.array([[[1], [2], [11], [12], [13], [21]]], np.float32),
    )
    logs: list[Any] = to_logs(rows, [2, 3])
    first, second, third = logs
    assert first.observations.ravel().tolist() == [0, 1, 2]
    assert first.terminations.tolist() == [False, True]
    assert second.observations.ravel().tolist() == [10, 11, 12, 13]
    assert second.actions.ravel().tolist() == second.rewards.tolist() == [2, 3, 4]
    assert not second.terminations.any()
    assert third.observations.ravel().tolist() == [20, 21]
    # A length that ends with the last row, or behind it, leaves no empty log.
    whole = Rows(*(column[:, :5] for column in rows))
    assert [len(log.actions) for log in to_logs(whole, [2, 3])] == [2, 3]
    assert [len(log.actions) for log in to_logs(whole, [2, 9, 5])] == [2, 3]
    # Where an episode was left without a length, no transition leads into the next one's start.
    assert [len(log.actions) for log in to_logs(rows, [2])] == [2, 3, 1]
    assert [len(log.actions) for log in to_logs(rows, [])] == [2, 3, 1]


def test_random_actions_are_uniform_and_end_where_the_world_does() -> None:
    seen: list[int] = []
    logs = play("Pendulum-v1", None, 4_100, 5, seen.append)
    assert [len(log.actions) for log in logs] == [200] * 20 + [100]
    assert seen == [*range(200, 4_001, 200), 4_100]
    actions = np.concatenate([log.actions for log in logs])
    # Uniform on [-2, 2]: deviation 2/√3, of which 4100 draws know 1 %.
    assert abs(actions.mean()) < 0.08
    assert abs(actions.std() - 2 / np.sqrt(3)) < 0.04
    assert np.abs(actions).max() <= 2
    # The pendulum's own rule: cos² + sin² = 1, and its final observations obey it too.
    angles = np.concatenate([log.observations for log in logs])[:, :2]
    np.testing.assert_allclose((angles**2).sum(axis=1), 1, atol=1e-5)


def test_random_data_needs_no_run_and_has_no_reference(run: Run) -> None:
    data = open_dataset(f"minari:{make_mujoco(LINE, 'random', transitions=3_000, seed=1)}")
    assert data.name == "xqltestdataline-v0/random-v0"
    assert data.transitions == 3_000 and (data.lengths == 10).all()
    assert data.truncated.all() and not data.terminated.any()
    assert reference_score(data.name, data.metadata) is None
    # The same world, the same actions, other starts: equal up to what 100 and 300 episodes know.
    error = data.returns.std() * np.sqrt(1 / 100 + 1 / 300)
    assert abs(data.returns.mean() - random_return(LINE)) < 4 * error
    scaled = made(run, "random", transitions=100, dataset_id="other/random-v0")
    reference = reference_score(scaled.name, scaled.metadata)
    assert reference is not None and reference.minimum == random_return(LINE)


def test_the_kept_policies_are_those_that_were_evaluated(run: Run) -> None:
    source = open_source(run.path)
    step = source.medium_step
    assert step is not None and step < 900
    for asked in (step, 900):
        policy = xql.load_policy(run.path, step=asked)
        rows = [row for row in run.evaluations if row.step == asked]
        again = rollout(
            lambda: make_environment(LINE),
            policy,
            members=1,
            episodes=len(rows),
            seed=EVALUATION_SEED,
        )
        found = [one.episode_return for one in again]
        np.testing.assert_allclose(found, [row.episode_return for row in rows], rtol=1e-4)
    third = source.random_return + (source.expert_return - source.random_return) / 3
    assert all(
        (source.returns[one] >= third) == (one >= step) for one in source.returns if one <= step
    )


@pytest.mark.parametrize("kind", ["medium", "expert"])
def test_a_policy_plays_with_draws(run: Run, kind: str) -> None:
    data = made(run, kind, transitions=2_000, seed=2)
    step = {"medium": open_source(run.path).medium_step, "expert": 900}[kind]
    actor = xql.load_policy(run.path, step=step).actor
    mean, log_std = actor._gaussian(jnp.asarray(data.observations[data.starts]))
    actions = np.clip(data.actions[data.starts], -1 + 1e-6, 1 - 1e-6)
    near = np.abs(actions) < 1 - 1e-4  # where the tanh can be undone
    deviates = np.asarray((jnp.arctanh(actions) - mean) * jnp.exp(-log_std))[near]
    # Half of a standard normal lies within ±0.674; a policy of another step would not fit.
    assert len(deviates) > 500
    inside = (np.abs(deviates) < 0.6745).mean()
    assert abs(inside - 0.5) < 4 * 0.5 / np.sqrt(len(deviates))
    assert data.transitions == 2_000 and (data.lengths == 10).all() and data.truncated.all()


def test_medium_replay_is_what_the_run_had_seen_by_then(run: Run) -> None:
    data = made(run, "medium-replay")
    kept = np.load(run.path / "replay.npz")
    step = open_source(run.path).medium_step
    assert data.transitions == step
    for name in ("observations", "actions", "rewards", "masks"):
        np.testing.assert_array_equal(getattr(data, name)[data.starts], kept[name][0, :step])
    following = data.observations[data.starts + 1]
    np.testing.assert_array_equal(following, kept["next_observations"][0, :step])
    assert (data.lengths[:-1] == 10).all()


def test_medium_expert_is_half_and_half(run: Run) -> None:
    both = made(run, "medium-expert", transitions=201)
    medium, expert = made(run, "medium", transitions=100), made(run, "expert", transitions=101)
    assert both.transitions == 201
    for name in ("observations", "actions", "rewards"):
        halves = [getattr(one, name) for one in (medium, expert)]
        np.testing.assert_array_equal(getattr(both, name), np.concatenate(halves))
    assert not np.array_equal(medium.observations[0], expert.observations[0])


def test_a_dataset_says_where_it_comes_from(run: Run, datasets: Path) -> None:
    data = made(run, "expert", transitions=500, dataset_id="line/expert-v0")
    assert not [one for one in check_dataset(data) if one.severity == "error"]
    source = open_source(run.path)
    reference = reference_score(data.name, data.metadata)
    assert reference is not None
    assert reference[:2] == (source.random_return, source.expert_return)
    about = data.metadata["made_by"]
    assert about["command"] == (
        "xql data make mujoco --env XQLTestDataLine-v0 --kind expert --transitions 500 --run line"
        " --seed 0 --out-id line/expert-v0"
    )
    assert about["run"]["agent"] == "sac" and about["run"]["seed"] == 3
    assert about["policies"]["medium"]["step"] == source.medium_step
    text = (datasets / "line" / "expert-v0" / "data" / "metadata.json").read_text()
    assert str(run.path.parent) not in text and str(datasets) not in text
    assert data.environment is not None
    env = make_environment(data.environment)
    assert env.observation_space.shape == (data.observation_size,)
    env.close()
    recovered = minari.load_dataset("line/expert-v0").recover_environment()
    assert recovered.spec.id == LINE
    recovered.close()


def test_the_names_belong_to_the_suite_but_never_to_d4rl() -> None:
    for env in ("halfcheetah", "hopper", "walker2d", "ant"):
        name = make_mujoco(env, "random", transitions=30)
        assert name == f"{env}/random-v0"
        assert suite(name) == "mujoco"
        assert reference_score(name, open_dataset(f"minari:{name}").metadata) is None
        assert resolve("xql", "fixed", name).rewards == "return_range"
    # The paper's β for hopper-medium-v2 is not one for these data.
    with pytest.raises(InputError, match="no beta for 'hopper/medium-v0'"):
        resolve("xql", "tuned", "hopper/medium-v0")


def test_training_serves_every_kind_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = functools.partial(xql.train_online, options=SMALL)
    monkeypatch.setattr("xql.collect.trained.train_online", small)
    asked: dict[str, Any] = {"steps": 400, "seed": 6, "show_training": False}
    seen = []
    for name in ("one", "two"):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / name))
        home = tmp_path / f"runs-{name}"
        make_mujoco(LINE, "medium", transitions=200, home=home, **asked)
        trained = home / "data-xqltestdataline-v0-sac-400-6"
        before = hashes(trained)
        make_mujoco(LINE, "medium-replay", home=home, **asked)
        assert hashes(trained) == before and len(list(home.iterdir())) == 1
        seen.append(hashes(tmp_path / name))
    assert len(seen[0]) >= 4
    assert seen[0] == seen[1]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "three"))
    again = make_mujoco(LINE, "medium", transitions=200, home=home, **asked)
    assert open_dataset(f"minari:{again}").metadata["made_by"]["command"] == (
        "xql data make mujoco --env XQLTestDataLine-v0 --kind medium --transitions 200 --steps 400"
        " --seed 6 --out-id xqltestdataline-v0/medium-v0"
    )


def test_discrete_actions_are_written_as_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: Path
) -> None:
    # What needs no simulator of MuJoCo's is made without it.
    monkeypatch.setattr("xql.collect.mujoco.register_robotics", None)
    monkeypatch.chdir(tmp_path)
    make("online", env="cartpole", kind="random", transitions=300, seed=1)
    data = open_dataset("minari:cartpole/random-v0")
    assert data.action_spec == Discrete(2)
    assert data.transitions == 300 and data.terminated.sum() > 5
    assert 0.4 < data.actions[data.starts, 1].mean() < 0.6
    about = data.metadata["made_by"]
    assert about["command"] == (
        "xql data make online --env CartPole-v1 --kind random --transitions 300 --seed 1"
        " --out-id cartpole/random-v0"
    )
    assert "mujoco" not in about and not data.metadata.get("requirements")
    stored = next(iter(minari.load_dataset("cartpole/random-v0"))).actions
    assert stored.ndim == 1 and stored.dtype.kind == "i"

    learned = xql.train_online(
        "CartPole-v1",
        agent="sac",
        steps=200,
        out=tmp_path / "run",
        options=SMALL,
        loop=OnlineLoop(warmup=40),
        evaluations=5,
        episodes=2,
        last_episodes=5,
        keep_replay=True,
        keep_policies=True,
        progress=False,
    )
    # However little it has learned.
    path = learned.path / "evaluations.csv"
    header, *rows = path.read_text().splitlines()
    better = [",".join([*row.split(",")[:4], "99.0", *row.split(",")[5:]]) for row in rows]
    path.write_text("\n".join([header, *better, ""]))
    kept = np.load(learned.path / "replay.npz")
    replay = made(learned, "medium-replay")
    rows_kept = replay.transitions
    assert rows_kept == 40
    np.testing.assert_array_equal(replay.actions[replay.starts], kept["actions"][0, :rows_kept])
    expert = made(learned, "expert", transitions=100)
    assert expert.action_spec == Discrete(2) and expert.transitions == 100


def test_the_command_line_says_what_came_of_it(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make("mujoco", kind="expert", transitions=40, run=run.path, out_id="line/expert-v0")
    printed = capsys.readouterr().out
    assert "made line/expert-v0: 40 transitions in 4 episodes, " in printed
    assert f"returns: {open_source(run.path).random_return:.1f} of random actions, " in printed
    assert "next: xql train offline --data minari:line/expert-v0" in printed
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "mujoco: it needs a kind; give --kind {random,medium,medium-replay,"),
        ({"kind": "expert", "policy": Path("x.npz")}, "mujoco: it takes no --policy"),
        ({"kind": "expert", "noise": 0.1}, "mujoco: it takes no --noise"),
        ({"kind": "expert", "run": run.path, "steps": 9}, "mujoco --run: it takes no --steps"),
    ]
    for changes, line in cases:
        with pytest.raises(InputError) as error:
            make("mujoco", **changes)
        assert str(error.value).startswith(line)
    with pytest.raises(InputError, match="pointmaze-umaze: it takes no --env; leave it out"):
        make("pointmaze-umaze", env="hopper")


def test_another_seed_plays_otherwise(run: Run) -> None:
    one = made(run, "expert", transitions=50, seed=1, dataset_id="line/one-v0")
    two = made(run, "expert", transitions=50, seed=2, dataset_id="line/two-v0")
    assert not np.array_equal(one.observations, two.observations)


@pytest.mark.parametrize(
    ("env", "kind", "changes", "line"),
    [
        ("hopper", "meduim", {}, "mujoco: no kind 'meduim'; did you mean 'medium'?"),
        (None, "medium", {}, "mujoco: no environment is named; give `env`, such as `env='hopper'`"),
        ("hoppper", "medium", {}, "no environment 'hoppper'; did you mean 'Hopper-v5'?"),
        ("hopper-medium-v2", "medium", {}, "the simulator of D4RL's hopper is 'Hopper-v5'"),
        ("hopper", "medium-replay", {"transitions": 9}, "leave `transitions` out"),
        ("hopper", "medium-expert", {"transitions": 1}, "transitions is 1; give 2 or more"),
        ("hopper", "random", {"transitions": 0}, "transitions is 0; give 1 or more"),
        ("hopper", "random", {"seed": -1}, "`seed=-1` is no seed"),
        ("hopper", "expert", {"steps": 1}, "`warmup=1` leaves nothing to learn in of `steps=1`"),
        ("hopper", "expert", {"run": "nowhere"}, "nowhere: there is no such run folder"),
        ("hopper", "expert", {"dataset_id": "no version"}, "is no dataset id"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    env: str | None,
    kind: str,
    changes: dict[str, Any],
    line: str,
    tmp_path: Path,
    datasets: Path,
) -> None:
    with pytest.raises(InputError) as error:
        make_mujoco(env, kind, **({"home": tmp_path / "runs"} | changes))
    assert line in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()
    assert not list(datasets.glob("*"))  # Minari makes the root itself


def changed(run: Run, folder: Path, **changes: Any) -> Path:
    """A copy of a run whose config.yaml says otherwise."""
    shutil.copytree(run.path, folder)
    config = dataclasses.replace(run.config, **changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    return folder


def test_a_run_without_what_is_asked_for_is_refused(run: Run, tmp_path: Path) -> None:
    def refused(kind: str, folder: Path, env: str | None = None) -> str:
        with pytest.raises(InputError) as error:
            make_mujoco(env, kind, run=folder, transitions=None if "replay" in kind else 10)
        return str(error.value)

    assert f"this run learned in {LINE}, not in Ant-v5" in refused("expert", run.path, "ant")
    offline = changed(run, tmp_path / "offline", loop=None)
    assert "this is no online run" in refused("expert", offline)
    two = changed(run, tmp_path / "two", members=(Member(0),) * 2)
    assert "this run has 2 members" in refused("expert", two)
    stopped = changed(run, tmp_path / "stopped", steps=1_000)
    assert "its training stopped at step 900 of 1,000" in refused("expert", stopped)

    bare = changed(run, tmp_path / "bare")
    shutil.rmtree(bare / "policies")
    step = open_source(bare).medium_step
    assert f"did not keep its policy of step {step}" in refused("medium", bare)
    (bare / "replay.npz").unlink()
    said = refused("medium-replay", bare)
    assert "kept no replay buffer; train it with `keep_replay=True`" in said
    loop = run.config.loop
    assert loop is not None
    for number, wrong in enumerate(({"environments": 2}, {"buffer": 100})):
        folder = changed(run, tmp_path / f"ring-{number}", loop=dataclasses.replace(loop, **wrong))
        assert "does not hold the run in order" in refused("medium-replay", folder)

    (bare / "frozen.csv").write_text("member,step,noticed\n0,100,200\n")
    assert "its training diverged" in refused("expert", bare)


def test_a_run_that_learned_too_little_or_too_late_is_refused(run: Run, tmp_path: Path) -> None:
    folder = changed(run, tmp_path / "run")
    header, *rows = (folder / "evaluations.csv").read_text().splitlines()
    last = [row for row in rows if row.startswith("900,")]
    (folder / "evaluations.csv").write_text("\n".join([header, *last, ""]))
    with pytest.raises(InputError, match=r"no policy before its last .* came a third of the way"):
        make_mujoco(None, "medium", run=folder, transitions=10)
    make_mujoco(None, "expert", run=folder, transitions=10)

    bad = [",".join([*row.split(",")[:4], "-99.0", *row.split(",")[5:]]) for row in last]
    (folder / "evaluations.csv").write_text("\n".join([header, *bad, ""]))
    with pytest.raises(InputError, match=r"its last policy \(return -99.0\) is no better than"):
        make_mujoco(None, "random", run=folder, transitions=10)

    (folder / "evaluations.csv").write_text(header + "\n")
    with pytest.raises(InputError, match="its last policy was not evaluated"):
        make_mujoco(None, "random", run=folder, transitions=10)
