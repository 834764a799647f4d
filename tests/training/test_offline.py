"""`train_offline` from data to run folder, and what it refuses."""

import csv
import json
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import xql
from worlds import Line, line_data, register_line, same_bits
from xql.agents import member
from xql.cli.train import finish
from xql.data.actions import box
from xql.data.dataset import Dataset
from xql.errors import EnvironmentFault, InputError
from xql.reports.comparable import whole_evaluations
from xql.runs.checkpoints import CheckpointWriter
from xql.runs.config import EvaluationPlan, RunConfig
from xql.runs.folder import COLUMNS, Divergence, RunFolder
from xql.runs.policy import load_policy
from xql.runs.run import Run
from xql.training.diagnosis import Cause, cause_at_the_end
from xql.training.divergence import RewardRange
from xql.training.evaluate import PopulationEvaluator, evaluate_run
from xql.training.offline import Pace, execute_offline, plan_offline
from xql.training.population import initial_population
from xql.training.progress import ProgressBar
from xql.training.run_logger import RunLogger

SMALL = {"hidden": [16], "batch_size": 32}


def learn(folder: Path, data: Dataset | None = None, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "steps": 60,
        "out": folder,
        "options": SMALL,
        "evaluations": 3,
        "episodes": 2,
        "last_episodes": 3,
        "progress": False,
    }
    return xql.train_offline(line_data() if data is None else data, **(settings | changes))


