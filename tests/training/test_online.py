"""`train_online` from simulator to run folder: counts, learning, the same bits, refusals."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import xql
from worlds import Line, register_line, same_bits
from xql.agents import ONLINE, TrainState, member
from xql.cli import main
from xql.errors import InputError
from xql.runs.config import OnlineLoop
from xql.runs.folder import Divergence
from xql.runs.run import Run
from xql.training.evaluate import evaluate_run
from xql.training.online_state import initial_online_state
from xql.training.replay import Replay

SMALL = {"hidden": [16], "batch_size": 16}


def learn(folder: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "agent": "td3",
        "steps": 60,
        "out": folder,
        "options": SMALL,
        "loop": OnlineLoop(warmup=20),
        "evaluations": 3,
        "episodes": 1,
        "last_episodes": 2,
        "progress": False,
    }
    return xql.train_online(register_line(), **(settings | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learn(tmp_path_factory.mktemp("runs") / "line", seeds=[4, 2], keep_replay=True)


def test_the_run_is_like_any_other(run: Run) -> None:
    assert run.config.online
    assert run.config.loop == OnlineLoop(
        environments=1, warmup=20, update_to_data=1.0, buffer=1_000_000
    )
    assert run.config.to_dict()["kind"] == "online"
    steps = [line.step for line in run.folder.read_metrics()]
    assert steps == [20, 40, 60]
    counts = dict.fromkeys(steps, 0)
    for row in run.evaluations:
        counts[row.step] += 1
    assert counts == {20: 2, 40: 2, 60: 4}
    assert len(run.policies) == 2
    assert -1 <= run.policy(np.zeros(2, np.float32))[0] <= 1
    again = Run.open(run.path)
    assert same_bits(again.population, run.population)


def test_updates_begin_after_the_warm_up_and_are_as_many_as_asked(run: Run, tmp_path: Path) -> None:
    assert run.population.step.tolist() == [40, 40]
    twice = learn(
        tmp_path / "twice", loop=OnlineLoop(environments=2, warmup=20, update_to_data=1.5)
    )
    assert twice.population.step.tolist() == [60]
    first = run.folder.read_metrics()[0].values
    assert "critic_loss" not in first and "seconds" in first
    assert np.isfinite(run.folder.read_metrics()[1].values["critic_loss"]).all()


def test_the_replay_holds_the_run_in_order(run: Run) -> None:
    kept = np.load(run.path / "replay.npz")
    assert kept["observations"].shape == (2, 60, 2)
    assert kept["episode_lengths_0"].tolist() == [10] * 6
    inside = np.arange(60) % 10 != 9
    np.testing.assert_array_equal(
        kept["observations"][:, 1:][:, inside[:-1]], kept["next_observations"][:, inside]
    )
    # The world's own rule: x moves by a fifth of the action, and the reward is −|x|.
    moved = kept["observations"][..., 0] + 0.2 * kept["actions"][..., 0]
    np.testing.assert_allclose(kept["next_observations"][..., 0], moved, atol=1e-6)
    np.testing.assert_allclose(kept["rewards"], -np.abs(moved), atol=1e-6)
    assert (kept["masks"] == 1).all()  # it only ever times out


def test_a_replay_that_wrapped_around_is_kept_oldest_first(run: Run, tmp_path: Path) -> None:
    # More rows than it holds: without updates two runs of one seed see the same.
    still = SMALL | {"policy_learning_rate": 0.0, "critic_learning_rate": 0.0}
    for name, buffer in (("whole", 60), ("short", 50)):
        loop = OnlineLoop(warmup=20, buffer=buffer)
        learn(tmp_path / name, options=still, loop=loop, keep_replay=True)
    whole, short = (np.load(tmp_path / name / "replay.npz") for name in ("whole", "short"))
    for column in ("observations", "actions", "rewards", "masks", "next_observations"):
        np.testing.assert_array_equal(short[column], whole[column][:, 10:])


def test_after_the_warm_up_the_policy_acts_with_fresh_noise_at_every_step(tmp_path: Path) -> None:
    still = SMALL | {"policy_learning_rate": 0.0, "critic_learning_rate": 0.0}
    run = learn(tmp_path / "run", options=still, steps=400, keep_replay=True)
    kept = np.load(tmp_path / "run" / "replay.npz")
    noise = (kept["actions"] - run.policy(kept["observations"]))[0, :, 0]
    warm, cold = noise[:20], noise[20:]
    assert warm.std() > 0.4  # uniform
    np.testing.assert_allclose(cold.std(), 0.1, rtol=0.15)
    assert len(np.unique(cold)) == len(cold)
    assert abs(np.corrcoef(cold[1:], cold[:-1])[0, 1]) < 0.2


def test_exploration_has_keys_of_its_own(run: Run) -> None:
    agent, spec = run.config.make_agent(), run.config.spec
    keys = initial_online_state(run.population, agent, spec, 8, [4, 2]).keys
    own = jax.random.key_data(keys)[0].tolist()
    for count in (1, 2, 3, 4, 8, 40):  # each length is a program
        splits = jax.random.key_data(jax.random.split(jax.random.key(4), count)).tolist()
        assert own not in splits


def test_evaluating_again_reports_the_environment_step(run: Run) -> None:
    assert {row.step for row in evaluate_run(run.path, episodes=1, trust=["worlds"])} == {60}


def test_every_update_is_counted_whatever_the_block(tmp_path: Path) -> None:
    run = learn(
        tmp_path / "run", steps=44, loop=OnlineLoop(environments=2, warmup=21), evaluations=2
    )
    assert run.population.step.tolist() == [22 + 2]
    # The first log falls on the first updates.
    assert all("critic_loss" in line.values for line in run.folder.read_metrics())


def test_one_seed_gives_the_same_bits_twice(run: Run, tmp_path: Path) -> None:
    again = learn(tmp_path / "again", seeds=[4, 2])
    assert same_bits(again.population, run.population)
    assert [row[:-1] for row in again.evaluations] == [row[:-1] for row in run.evaluations]


def test_a_member_is_the_same_run_alone(run: Run, tmp_path: Path) -> None:
    alone = learn(tmp_path / "alone", seeds=[2])
    for ours, theirs in zip(
        jax.tree.leaves(member(run.population, 1).critic.network),
        jax.tree.leaves(member(alone.population, 0).critic.network),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_beta_that_tunes_itself_from_the_command_to_the_checkpoint(tmp_path: Path) -> None:
    words = ["train", "online", "--env", register_line(), "--agent", "x-td3", "--beta", "auto"]
    words += ["--warmup", "20", "--steps", "80"]
    words += ["--evaluations", "1", "--episodes", "0", "--last-episodes", "0"]
    words += ["--set", *(f"{name}={value}" for name, value in SMALL.items())]
    sweep = ["--sweep", "beta_kl=0.05,0.4"]
    main([*words, *sweep, "--out", str(tmp_path / "both")])
    both = Run.open(tmp_path / "both")
    assert both.folder.config.to_dict()["hyperparameters"]["beta"] == "auto"
    metrics = both.folder.read_metrics()[-1].values
    # Q is still far from its targets, and a smaller KL has the larger β.
    assert metrics["beta"][0] > metrics["beta"][1] > 0
    assert metrics["kl"] == pytest.approx([0.05, 0.4], rel=0.3)
    main([*words, "--set", "beta_kl=0.4", "--out", str(tmp_path / "alone")])
    alone = member(Run.open(tmp_path / "alone").population, 0)
    beside = member(both.population, 1)
    ours, theirs = (
        jax.tree.leaves((one.temperatures, one.critic.network)) for one in (alone, beside)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_loop_compiles_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with jax.log_compiles():
        learn(tmp_path / "run", options=SMALL | {"hidden": [12]}, seeds=2, steps=130)
    for name in ("_learn_on_devices", "_explore_on_devices", "act_members"):
        text = f"Finished XLA compilation of jit({name})"
        assert sum(text in one for one in caplog.messages) == 1, name


@pytest.mark.parametrize(
    "agent",
    [
        agent if agent in ("x-td3", "sac") else pytest.param(agent, marks=pytest.mark.nightly)
        for agent in ONLINE
    ],
)
def test_every_agent_learns_the_line(agent: str, tmp_path: Path) -> None:
    # To stand still never comes closer to 0; the best policy gets there in at most five steps.
    run = learn(
        tmp_path / "run",
        agent=agent,
        steps=1500,
        loop=OnlineLoop(warmup=300),
        options={
            "hidden": [32],
            "batch_size": 64,
            "critic_learning_rate": 3e-3,
            "policy_learning_rate": 3e-3,
        },
        evaluations=1,
        last_episodes=20,
    )
    assert np.mean([row.episode_return for row in run.evaluations]) > -2.5


def test_an_observer_sees_the_replay_as_far_as_it_is_filled(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def observe(step: int, population: TrainState, replay: Replay, filled: int) -> None:
        assert np.asarray(replay.masks)[0, :filled].all()
        assert not np.asarray(replay.masks)[0, filled:].any()
        seen.append((step, filled))

    learn(tmp_path / "run", observe=observe, loop=OnlineLoop(warmup=20, buffer=50))
    assert seen == [(20, 20), (40, 40), (60, 50)]


def test_a_diverging_member_is_rolled_back_then_frozen_and_the_other_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A β this small overflows the plain loss at once.
    wild = {"loss": "plain", "max_gradient_norm": None}
    run = learn(tmp_path / "run", agent="x-td3", beta=[1e-7, 10.0], options=SMALL | wild)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "member 0 has diverged by step 40 and goes on from step 20, with 20 fewer updates and "
        "learning rates divided by 10 (critic_learning_rate 0.0001, policy_learning_rate 0.0001); "
        "not finite by then, and which was first is not known: networks: policy, critic, "
    ) in said
    assert "member 0 has diverged again by step 60 and is frozen as it was at step 40; not" in said
    assert run.folder.read_divergences() == [
        Divergence(member=0, step=20, noticed=40, action="rolled back", lost=20),
        Divergence(member=0, step=40, noticed=60, action="frozen", lost=20),
    ]
    assert run.folder.read_frozen() == {0: 40}
    assert run.population.step.tolist() == [0, 40]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.population.policy.network))
    assert all(np.isfinite(row.episode_return) for row in run.evaluations)
    assert "member 0 diverged by step 40 and was put back to step 20, with" in run.describe()
    assert "member 0 diverged: it is evaluated as it was at step 40" in run.describe()
    assert same_bits(xql.Run.open(run.path).population, run.population)


def test_where_every_member_diverges_the_run_ends_and_keeps_no_half_empty_buffer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = {"loss": "plain", "max_gradient_norm": None}
    settings: dict[str, Any] = {"steps": 80, "evaluations": 4, "keep_replay": True}
    run = learn(tmp_path / "run", agent="x-td3", beta=1e-7, options=SMALL | wild, **settings)
    assert run.folder.read_frozen() == {0: 40}
    assert [line.step for line in run.folder.read_metrics()] == [20, 40, 60]
    assert [row.step for row in run.evaluations] == [20, 40, 80, 80]
    # Of 80 rows, which whoever reads it expects, 20 would be zeros.
    assert not (tmp_path / "run" / "replay.npz").exists()
    assert "no replay buffer is kept" in " ".join(capsys.readouterr().err.split())


def test_a_simulator_that_breaks_down_ends_its_episode_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Line.step

    def breaks_at_five(self: Line, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Any]:
        observation, reward, terminated, truncated, facts = step(self, action)
        broken = observation * (np.nan if self._steps == 5 else 1.0)
        return broken, reward, terminated, truncated, facts

    monkeypatch.setattr(Line, "step", breaks_at_five)
    run = learn(tmp_path / "run", evaluations=1, episodes=0, last_episodes=0)
    # Of 60 steps every fifth.
    assert "gave no finite number, by member: 12" in " ".join(capsys.readouterr().err.split())
    assert [line.values.get("breakdowns") for line in run.folder.read_metrics()] == [[12.0]]
    assert run.folder.read_frozen() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": "xql"}, "does not learn online"),
        ({"agent": "xtd3"}, "x-td3"),
        ({"loop": OnlineLoop(warmup=60)}, "`warmup=60` leaves nothing to learn in of `steps=60`"),
        ({"loop": OnlineLoop(environments=0)}, "`environments=0`"),
        ({"loop": OnlineLoop(environments=7, warmup=20)}, "cannot be shared by 7 environments"),
        ({"loop": OnlineLoop(update_to_data=0.5, warmup=20)}, "must be a whole number"),
        ({"loop": OnlineLoop(update_to_data=float("nan"), warmup=20)}, "must be a whole number"),
        ({"loop": OnlineLoop(update_to_data=float("inf"), warmup=20)}, "must be a whole number"),
        ({"loop": OnlineLoop(environments=90, warmup=20)}, "cannot be shared by 90 environments"),
        ({"loop": OnlineLoop(environments=2, warmup=20, buffer=1)}, "`buffer` at least 2"),
        ({"options": {"hiden": [3]}}, "did you mean 'hidden'"),
        ({"options": {"precision": "bf16"}}, "give `precision` beside it"),
        (
            {"options": {"rewards": "auto"}},
            "rewards is an option of logged data, and an online run has none",
        ),
        ({"options": {"observations": "standardised"}}, "observations is an option of logged data"),
        ({"beta": 2.0}, "beta has no effect on agent td3 as it is configured"),
        ({"beta": "auto"}, "beta has no effect on agent td3 as it is configured"),
        ({"beta": "auto", "agent": "sac"}, "beta has no effect on agent sac as it is configured"),
        (
            {"agent": "x-td3", "options": SMALL | {"beta_kl": 0.1}},
            "beta_kl has no effect on agent x-td3 as it is configured",
        ),
        (
            {"options": SMALL | {"beta": 2.0}},
            "beta has no effect on agent td3 as it is configured; leave it out of `options`",
        ),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        learn(tmp_path / "run", **changes)
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_simulator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no environment 'Hoper-v9'"):
        xql.train_online("Hoper-v9", out=tmp_path / "run", steps=60, loop=OnlineLoop(warmup=20))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("agent", "warned"), [("td3", True), ("x-sac", True), ("sac", False)])
def test_overestimation_is_warned_of_but_for_sac_whose_values_include_entropy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], agent: str, warned: bool
) -> None:
    # Steps this long throw Q about by thousands, where rewards of at most 1 allow 100.
    wild = SMALL | {"critic_learning_rate": 1e3}
    run = learn(tmp_path / "run", agent=agent, seeds=2, evaluations=12, options=wild)
    critics = [max(line.values.get("q", [0.0])) for line in run.folder.read_metrics()]
    assert max(critics) > 1000
    said = " ".join(capsys.readouterr().err.split())
    assert ("'s critic stands at" in said) == warned
    assert ("but no return can be above 100 here" in said) == warned
