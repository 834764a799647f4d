"""What a cell keeps of a run: every episode, metrics thinned out, few bytes."""

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest

from worlds import register_line
from xql.evaluation.scores import Reference, normalised_score
from xql.experiments.compact import compact, compress, reduce_colours
from xql.experiments.offline_results import Entry, rows_of
from xql.runs.config import RunConfig
from xql.runs.folder import Divergence, Evaluation, RunFolder
from xql.training.online import plan_online

METRICS = (
    *("advantage", "bellman_error", "clip_fraction", "q", "critic_loss", "v", "value_loss"),
    *("effective_sample_size", "log_prob", "mean_exp", "policy_loss", "weight"),
)
"""As many as XQL logs."""

REFERENCE = Reference(-20.272305, 3234.3, "a hopper's")


def config(seeds: int = 4, steps: int = 1_000_000) -> RunConfig:
    planned = plan_online(register_line(), agent="x-td3", steps=steps, seeds=seeds)
    return dataclasses.replace(planned, data=dataclasses.replace(planned.data, reference=REFERENCE))


def typical_run(path: Path, steps: int = 1_000_000) -> RunFolder:
    """A run of 4 seeds, 20 evaluations and a line of metrics every 1000 updates."""
    random = np.random.default_rng(0)
    run = RunFolder.create(path, config(steps=steps))
    for step in range(1000, steps + 1, 1000):
        values = random.normal(size=(len(METRICS), 4)).astype(np.float32)
        run.log_metrics(step, {**dict(zip(METRICS, values, strict=True)), "seconds": step / 77})
    for step in range(steps // 20, steps + 1, steps // 20):
        rows = []
        for member in range(4):
            for episode in range(100 if step == steps else 10):
                value = float(random.normal(200, 100))
                score = float(normalised_score(value, REFERENCE))
                rows.append(
                    Evaluation(step, member, member, episode, value, 200, score, value > 200)
                )
        run.log_evaluations(step, rows)
    return run


def kept(run: RunFolder, out: Path) -> RunFolder:
    out.mkdir()
    compact(run.path, out)
    return RunFolder.open(out)


def test_a_cell_of_a_million_updates_is_small(tmp_path: Path) -> None:
    cell = kept(typical_run(tmp_path / "run"), tmp_path / "cell")
    size = sum(path.stat().st_size for path in cell.path.iterdir())
    # 80 of them, a whole table, stay below 5 MB.
    assert size < 60_000


def test_the_table_says_the_same_of_a_cell_as_of_the_run_itself(tmp_path: Path) -> None:
    run = typical_run(tmp_path / "run", steps=60_000)
    cell = kept(run, tmp_path / "cell")
    assert cell.read_evaluations() == run.read_evaluations()
    assert cell.config.to_dict() == run.config.to_dict()
    rows = list(rows_of(Entry("x", run), ["beta"]))
    # Success, score and return, each at the last step and at the best.
    assert len(rows) == 6 and rows[0]["seconds"] == round(60_000 / 77)
    assert list(rows_of(Entry("x", cell), ["beta"])) == rows


def test_a_score_is_left_out_only_where_it_follows_from_the_return(tmp_path: Path) -> None:
    columns = "step,member,seed,episode,return,length"
    for name, score, header in (
        ("derived", normalised_score(3.7, REFERENCE), f"{columns},success"),
        ("other", 0.5, f"{columns},score,success"),
        ("none", None, f"{columns},score,success"),
    ):
        run = RunFolder.create(tmp_path / name, config(1, 10_000))
        score = None if score is None else float(score)
        row = Evaluation(10_000, 0, 0, 0, 3.7, 9, score, None)
        run.log_evaluations(10_000, [row])
        cell = kept(run, tmp_path / f"{name}-cell")
        assert cell.read_evaluations() == [row]
        with gzip.open(cell.path / "evaluations.csv.gz", "rt") as file:
            assert file.readline().strip() == header
    run = RunFolder.create(tmp_path / "diverged", config(1, 10_000))
    nan = float("nan")
    run.log_evaluations(10_000, [Evaluation(10_000, 0, 0, 0, nan, 9, nan, None)])
    [row] = kept(run, tmp_path / "diverged-cell").read_evaluations()
    assert np.isnan(row.episode_return) and row.score is not None and np.isnan(row.score)


def test_metrics_are_thinned_and_rounded(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", config(2, 12_000))
    for step in range(1000, 12_001, 1000):
        values = [float("nan") if step >= 7000 else 1 / 3, 123456789.0]
        run.log_metrics(step, {"q": values, "seconds": step / 7})
    run.log_divergence(Divergence(0, 3000, 4000, "rolled back", 1000), {})
    run.log_frozen(0, 6000, 7000)
    lines = kept(run, tmp_path / "cell").read_metrics()
    # Also where a member was found to have diverged: there it says which number was not finite.
    assert [line.step for line in lines] == [4000, 5000, 7000, 10_000, 12_000]
    lines = lines[1:]
    assert lines[0].values == {"q": [0.333333, 123457000.0], "seconds": [714.286]}
    assert np.isnan(lines[1].values["q"][0]) and lines[1].values["q"][1] == 123457000.0
    for name in ("divergence.jsonl", "frozen.csv"):
        assert (tmp_path / "cell" / name).read_bytes() == (run.path / name).read_bytes()


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = typical_run(tmp_path / "run", steps=20_000)
    one, other = kept(run, tmp_path / "one"), kept(run, tmp_path / "other")
    for path in one.path.iterdir():
        assert path.read_bytes() == (other.path / path.name).read_bytes()
    names = {path.name for path in one.path.iterdir()}
    assert names == {"config.yaml", "evaluations.csv.gz", "metrics.jsonl.gz"}
    compress("text", tmp_path / "a.gz")
    compress("text", tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_figure_of_few_colours_is_a_third_of_the_size(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    for seed in range(8):
        noise = np.random.default_rng(seed).normal(size=(2, 20)).cumsum(1)
        axes.fill_between(range(20), noise[0], noise[1], alpha=0.2)
        axes.plot(noise[0])
    path = tmp_path / "figure.png"
    figure.savefig(path, dpi=150)
    before = path.stat().st_size
    with Image.open(path) as picture:
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    reduce_colours(path)
    with Image.open(path) as picture:
        reduced = np.asarray(picture.convert("RGB")).astype(int)
    assert path.stat().st_size < before / 2
    assert reduced.shape == drawn.shape and np.abs(reduced - drawn).mean() < 3