def lines_of(run: Run) -> list[str]:
    return (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds × two β on the line, evaluated, on standardised observations."""
    return learn(
        tmp_path_factory.mktemp("runs") / "line",
        env=register_line(),
        seeds=[4, 2],
        beta=[0.5, 2.0],
        options=SMALL | {"observations": "standardised", "rewards": "scale:0.5"},
    )


def test_the_run_s_files(run: Run) -> None:
    names = {path.name for path in run.path.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "evaluations.csv", "checkpoints"} <= names
    assert not any(name.endswith(".part") for name in names)
    steps = [json.loads(line)["step"] for line in lines_of(run)]
    assert steps == [20, 40, 60]
    assert sorted(int(path.name) for path in run.folder.checkpoints.iterdir()) == [40, 60]


def test_discount_1_trains(tmp_path: Path) -> None:
    run = learn(tmp_path / "run", options=SMALL | {"discount": 1})
    assert run.config.member_config(0).discount == 1
    assert len(lines_of(run)) == 3


def test_config_yaml_says_all_that_the_run_was_asked_for(run: Run) -> None:
    config = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
    assert (config["agent"], config["preset"], config["steps"]) == ("xql", "fixed", 60)
    assert config["version"] == 2 and config["kind"] == "offline"
    assert config["hyperparameters"]["hidden"] == [16]
    assert config["sources"]["hidden"] == "given"
    assert config["sources"]["beta"] == "given: each member's own, see members"
    assert config["scaling"]["rewards"] == "scale:0.5"
    assert config["environment"] == "XQLTestLine-v0"
    assert config["data"]["transitions"] == 200
    assert config["data"]["actions"] == {"kind": "box", "low": [-1.0], "high": [1.0]}


def test_members_are_seeds_times_betas_with_beta_outermost(run: Run) -> None:
    members = [(one.seed, one.changes["beta"]) for one in run.config.members]
    assert members == [(4, 0.5), (2, 0.5), (4, 2.0), (2, 2.0)]
    assert run.population.config.beta.tolist() == [0.5, 0.5, 2.0, 2.0]
    assert len(run.policies) == 4


def test_evaluations_csv(run: Run) -> None:
    with (run.path / "evaluations.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    played = [(int(r["step"]), int(r["member"]), int(r["episode"])) for r in rows]
    expected = [
        (step, index, episode)
        for step, episodes in ((20, 2), (40, 2), (60, 3))
        for index in range(4)
        for episode in range(episodes)
    ]
    assert played == expected
    assert {r["member"]: r["seed"] for r in rows} == {"0": "4", "1": "2", "2": "4", "3": "2"}
    assert {r["length"] for r in rows} == {"10"}
    assert {r["success"] for r in rows} <= {"0", "1"}
    assert {r["score"] for r in rows} == {""}  # the line has no reference scores


def test_results_are_one_per_swept_value_over_seeds(run: Run) -> None:
    assert [result.changes for result in run.results] == [{"beta": 0.5}, {"beta": 2.0}]
    for result in run.results:
        assert result.last.interval.seeds == 2
        assert result.last.episodes == 3
        assert "step 60" in result.last.label
    lines = run.describe().splitlines()
    assert len(lines) == 4 and lines[0].startswith("β = 0.5: ")
    assert "last of 3 evaluations" in lines[0] and "best over 3 evaluations" in lines[1]


def test_the_last_evaluation_is_the_returned_policy_s(run: Run) -> None:
    # Played again by hand: reset with 10 000 + episode, the mode at every step.
    import gymnasium

    env = gymnasium.make("XQLTestLine-v0")
    for row in (one for one in run.evaluations if one.step == 60 and one.member == 3):
        observation, _ = env.reset(seed=10_000 + row.episode)
        total, done = 0.0, False
        while not done:
            observation, reward, _, done, _ = env.step(run.policies[3](observation))
            total += float(reward)
        assert row.episode_return == pytest.approx(total, abs=1e-4)
    env.close()


def test_a_run_comes_back_from_disk_bit_for_bit(run: Run) -> None:
    opened = xql.Run.open(run.path)
    assert same_bits(opened.population, run.population)
    observations = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    for ours, theirs in zip(opened.policies, run.policies, strict=True):
        assert np.array_equal(ours(observations), theirs(observations))
    assert opened.evaluations == run.evaluations
    earlier = xql.Run.open(run.path, step=40)
    assert earlier.population.step.tolist() == [40] * 4
    loaded = load_policy(run.path, 2)
    assert np.array_equal(loaded(observations), run.policies[2](observations))


def test_a_policy_takes_raw_observations_and_undoes_the_scaling(run: Run) -> None:
    x = line_data().observations[:, 0].astype(np.float64)
    raw = np.array([[0.3, 1.0], [-0.8, 1.0]], np.float32)
    # The second column never changes: it is shifted to 0 and not scaled.
    scaled = np.stack([(raw[:, 0] - x.mean()) / x.std(), np.zeros(2)], axis=1)
    seen = jnp.array(scaled, jnp.float32)
    network = member(run.population.policy.network, 1)
    np.testing.assert_allclose(run.policies[1](raw), network.mean(seen), atol=1e-5)
    assert not np.allclose(run.policies[1](raw), network.mean(jnp.array(raw)), atol=1e-3)
    # One observation, a batch and a batch of batches alike.
    np.testing.assert_allclose(run.policy(raw[0]), run.policy(raw)[0], atol=1e-6)
    assert run.policy(raw[None]).shape == (1, 2, 1)
    key = jax.random.key(0)
    assert np.array_equal(run.policy(raw, key), run.policy(raw, key))
    assert not np.array_equal(run.policy(raw, key), run.policy(raw))
    assert np.abs(run.policy(raw, key)).max() <= 1.0


def test_one_seed_gives_the_same_bits_and_another_gives_others(tmp_path: Path) -> None:
    first, second, other = (
        learn(tmp_path / name, seeds=[seed]) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert same_bits(first.population, second.population)
    assert not same_bits(first.population.policy, other.population.policy)

    def metrics(run: Run) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in lines_of(run)]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert metrics(first) == metrics(second) != metrics(other)


def test_how_often_one_evaluates_does_not_change_what_is_learned(tmp_path: Path) -> None:
    often = learn(tmp_path / "a", env=register_line(), evaluations=5)
    once = learn(tmp_path / "b", evaluations=1)
    assert same_bits(often.population, once.population)
    assert once.evaluations == []
    assert once.describe() == "not evaluated"


def test_a_run_compiles_its_loop_and_its_evaluation_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with jax.log_compiles():
        learn(tmp_path / "run", env=register_line(), options={"hidden": [13], "batch_size": 8})
    done = [one for one in caplog.messages if "Finished XLA compilation of" in one]
    for name in ("_chunk", "act_members"):
        assert sum(f"jit({name})" in one for one in done) == 1, (name, done)


def test_precision_is_of_the_updates_alone_and_is_kept(tmp_path: Path) -> None:
    register_line()
    runs = {
        precision: learn(tmp_path / precision, agent="bc", precision=precision)
        for precision in ("float32", "bf16")
    }
    whole, rounded = runs["float32"].config, runs["bf16"].config
    assert RunConfig.load(runs["bf16"].path).precision == rounded.precision == "bf16"
    assert "precision" not in whole.to_dict()
    assert rounded.to_dict() == whole.to_dict() | {"precision": "bf16"}
    kinds = {leaf.dtype for leaf in jax.tree.leaves(runs["bf16"].population.policy)}
    assert jnp.bfloat16 not in kinds
    one, other = (load_policy(run.path) for run in runs.values())
    apart = np.abs(one(line_data().observations) - other(line_data().observations)).max()
    assert 0 < apart < 0.05


def test_behaviour_cloning_runs_the_same_way(tmp_path: Path) -> None:
    run = learn(tmp_path / "bc", agent="bc", env=register_line(), seeds=2)
    assert run.results[0].changes == {}
    assert same_bits(xql.Run.open(run.path).population, run.population)
    assert run.describe().startswith("0.0 [") or "success" in run.describe()


def test_without_out_the_folder_is_the_next_free_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [learn(tmp_path, out=None, evaluations=1, steps=2).path for _ in range(2)]
    assert paths == [Path("runs/line-xql-1"), Path("runs/line-xql-2")]


# From about 5e5 on the squared gradient of the second update overflows in Adam's state.
SQUARED = SMALL | {"critic_loss": "squared"}


def test_members_that_diverge_are_rolled_back_then_frozen_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"env": register_line(), "options": SQUARED | {"hidden": [12]}}
    sweep = {"critic_learning_rate": [1e-3, 2e6, 1e9]}
    with jax.log_compiles():
        run = learn(tmp_path / "run", sweep=sweep, progress=True, **settings)
    # Where the members diverged, their updates were made again: by the same program.
    done = [one for one in caplog.messages if "Finished XLA compilation of jit(_chunk)" in one]
    assert len(done) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "warning: member 1 has diverged by step 20 and goes on from step 0, with 20 fewer updates "
        "and learning rates divided by 10 (value_learning_rate 3e-05, critic_learning_rate "
        "200000, policy_learning_rate 3e-05); update 2 was the first that was not finite, in this "
        "order: networks: critic optimizer; its batch: |observation| up to 1.47, reward -"
    ) in said
    assert "warning: member 2 has diverged again by step 40 and is frozen as it was at" in said
    assert "try a smaller beta_kl and a smaller policy_kl warning" in said
    assert "1 of 3 diverged and stopped; 1 of 3 diverged and went on with smaller steps" in said
    assert "training stops" not in said
    # Of what was thrown away nothing else is said.
    assert "member 2's critic" not in said and "member 2 by step" not in said
    assert run.folder.read_divergences() == [
        Divergence(member=1, step=0, noticed=20, action="rolled back", lost=20),
        Divergence(member=2, step=0, noticed=20, action="rolled back", lost=20),
        Divergence(member=2, step=20, noticed=40, action="frozen", lost=20),
    ]
    assert run.folder.read_frozen() == {2: 20}
    assert run.population.step.tolist() == [60, 40, 0]
    rates = run.population.config.critic_learning_rate
    assert rates.tolist() == pytest.approx([1e-3, 2e5, 1e8])
    assert cause_at_the_end(run.population, {}, 1) == Cause((), ())
    assert all(np.isfinite(row.episode_return) for row in run.evaluations)
    assert same_bits(xql.Run.open(run.path).population, run.population)
    described = run.describe()
    assert (
        "member 1 diverged by step 20 and was put back to step 0, with learning rates divided by "
        "10: it has 20 fewer updates"
    ) in described
    assert "member 2 diverged: it is evaluated as it was at step 20" in described
    finish(run, plot=False)

    # The first member has the bits that it has beside others that stay sound.
    sweep = {"critic_learning_rate": [1e-3, 2e-3, 3e-3]}
    sound = learn(tmp_path / "sound", sweep=sweep, **settings)
    assert sound.folder.read_divergences() == []
    assert same_bits(member(sound.population, 0), member(run.population, 0))

    # A checkpoint's learning rates are those of config.yaml but for members that were rolled back.
    (run.path / "divergence.jsonl").unlink()
    with pytest.raises(InputError, match=r"member 1 was trained with value_learning_rate 3e-05"):
        xql.Run.open(run.path)


def test_where_every_member_is_frozen_training_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> None:
        raise RuntimeError("no memory left")

    # To find out what broke first decorates the run.
    monkeypatch.setattr("xql.training.run_logger.replayed_causes", no_memory)
    # The last policy is kept, and evaluated as the result.
    alone = learn(
        tmp_path / "alone",
        env=register_line(),
        options=SQUARED | {"critic_learning_rate": 1e9},
        progress=True,
    )
    said = " ".join(capsys.readouterr().err.split())
    missing = "no diagnosis of the divergence: RuntimeError: no memory left"
    assert said.count(missing) == 2
    assert "; not finite by then, and which was first is not known: networks: critic opt" in said
    assert "warning: the member has diverged by step 40 (not finite: parameters)" in said
    assert "so training stops here; beta_kl is 0.05, policy_kl is 2, try a smaller" in said
    assert f"the run is kept in {alone.path}" in said and "1 of 1 diverged and stopped" in said
    assert [line.step for line in alone.folder.read_metrics()] == [20, 40]
    assert {row.step for row in alone.evaluations} == {20, 60}
    assert same_bits(xql.Run.open(alone.path).population, alone.population)
    # It stands beside runs that went on: one whole evaluation is as good as another.
    steps = [row.step for row in whole_evaluations(alone.folder)]
    assert {step: steps.count(step) for step in steps} == {60: 3, 20: 2, 40: 2}
    with pytest.raises(SystemExit) as end:
        finish(alone, plot=False)
    assert end.value.code == 1


def test_a_beta_given_stands_in_for_one_that_the_preset_lacks(tmp_path: Path) -> None:
    data = line_data(name="hopper-random-v2")
    run = learn(tmp_path / "run", data, preset="tuned", beta=3.0, evaluations=1, steps=2)
    assert run.population.config.beta.tolist() == [3.0]


def test_bounds_that_the_data_does_not_state_are_what_its_actions_span(tmp_path: Path) -> None:
    data = line_data()
    actions = np.where(np.isin(np.arange(len(data.actions)), data.starts)[:, None], 3.0, 0.0)
    actions = (actions + data.actions).astype(np.float32)  # in [2, 4], and 0 where none was taken
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        run = learn(tmp_path / "run", data.with_metadata(actions=actions), evaluations=1, steps=2)
    taken = actions[data.starts]
    assert run.config.data.actions == box(taken.min(0), taken.max(0))


def broken() -> Dataset:
    data = line_data()
    rewards = data.rewards.copy()
    rewards[3] = np.nan
    return data.with_metadata(rewards=rewards)


REFUSED = [
    ({"beta": 0.0}, "beta cannot be 0; give a number above 0"),
    ({"beta": [1.0, -2.0]}, "beta cannot be -2; give a number above 0"),
    ({"beta": float("nan")}, "beta cannot be nan; give finite numbers"),
    ({"beta": [1.0, 1.0]}, "beta=1,1; give values, each one once"),
    ({"beta": []}, "beta=; give values, each one once"),
    ({"options": {"beta": 0.0}}, "option beta cannot be 0"),
    ({"options": {"lr": 1.0}}, "unknown option 'lr'"),
    ({"seeds": [1, 1]}, "a seed is given twice in [1, 1]"),
    ({"seeds": 0}, "there is no seed to train"),
    ({"agent": "bc", "beta": 1.0}, "agent bc has no beta; leave out `beta`"),
    ({"sweep": {"discount": [0.9, 1.1]}}, "discount cannot be 1.1; give at least 0 and at most 1"),
    ({"sweep": {"hidden": [8.0]}}, "hidden cannot be swept: it changes the compiled program"),
    (
        {"sweep": {"beta": [1.0]}, "options": SMALL | {"beta": 3.0}},
        "beta is swept and given; give it in one of them",
    ),
    ({"sweep": {"betta": [8.0]}}, "agent xql has no betta; did you mean 'beta'?"),
    ({"sweep": {"beta": [1.0]}, "beta": 2.0}, "beta is given twice; give one of them"),
    (
        {"options": {"beta": "automatic"}},
        "option beta cannot be 'automatic'; it takes a number",
    ),
    ({"sweep": {"beta_kl": [0.1, 0.2]}, "beta": 1.0}, "beta_kl has no effect"),
    ({"precision": "bf61"}, "`precision='bf61'` is unknown; did you mean 'bf16'?"),
    (
        {"options": {"precision": "bf16"}},
        "`options`: precision is no hyperparameter; give `precision` beside it",
    ),
    (
        {"sweep": {"steps": [5.0, 6.0]}},
        "`sweep`: steps is no hyperparameter; give `steps` beside it",
    ),
    ({"agent": "iqm"}, "unknown agent 'iqm'"),
    ({"preset": "tunned"}, "unknown preset 'tunned'"),
    ({"steps": 0}, "`steps=0` is too small; give at least 1"),
    ({"evaluations": 0}, "`evaluations=0` is too small"),
    ({"episodes": -1}, "`episodes=-1` is too small"),
    ({"env": "XQLTestLyne-v0"}, "no environment 'XQLTestLyne-v0'"),
    ({"env": "Pendulum-v1"}, "do not fit Pendulum-v1, which has observation size 3 and"),
    ({"options": {"observations": "standard"}}, "did you mean 'standardised'?"),
    ({"data": broken}, "NaN in rewards (row 3)"),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    register_line()
    data = changes["data"]() if "data" in changes else None
    with pytest.raises(InputError) as refusal:
        learn(
            tmp_path / "run", data, **{name: one for name, one in changes.items() if name != "data"}
        )
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_never_written_over(run: Run) -> None:
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="there is already something here"):
        learn(run.path)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_a_policy_refuses_what_it_cannot_use(run: Run) -> None:
    with pytest.raises(InputError, match="its last axis must be 2"):
        run.policy(np.zeros(3, np.float32))
    with pytest.raises(InputError, match="there is no member 4; choose 0 to 3"):
        load_policy(run.path, 4)
    with pytest.raises(InputError, match="there is no such run folder"):
        xql.Run.open(run.path / "nothing")
    with pytest.raises(InputError, match="there is no checkpoint 55"):
        xql.Run.open(run.path, step=55)


def test_overestimation_is_warned_of_once_a_member(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Rewards from -1.76 to 0 at γ = 0.99: no return is above 0, none below -176, and 18.6 is noise.
    # Steps this long throw Q about, and up in some members.
    wild = {"beta": 1.0, "critic_learning_rate": 10.0, "critic_loss": "squared"}
    run = learn(tmp_path / "run", seeds=6, options=SMALL | wild)
    said = " ".join(capsys.readouterr().err.split())
    critics = np.array([line.values["q"] for line in run.folder.read_metrics()])
    wrong = np.any(critics > 18.6, axis=0)
    assert wrong.any() and not wrong.all()
    for index, warned in enumerate(wrong):
        assert said.count(f"member {index}'s critic stands at") == warned
    assert "but no return can be above 0 here: do not trust its policy; try a larger beta" in said
    assert run.folder.read_frozen() == {}


def logged_by_hand(
    folder: Path, rewards: str, *lines: dict[str, float], stretch: int = 1
) -> tuple[Run, str]:
    """A run's folder after these metrics, and the verdict.

    They are at steps 0, stretch, 2 stretch and so on.
    """
    options = SMALL | {"rewards": rewards}
    config = plan_offline(line_data(), steps=4, options=options, env="none").config
    agent, bar = config.make_agent(), ProgressBar(4, 1, enabled=False)
    population = initial_population(agent, config.spec, config.members)
    created = RunFolder.create(folder, config)
    logger = RunLogger(created, bar, None, agent, population, writer=CheckpointWriter())
    scale = config.scaling.reward_scale
    scaled = RewardRange(-1.76 * scale, 0.0)
    for step, values in enumerate(lines):
        metrics = {name: np.array([value], np.float32) for name, value in values.items()}
        logger.metrics(step * stretch, population, metrics, scaled)
    return Run(created, population), logger.verdict()


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        (1, "V stands at 30 by step 1, but no return can be above 0 here: do not trust its"),
        (-7, "V stands at -210 by step 1, but no return can be below -176 here: do not trust its"),
    ],
)
def test_a_v_beyond_every_return_is_warned_of_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sign: int, said: str
) -> None:
    lines = [{"q": sign * 18.0, "v": sign * v} for v in (18.0, 30.0, 40.0)]
    _, verdict = logged_by_hand(tmp_path / "run", "raw", *lines)
    printed = " ".join(capsys.readouterr().err.split())
    assert printed.count("stands at") == 1
    assert f"member 0's {said}" in printed
    side = "above" if sign > 0 else "below"
    assert verdict == f"look at the warnings: values {side} all possible returns"


def test_a_critic_that_is_conservative_may_lie_below_every_return(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"q": -400.0}, {"q": -500.0}]
    _, verdict = logged_by_hand(tmp_path / "run", "raw", *lines, stretch=2_000)
    assert verdict == "training looks healthy"
    # Nothing would have been found yet.
    _, verdict = logged_by_hand(tmp_path / "short", "raw", *lines, stretch=1_999)
    assert verdict == "too short to say whether training is healthy"


def test_what_auto_scaled_is_logged_and_said_in_the_data_s_own_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_return = ("v", "q", "policy_q", "advantage", "bellman_error", "beta")
    others = ("weight", "critic_loss", "effective_sample_size", "mean_exp")
    line = dict.fromkeys((*of_return, *others, "inverse_temperature"), 200.0)
    line |= {"effective_sample_size": 0.5}
    run, _ = logged_by_hand(tmp_path / "auto", "auto", line)
    scale = run.config.scaling.reward_scale
    assert scale != 1.0
    (logged,) = run.folder.read_metrics()
    for name, value in line.items():
        factor = 1 / scale if name in of_return else 1.0
        factor = scale if name == "inverse_temperature" else factor
        assert logged.values[name] == [np.float32(value) * factor], name
    said = " ".join(capsys.readouterr().err.split())
    assert f"critic stands at {200 / scale:,.0f} by step 0, but no return can be above 0" in said
    # A scaling that was chosen has its own unit, and so has the β chosen for it.
    run, _ = logged_by_hand(tmp_path / "chosen", f"scale:{scale}", line)
    assert run.folder.read_metrics()[0].values["v"] == [200.0]


def test_swept_hyperparameters_cross_and_each_member_learns_with_its_own(tmp_path: Path) -> None:
    sweep = {"beta": [0.5, 2.0], "inverse_temperature": [1.0, 3.0]}
    run = learn(tmp_path / "run", sweep=sweep, seeds=2, evaluations=1, env=register_line())
    assert [(*one.changes.values(), one.seed) for one in run.config.members] == [
        (beta, kappa, seed) for beta in (0.5, 2.0) for kappa in (1.0, 3.0) for seed in (0, 1)
    ]
    assert [one.label for one in run.results] == [
        f"β = {beta:g}, inverse_temperature = {kappa:g}" for beta in (0.5, 2.0) for kappa in (1, 3)
    ]
    alone = learn(
        tmp_path / "alone", seeds=[1], options=SMALL | {"beta": 2.0, "inverse_temperature": 1.0}
    )
    (index,) = [
        place
        for place, one in enumerate(run.config.members)
        if one.seed == 1 and one.changes == {"beta": 2.0, "inverse_temperature": 1.0}
    ]
    for ours, theirs in zip(
        jax.tree.leaves(member(run.population, index).policy.network),
        jax.tree.leaves(member(alone.population, 0).policy.network),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_plan_writes_nothing_and_says_what_execution_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_offline(line_data(), steps=4, options=SMALL, env=register_line())
    assert list(tmp_path.iterdir()) == []
    assert plan.config.environment == "XQLTestLine-v0"
    assert "line: 200 transitions in 20 episodes" in plan.notes
    run = execute_offline(plan, tmp_path / "run", progress=False)
    assert run.config.to_dict() == plan.config.to_dict()
    assert RunConfig.load(tmp_path / "run").to_dict() == plan.config.to_dict()


def test_a_run_that_is_interrupted_before_it_saved_anything_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def milestone(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunLogger, "milestone", milestone)
    plan = plan_offline(line_data(), steps=60, options=SMALL, evaluation=EvaluationPlan(2, 0, 0))
    with pytest.raises(KeyboardInterrupt):
        execute_offline(plan, tmp_path / "run")
    said = f"interrupted: {tmp_path / 'run'} keeps the log and no policy yet"
    assert said in " ".join(capsys.readouterr().err.split())


def test_an_environment_of_other_action_bounds_is_said(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bounds(low: float, high: float) -> None:
        box = gymnasium.spaces.Box(low, high, (1,), np.float32)
        monkeypatch.setattr(Line, "action_space", box)

    bounds(-0.5, 1.0)
    said = r"act within \[-1, 1\] in action 0, and XQLTestLine-v0 takes \[-0.5, 1\]: .* is clipped"
    with pytest.warns(UserWarning, match=said):
        evaluate_run(run.path, episodes=1, trust=["worlds"])
    bounds(-1.0, 4.0)
    assert "the rest of it is never used" in PopulationEvaluator(run.config, first).bounds
    bounds(-np.inf, np.inf)
    assert PopulationEvaluator(run.config, first).bounds == ""


def first(state: Any) -> Any:
    return None


def test_an_environment_that_fails_in_evaluation_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def gone(self: Line, action: np.ndarray) -> Any:
        nonlocal steps
        steps += 1
        if steps == 1:  # before anything is trained
            return self._observe(), 0.0, False, False, {}
        raise ConnectionError("licence server gone")

    data = line_data()
    monkeypatch.setattr(Line, "step", gone)
    with pytest.raises(EnvironmentFault) as fault:
        learn(tmp_path / "run", data, env=register_line(), evaluations=1)
    assert str(fault.value) == (
        "XQLTestLine-v0: step raised ConnectionError: licence server gone; the policy of step 60 "
        f"is kept in {tmp_path / 'run'}"
    )
    assert np.isfinite(load_policy(tmp_path / "run")(np.zeros(2, np.float32))).all()
    monkeypatch.undo()
    for step in (None, 60):
        rows = evaluate_run(tmp_path / "run", episodes=1, step=step, trust=["worlds"])
        assert {row.step for row in rows} == {60}


def test_a_missing_time_limit_is_said_before_the_first_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(tmp_path / "run", env=register_line(), progress=True, evaluations=1)
    said = " ".join(capsys.readouterr().err.split())
    note = "the environment states no time limit: evaluation episodes are cut after 10,000 steps"
    assert said.index(note) < said.index("step 60:")


def test_what_is_learned_and_logged_does_not_depend_on_the_pace_of_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learn(tmp_path / "whole")
    monkeypatch.setattr("xql.training.offline.FIRST_CHUNK", 3)
    pieces = learn(tmp_path / "pieces")
    assert same_bits(whole.population, pieces.population)
    ours, theirs = (
        [
            {k: v for k, v in line.values.items() if k != "seconds"}
            for line in one.folder.read_metrics()
        ]
        for one in (whole, pieces)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("updates", "seconds", "then"),
    [(64, 8.0, 8), (64, 0.5, 128), (64, 1e-9, 256), (1, 30.0, 1)],
)
def test_a_call_is_made_to_take_a_second(updates: int, seconds: float, then: int) -> None:
    pace = Pace()
    pace.updates = updates
    pace.took(updates, seconds)
    assert pace.updates == then


def test_auto_measures_returns_at_the_agent_s_discount_the_largest_of_a_sweep() -> None:
    def scale(agent: str = "xql", **changes: Any) -> float:
        options = SMALL | {"rewards": "auto", **changes.pop("options", {})}
        plan = plan_offline(cycle, agent=agent, options=options, **changes)
        assert RunConfig.from_dict(plan.config.to_dict(), "here").scaling.rewards == "auto"
        return plan.config.scaling.reward_scale

    # One endless episode of rewards 1: returns-to-go of up to 1 / (1 − γ).
    one = np.ones(10_000)
    columns = np.zeros((10_000, 1))
    cycle = Dataset.from_arrays(columns + np.arange(10_000)[:, None], columns, one, 0 * one)
    low, high = (scale(options={"discount": discount}) for discount in (0.9, 0.9999))
    assert low > high
    assert scale(sweep={"discount": [0.9, 0.9999, 0.5]}) == high
    options = {"hidden": [16]}
    assert scale("bc", options=options) == scale(options={"discount": 0.99})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "default; beta and inverse_temperature tune themselves"),
        ({"sweep": {"inverse_temperature": [1.0]}}, "default; beta tunes itself"),
        ({"options": {"beta": 2.0}}, "fixed"),
        ({"sweep": {"beta": [2.0, 4.0]}}, "fixed"),
        ({"preset": "fixed", "options": {"beta": "auto"}}, "fixed; beta tunes itself"),
    ],
)
def test_a_run_says_first_what_tunes_itself(given: dict[str, Any], said: str) -> None:
    plan = plan_offline(line_data(), env="none", **given)
    assert plan.notes[1] == f"settings: preset {said}"
    assert plan.config.preset == said.partition(";")[0]
