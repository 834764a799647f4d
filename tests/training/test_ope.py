"""`xql ope` and `xql select` on runs, and the check of a run's critic."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import xql
from worlds import line_data
from xql.agents import member
from xql.agents.networks import Critic
from xql.cli import main
from xql.data.dataset import Dataset
from xql.data.files import save_dataset
from xql.data.scaling import returns_to_go
from xql.data.selection import set_apart
from xql.errors import InputError
from xql.evaluation.ope import interval, verdict
from xql.runs.config import RunConfig
from xql.runs.policy import load_population
from xql.runs.run import Run
from xql.training.ope import (
    FILE,
    CriticCheck,
    check_critic,
    select,
)
from xql.training.reopen import plan_again, reopen, reopen_held_out

QUICK = ("--updates", "20", "--replicates", "3")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("ope")
    save_dataset(line_data(), home / "line.npz")
    data = line_data(seed=100)
    save_dataset(data, home / "other.npz")
    wide = np.concatenate([data.observations, data.observations[:, :1]], axis=1)
    save_dataset(data.with_metadata(observations=wide), home / "wide.npz")
    one_hot = np.ones_like(data.actions)
    save_dataset(data.with_metadata(actions=one_hot, discrete=True), home / "discrete.npz")
    save_dataset(Dataset.from_episodes([data.episode(0)]), home / "one.npz")
    return home


@pytest.fixture(scope="module")
def run(home: Path) -> Run:
    return xql.train_offline(
        home / "line.npz",
        steps=5,
        seeds=2,
        env="none",
        out=home / "run",
        options={"hidden": [8], "batch_size": 8, "rewards": "minus_one"},
        progress=False,
    )


def status(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return int(str(end.code or 0))
    return 0


def test_ope_says_whether_it_is_better(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("ope", str(run.path), *QUICK) == 0
    said = capsys.readouterr().out
    for row in ("policy", "behaviour policy", "difference", "its actions", "its critic"):
        assert re.search(rf"^ *{row}", said, flags=re.MULTILINE), row
    last = said.splitlines()[-1]
    assert last.startswith(("the policy is better", "the policy is worse", "it cannot be said"))
    # In the data's own unit, whatever the run's scaling is: the logged returns are.
    data = line_data()
    worth = returns_to_go(data, 0.99)[data.firsts].mean()
    assert f"{worth:.4g}" in said


def test_ope_leaves_its_verdict_in_the_run(run: Run, home: Path) -> None:
    words = ("ope", str(run.path), *QUICK, "--data")
    assert status(*words, str(home / "line.npz"), "--member", "1", "--seed", "3") == 0
    found = json.loads((run.path / FILE).read_text())
    assert found["data"]["learned_from"]
    assert (found["member"], found["step"], found["agent"]) == (1, 5, "xql")
    assert (found["updates"], found["replicates"], found["seed"]) == (20, 3, 3)
    # The latest one stays, and it holds what the same call in Python finds.
    assert status(*words, str(home / "other.npz")) == 0
    found = json.loads((run.path / FILE).read_text())
    same = run.ope(home / "other.npz", replicates=3, updates=20, progress=False)
    data, policy, critic = same.data, same.policy, same.critic
    assert not found["data"]["learned_from"]
    assert found["data"]["fingerprint"] == data.dataset.fingerprint()
    assert found["policy"] == policy.value._asdict()
    assert found["behaviour"] == interval(data.behaviour)._asdict()
    assert found["difference"] == policy.difference._asdict()
    assert found["logged_return"] == data.logged_return()._asdict()
    assert policy.support is not None
    assert found["support"] == policy.support._asdict()
    assert critic is not None
    assert critic == check_critic(run.path, data.dataset)
    assert found["critic"] == critic._asdict()
    assert found["warnings"] == [*policy.warnings, *critic.warnings]
    assert found["verdict"] == verdict(policy.difference)


def test_python_says_what_the_command_says(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("ope", str(run.path), *QUICK) == 0
    out = capsys.readouterr().out
    found = xql.ope(run.path, replicates=3, updates=20, progress=False)
    assert out.rstrip("\n").endswith(found.describe())
    assert "\ndiscounted returns [95 % interval over episodes]:\npolicy " in out
    assert found.to_dict() == json.loads((run.path / FILE).read_text())
    assert f"verdict='{found.verdict}'" in repr(found)
    table = found._repr_html_()
    assert all(text in table for text in (str(found.policy.difference), found.verdict))
    for runs in (run.path, str(run.path), [run.path]):
        ranking = xql.select(runs, replicates=2, updates=2, hidden=[8], progress=False)
        assert "policies=4" in repr(ranking)


def test_one_run_is_evaluated_and_no_folder_of_runs(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.path.parent
    said = f"{folder}: this is no run, but a folder of runs; name one of them, such as {run.path}"
    for step in (None, 5):
        with pytest.raises(InputError, match=re.escape(said)):
            xql.ope(folder, step=step, updates=2, replicates=2)
    assert status("ope", str(folder), "--step", "5") == 2
    assert capsys.readouterr().err == f"xql: {said}\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hidden": (8, 0)}, "`hidden=0` is too small; give at least 1"),
        ({"member": -1}, "there is no member -1; choose 0 to 1"),
        ({"seed": -1}, "`seed=-1` is no seed"),
    ],
)
def test_what_python_asks_for_is_checked(run: Run, options: Any, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        xql.ope(run.path, updates=2, replicates=2, progress=False, **options)


def test_the_keys_of_the_verdict_are_documented(run: Run) -> None:
    page = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    section = page.split("## ope.json")[1].split("\n## ")[0]
    assert status("ope", str(run.path), *QUICK) == 0
    found = json.loads((run.path / FILE).read_text())
    keys = [*found, *found["data"], *found["policy"], *found["support"], *found["critic"]]
    assert [key for key in keys if f"`{key}`" not in section] == []


def test_the_last_event_is_the_verdict(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert status("ope", str(run.path), *QUICK, "--json") == 0
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    found = json.loads((run.path / FILE).read_text())
    assert events[-1] == {"event": "end", "run": str(run.path)} | found
    # 20 updates of the policy's critics, and as many of the behaviour policy's.
    done = [event for event in events if event["event"] == "progress"]
    assert (done[-1]["step"], done[-1]["steps"]) == (40, 40)
    capsys.readouterr()


def test_progress_is_on_standard_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("ope", str(run.path), *QUICK) == 0
    said = "3 critics of 20 updates for the policy, and as many for the behaviour policy"
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [said, "compiling"]
    assert "critics of" not in captured.out
    assert status("ope", str(run.path), *QUICK, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_a_number_that_is_not_finite_is_null(run: Run) -> None:
    found = run.ope(replicates=2, updates=2)
    broken = CriticCheck(np.inf, 1.0, 0.0, np.nan, None, "the data's unit")
    path = replace(found, critic=broken).write()
    assert json.loads(path.read_text())["critic"]["value"] is None


def test_a_verdict_that_cannot_be_written_was_said(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / FILE).unlink(missing_ok=True)
    (run.path / FILE).mkdir()
    try:
        assert status("ope", str(run.path), *QUICK) == 0
    finally:
        (run.path / FILE).rmdir()
    said = capsys.readouterr()
    assert re.search("^ *difference", said.out, flags=re.MULTILINE)
    lines = said.err.splitlines()
    assert lines[-1].startswith("no ope.json: ")


def test_the_episodes_that_were_held_out_are_evaluated_on(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "run", ("--set", "hidden=[8]", "batch_size=8", "--no-plot")
    some = ("--steps", "5", "--hold-out", "0.2", "--env", "none", "--no-report", "--out", str(out))
    assert status("train", "offline", "--data", str(home / "line.npz"), *words, *some) == 0
    learned, held = set_apart(line_data(), 0.2)
    assert held is not None
    capsys.readouterr()
    assert status("ope", str(out), *QUICK) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert f"{len(held)} episodes, held out from training; discount 0.99" in said
    about = json.loads((out / FILE).read_text())["data"]
    assert (about["held_out"], about["learned_from"]) == (True, False)
    assert about["fingerprint"] == held.fingerprint()
    # What the run learned from is opened as before, and is the rest.
    config = RunConfig.load(out)
    assert reopen(config, out).fingerprint() == learned.fingerprint()
    # So is it where the run goes on.
    again = plan_again(config, out)
    assert again.dataset.fingerprint() == learned.fingerprint()
    assert "20 % of the episodes held out: 16 of 20 episodes kept" in again.notes
    # Whoever changed what was held out has other data.
    changed = line_data().rewards.copy()
    changed[held_rows(held)] += 1
    other = line_data().with_metadata(rewards=changed)
    with pytest.raises(InputError, match=r"other numbers|fewer|its data"):
        reopen_held_out(config, out, other)


def held_rows(held: Dataset) -> np.ndarray:
    """The first row of the data that is one of the first held-out episode."""
    data = line_data()
    same = (data.observations == held.observations[0]).all(axis=1)
    return np.flatnonzero(same & (data.rewards == held.rewards[0]))[:1]


def test_runs_that_held_out_other_episodes_are_not_ranked(
    run: Run, home: Path, tmp_path: Path
) -> None:
    xql.train_offline(
        home / "line.npz",
        steps=1,
        hold_out=2,
        env="none",
        out=tmp_path / "run",
        options={"hidden": [8], "batch_size": 8, "rewards": "minus_one"},
        progress=False,
        report=False,
    )
    with pytest.raises(InputError, match="learned from other data"):
        select([run.path, tmp_path / "run"])


def test_runs_on_other_subsets_that_held_the_same_episodes_out_are_ranked(
    home: Path, tmp_path: Path
) -> None:
    for subset in ("all", "top:0.5"):
        xql.train_offline(
            home / "line.npz",
            agent="bc",
            steps=1,
            hold_out=0.2,
            env="none",
            out=tmp_path / subset,
            options={"hidden": [8], "batch_size": 8, "subset": subset},
            progress=False,
            report=False,
        )
    runs = [tmp_path / "all", tmp_path / "top:0.5"]
    found, policies = select(runs, replicates=2, updates=2)
    assert found.dataset.fingerprint() == RunConfig.load(runs[0]).data.held_out
    assert len(policies) == 2


def test_select_ranks_every_member(
    run: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("select", str(run.path), "--data", str(home / "other.npz"), *QUICK) == 0
    said = capsys.readouterr()
    assert "policy 4 of 4" in said.err
    assert "first: " in said.out
    found, policies = select([run.path], replicates=3, updates=20)
    estimates = [one.value.estimate for one in policies]
    assert {(one.member, one.step) for one in policies} == {(0, 4), (1, 4), (0, 5), (1, 5)}
    assert estimates == sorted(estimates, reverse=True)
    assert policies[0].behind(policies[0]).estimate == 0.0
    assert found.dataset.fingerprint() == line_data().fingerprint()


def test_the_critic_is_that_of_the_run(run: Run) -> None:
    data = line_data()
    found = check_critic(run.path, data)
    assert found is not None
    state = member(load_population(run.folder)[1], 0)
    first = Critic(state.critic.network.mlps[:1])
    rows = data.starts
    values = first(jnp.asarray(data.observations[rows]), jnp.asarray(data.actions[rows]))
    assert found.value == pytest.approx(float(np.mean(values)), rel=1e-4)
    costs = data.with_metadata(rewards=np.where(data.rewards == 0, 0, data.rewards - 1))
    assert found.returns == pytest.approx(returns_to_go(costs, 0.99)[rows].mean(), rel=1e-4)
    assert found.unit == "scaled rewards"
    assert found.trained_error is None
    other = check_critic(run.path, line_data(seed=100))
    assert other is not None
    assert other.trained_error == pytest.approx(found.error)
    assert other.error != found.error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--step", "7"), "there is no policy of step 7; it has 4, 5"),
        (("--member", "2"), "there is no member 2"),
        (("--discount", "1"), "--discount 1 cannot be used"),
        (("--replicates", "1"), "--replicates 1 is too small"),
        (("--data", "wide.npz"), "its observations have size 2, those of line have 3"),
        (("--data", "discrete.npz"), "its actions are continuous, those of line are discrete"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, home: Path, words: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag, value = words
    value = str(home / value) if flag == "--data" else value
    assert status("ope", str(run.path), flag, value) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_nothing_can_be_said_from_one_episode(
    run: Run, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("ope", str(run.path), "--data", str(home / "one.npz"), "--updates", "5") == 0
    shown = capsys.readouterr().out
    assert shown.count("[no interval]") == 4
    assert "than the policy that acted in the log: there is one episode" in shown
    assert json.loads((run.path / FILE).read_text())["difference"]["low"] is None


@pytest.mark.parametrize("more", [{}, {"soft_maximum": "exact"}], ids=["sampled", "exact"])
def test_discrete_actions_are_evaluated_too(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, str]
) -> None:
    # The number is 1 where the line's action is positive.
    data = line_data()
    columns = {
        "observations": data.observations[data.starts],
        "actions": (data.actions[data.starts, 0] > 0).astype(int),
        "rewards": data.rewards[data.starts],
        "terminated": np.zeros(len(data.starts), bool),
        "truncated": np.arange(len(data.starts)) % 10 == 9,
    }
    np.savez(tmp_path / "line.npz", **columns)
    xql.train_offline(
        tmp_path / "line.npz",
        steps=5,
        env="none",
        out=tmp_path / "run",
        options={"hidden": [8], "batch_size": 8} | more,
        progress=False,
    )
    assert status("ope", str(tmp_path / "run"), *QUICK) == 0
    said = capsys.readouterr().out
    assert re.search("^ *its critic", said, flags=re.MULTILINE)
