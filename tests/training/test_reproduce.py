"""`xql reproduce`: the same bits again, or what differs first and why."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from worlds import line_data, register_line
from xql.cli import main
from xql.data.dataset import Dataset, Episode
from xql.data.files import save_dataset
from xql.errors import InputError
from xql.runs import origin
from xql.runs.config import Extent, OnlineLoop, RunConfig
from xql.runs.differences import compare_outcomes, outcome_of
from xql.runs.folder import RunFolder
from xql.runs.run import Run
from xql.training.offline import OfflinePlan
from xql.training.reproduce import reproduce

SMALL = {"hidden": [8], "batch_size": 8}
OLD = Path(__file__).parent.parent / "fixtures" / "run-0.1"


def learn(data: Any, out: Path, seeds: Any = 2, **more: Any) -> Run:
    return xql.train_offline(
        data,
        agent="bc",
        steps=20,
        seeds=seeds,
        out=out,
        options=SMALL,
        env=register_line(),
        evaluations=2,
        episodes=1,
        last_episodes=2,
        progress=False,
        **more,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(home: Path) -> Run:
    return learn(save_dataset(line_data(), home / "line.npz"), home / "run")


def status(*words: str) -> int:
    try:
        main(words)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


def copied(run: Run, to: Path) -> Path:
    shutil.copytree(run.path, to)
    return to


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    path.write_text(after, encoding="utf-8")


def test_a_run_comes_out_the_same_and_a_changed_one_does_not(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    trust = ["--trust-environment", "worlds"]
    words = ["reproduce", str(run.path), "--out", str(tmp_path / "again"), *trust]
    assert status(*words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("the same bits:\n")
    assert "  metrics: 8 numbers\n" in printed and "  evaluations: 18 numbers\n" in printed
    assert re.search(r"training state at step 20: \d+ leaves, [\d,]+ numbers\n", printed)
    if not origin.is_uncommitted(origin.this_session()):
        assert "made with the same versions, on the same kind of machine\n" in printed
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    again = Run.open(tmp_path / "again")
    first, second = (origin.read(one.path)[0]["command"] for one in (run, again))
    assert (first, second[:14]) == ("Python", "xql reproduce ")
    assert RunConfig.load(again.path).data == run.config.data

    # The reproduction is itself a run like any other; this one's files are then changed by hand.
    spoiled = copied(again, tmp_path / "spoiled")
    edit(
        spoiled / "evaluations.csv", lambda text: re.sub(r"\n20,1,1,1,[^,]+", "\n20,1,1,1,5", text)
    )
    (session,) = origin.read(spoiled)
    session["packages"]["numpy"] = "0.9"
    git = {"revision": "1234567890abcdef", "changed": True}
    sessions = {"sessions": [session | {"cores": 77, "git": git}] * 2}
    (spoiled / "origin.json").write_text(json.dumps(sessions), encoding="utf-8")
    found = reproduce(spoiled, out=tmp_path / "third", trust=["worlds"], progress=False)
    assert not found.same
    assert [part.name for part in found.parts if not part.same] == ["evaluations"]
    text = found.describe()
    assert text.startswith("not the same:\n")
    assert "return of episode 1 of member 1 at step 20 was 5 and is -" in text
    assert f"numpy 0.9 then, {np.__version__} now" in text
    assert "  the first run was made in 2 sessions\n" in text
    assert "  xql ran from a checkout with changes that are in no commit\n" in text
    assert "git revision 1234567890 with changes then" in text
    assert "cores 77 then" in text and "last bits of a matrix product" in text
    assert found.run.path == tmp_path / "third"


def test_the_command_fails_where_something_differs(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xql.training import reproduce as module

    def spoil(path: Path) -> Any:
        found = outcome_of(RunFolder.open(path))
        now = found._replace(metrics=found.metrics | {"log_prob of member 0 at step 20": 7.0})
        return module.Reproduction(run, tuple(compare_outcomes(found, now)), ())

    monkeypatch.setattr(module, "reproduce", lambda run, **_: spoil(run))
    assert status("reproduce", str(run.path)) == 1
    printed = capsys.readouterr().out
    assert "metrics: log_prob of member 0 at step 20 was " in printed
    assert " and is 7; 1 of 8 numbers differ, at most by " in printed


def test_another_seed_is_another_run(run: Run, home: Path) -> None:
    other = learn(home / "line.npz", home / "other", seeds=[0, 5])
    parts = compare_outcomes(outcome_of(run.folder), outcome_of(other.folder))
    found = {part.name: part.text for part in parts if not part.same}
    assert found["configuration"].startswith("members[1].seed was 1 and is 5; 1 of ")
    # The first member is the same in both.
    assert re.match(
        r"log_prob of member 1 at step 10 was .+ and is .+; 4 of 8 numbers differ, at most by",
        found["metrics"],
    )
    assert re.match(
        r"return of episode 0 of member 1 at step 10 was .+ and is .+; \d+ of 18 numbers differ",
        found["evaluations"],
    )
    state = found["training state at step 20"]
    assert re.match(r"\S+\[[\d, ]+\] of member 1 was .+ and is .+; [\d,]+ of [\d,]+ numbers", state)


def test_one_bit_of_one_number_is_named(run: Run) -> None:
    then = outcome_of(run.folder)
    name = next(key for key, leaf in then.state.items() if leaf.ndim == 3)
    leaf = then.state[name].copy()
    old = leaf[1, 1, 0]
    leaf[1, 1, 0] = np.nextafter(old, np.float32(9))
    *_, part = compare_outcomes(then, then._replace(state=then.state | {name: leaf}))
    step = f"{float(leaf[1, 1, 0]) - float(old):.3g}"
    assert not part.same
    assert part.text.startswith(f"{name}[1, 0] of member 1 was {old:.9g} and is ")
    assert re.search(r"; 1 of [\d,]+ numbers in 1 of \d+ leaves differ, at most by ", part.text)
    assert part.text.endswith(f"at most by {step} ({name})")
    # A sign of zero is a bit too, and a nan is itself.
    zero, nan = np.zeros((2, 1), np.float32), np.full((2, 1), np.nan, np.float32)
    for a, b, same in ((zero, -zero, False), (nan, nan, True), (zero, nan, False)):
        *_, part = compare_outcomes(then._replace(state={"x": a}), then._replace(state={"x": b}))
        assert part.same is same
    assert "at most by nan" in part.text


def test_rows_that_are_missing_are_named(run: Run) -> None:
    then = outcome_of(run.folder)
    fewer = {key: value for key, value in then.metrics.items() if not key.endswith("step 20")}
    _, metrics, *_ = compare_outcomes(then, then._replace(metrics=fewer))
    assert re.match(r"log_prob of member 0 at step 20 was .* and is missing; 4 of 8", metrics.text)
    _, _, _, diverged, _ = compare_outcomes(then, then._replace(diverged={"member 1": 10}))
    assert diverged.text == "member 1 was missing and is 10; 1 of 1 members differ"
    nan = dict.fromkeys(then.metrics, np.nan)
    assert compare_outcomes(then._replace(metrics=nan), then._replace(metrics=nan))[1].same
    # Python's nan has no place among numbers, and may not hide the larger difference.
    _, metrics, *_ = compare_outcomes(then, then._replace(metrics=nan))
    assert "8 of 8 numbers differ" in metrics.text


def test_changed_data_is_refused_before_anything_is_written(
    run: Run, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = line_data()
    data.rewards[3] += 1e-3
    changed = save_dataset(data, tmp_path / "changed.npz")
    words = ["reproduce", str(run.path), "--data", str(changed), "--out", str(tmp_path / "again")]
    assert status(*words) == 2
    line = capsys.readouterr().err
    assert "its data had a mean return" in line or "but other numbers in them" in line
    assert line.rstrip().endswith("give what the run learned from") and line.count("\n") == 1
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("arrays", [True, False])
def test_data_that_was_given_as_arrays_is_asked_for(tmp_path: Path, arrays: bool) -> None:
    data = line_data() if arrays else save_dataset(line_data(), tmp_path / "gone.npz")
    first = xql.train_offline(
        data,
        agent="bc",
        steps=2,
        options=SMALL,
        out=tmp_path / "run",
        evaluations=1,
        progress=False,
    )
    if not arrays:
        Path(str(data)).unlink()
    out = tmp_path / "again"
    said = "given as arrays" if arrays else "cannot be opened any more"
    with pytest.raises(InputError, match=f"{said}.*`data`"):
        reproduce(first.path, out=out, progress=False)
    assert not out.exists()
    assert reproduce(first.path, out=out, data=line_data(), progress=False).same


def test_an_online_run_comes_out_the_same(tmp_path: Path) -> None:
    first = xql.train_online(
        register_line(),
        agent="td3",
        steps=40,
        seeds=2,
        out=tmp_path / "run",
        options=SMALL,
        loop=OnlineLoop(warmup=20),
        evaluations=1,
        last_episodes=1,
        progress=False,
    )
    with pytest.raises(InputError, match="an online run has no data"):
        reproduce(first.path, out=tmp_path / "again", data=line_data())
    with pytest.raises(InputError, match="trust"):
        reproduce(first.path, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()
    found = reproduce(first.path, out=tmp_path / "again", trust=["worlds"], progress=False)
    assert found.same, found.describe()


def test_a_run_that_is_not_whole_is_refused(run: Run, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "20")
    with pytest.raises(InputError, match="its latest checkpoint is of step 10 of 20; resume it"):
        reproduce(folder)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(InputError, match="there is no checkpoint"):
        reproduce(folder)
    (folder / "metrics.jsonl").rename(folder / "metrics.jsonl.gz")
    with pytest.raises(InputError, match="only a part of this run's log is kept"):
        reproduce(folder)


def test_a_run_of_xql_0_1_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again"
    with pytest.raises(InputError, match="given as arrays, which no run keeps"):
        reproduce(OLD, out=out)
    random = np.random.default_rng(0)
    episode = Episode(
        random.normal(size=(201, 3)).astype(np.float32),
        random.uniform(-1, 1, (200, 1)).astype(np.float32),
        np.full(200, -1081.146199543029 / 200, np.float32),
        terminated=False,
        truncated=True,
    )
    with pytest.raises(InputError, match="had 600 transitions and has 400 now"):
        reproduce(OLD, out=out, data=Dataset.from_episodes([episode] * 2))
    assert not out.exists()

    def execute(plan: OfflinePlan, *_: Any, **__: Any) -> Run:
        assert plan.config.data.extent == Extent(600, 3, -1081.146199543029)
        assert plan.config.xql == xql.__version__ and plan.config.data.fingerprint is not None
        return Run.open(OLD)

    monkeypatch.setattr("xql.training.reproduce.execute_offline", execute)
    found = reproduce(OLD, out=out, data=Dataset.from_episodes([episode] * 3))
    text = found.describe()
    assert found.same and "  metrics: 96 numbers" in text
    assert "run-0.1 has no origin.json (xql 0.1.0 made it)" in text
    assert "its data has no fingerprint: only counts and the mean return were compared" in text
