"""Which runs can be compared, what merges, and what the rows say."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from xql.agents import XQLConfig, configure
from xql.data.actions import Box
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.evaluation.scores import Reference
from xql.reports.compare import compare
from xql.reports.plots import plot_comparison
from xql.reports.tables import as_csv, as_latex, as_markdown
from xql.runs.config import DataConfig, EvaluationPlan, Extent, Member, OnlineLoop, RunConfig
from xql.runs.folder import Divergence, Evaluation, RunFolder

CONFIG = RunConfig(
    agent="xql",
    preset="default",
    steps=200,
    members=(),
    hyperparameters=XQLConfig(hidden=(8,)),
    scaling=Scaling("raw", "raw", 1.0, 0.0, np.zeros(1, np.float32), np.ones(1, np.float32)),
    data=DataConfig(
        name="maze-v0",
        source="minari:maze-v0",
        observation_size=1,
        actions=Box((-1.0,), (1.0,)),
        reference=Reference(0.0, 1.0, "here"),
        extent=Extent(10, 2, 0.25),
    ),
    environment="Maze-v1",
    evaluation=EvaluationPlan(evaluations=2, episodes=1, last_episodes=2),
)


def nested(config: Any, changes: dict[str, Any]) -> Any:
    """A configuration with "a.b" = value changes."""
    for path, value in changes.items():
        first, _, rest = path.partition(".")
        inner = nested(getattr(config, first), {rest: value}) if rest else value
        if isinstance(config, tuple):
            config = config._replace(**{first: inner})  # type: ignore[attr-defined]
        else:
            config = dataclasses.replace(config, **{first: inner})
    return config


def write(
    path: Path,
    last: Sequence[float],
    first: Sequence[float] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    betas: Sequence[float | None] = (None,),
    scored: bool = True,
    at: Sequence[int] = (100, 200),
    agent: str = "xql",
    **changes: Any,
) -> Path:
    """A run whose members score `first` at step 100 and `last` ± 1 in two episodes at step 200."""
    seeds = range(len(last) // len(betas)) if seeds is None else seeds
    members = tuple(
        Member(seed, {} if beta is None else {"beta": beta}) for beta in betas for seed in seeds
    )
    own = {} if agent == "xql" else {"hyperparameters": configure(agent, {"hidden": [8]})}
    config = nested(CONFIG, {"agent": agent, "members": members} | own | changes)
    folder = RunFolder.create(path, config)
    for step, scores, wobble in zip(at, (first or last, last), ((0,), (-1, 1)), strict=False):
        folder.log_evaluations(
            step,
            [
                Evaluation(
                    step,
                    number,
                    member.seed,
                    episode,
                    score + noise,
                    5,
                    score + noise if scored else None,
                    None,
                )
                for number, (member, score) in enumerate(zip(members, scores, strict=True))
                for episode, noise in enumerate(wobble)
            ],
        )
    return path


def refusal(*runs: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        compare(runs, **options)
    line = str(error.value)
    assert "\n" not in line
    return line


def test_last_and_best_stand_side_by_side(tmp_path: Path) -> None:
    run = write(tmp_path / "a", last=[10, 20, 30, 100], first=[50, 0, 0, 0])
    (row,) = compare([run]).rows
    assert (row.task, row.method, row.quantity) == ("maze-v0", "xql", "score")
    # β is in units of return, so every preset must choose it: it is always shown.
    assert row.settings == "β=1"
    np.testing.assert_array_equal(row.last.values, [10, 20, 30, 100])
    np.testing.assert_array_equal(row.best.values, [50, 20, 30, 100])
    assert (row.last.mean.estimate, row.last.iqm.estimate) == (40.0, 25.0)
    assert (row.best.mean.estimate, row.best.iqm.estimate) == (50.0, 40.0)
    assert (row.step, row.last.episodes, row.best.episodes, row.evaluations) == (200, 2, 1, 2)
    assert row.last.iqm.low < 25.0 < row.last.iqm.high


def test_other_seeds_of_one_method_merge(tmp_path: Path) -> None:
    first = write(tmp_path / "a", last=[10, 20])
    second = write(tmp_path / "b", last=[30, 40, 50], seeds=[7, 2, 5])
    (row,) = compare([first, second]).rows
    assert row.seeds == (0, 1, 2, 5, 7)
    np.testing.assert_array_equal(row.last.values, [10, 20, 40, 50, 30])
    # A β given by hand that is the preset's own makes no other method.
    third = write(tmp_path / "c", last=[60], seeds=[9], betas=[1.0])
    assert len(compare([first, second, third]).rows[0].seeds) == 6


def test_the_same_seed_twice_is_refused(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, last=[10, 20]) for name in "ab")
    line = refusal(first, second)
    assert str(first) in line and str(second) in line and "seed 0 of xql" in line
    assert "named twice" in refusal(first, first)


def test_betas_are_methods(tmp_path: Path) -> None:
    run = write(tmp_path / "a", last=[1, 2, 11, 12], betas=[0.5, 2.0])
    found = compare([run])
    assert [(row.method, row.settings) for row in found.rows] == [
        ("xql β=0.5", "β=0.5"),
        ("xql β=2", "β=2"),
    ]
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.probability.estimate) == ("xql β=0.5", "xql β=2", 0.0)


def test_other_settings_are_another_method_and_named(tmp_path: Path) -> None:
    wide: dict[str, Any] = {"hyperparameters.hidden": (16, 16)}
    runs = [
        write(tmp_path / "a", last=[1, 2]),
        write(tmp_path / "b", last=[3, 4], **wide),
        write(tmp_path / "c", last=[5, 6], agent="bc"),
        write(tmp_path / "d", last=[5, 6], preset="tuned"),
    ]
    found = compare(runs)
    assert found.methods == ["xql hidden=[8]", "xql hidden=[16,16]", "bc", "xql tuned"]
    assert [row.settings for row in found.rows] == [
        "β=1, hidden=[8]",
        "β=1, hidden=[16,16]",
        "",
        "β=1",
    ]


def test_any_swept_hyperparameter_names_its_methods(tmp_path: Path) -> None:
    run = write(tmp_path / "a", last=[1, 2, 3, 4])
    text = (run / "config.yaml").read_text(encoding="utf-8")
    # Members 2 and 3 had another learning rate of Q.
    for seed, rate in enumerate((0.0003, 0.0003, 0.001, 0.001)):
        own = f"- seed: {seed % 2}\n  changes:\n    critic_learning_rate: {rate}\n"
        text = text.replace(f"- seed: {seed}\n  changes: {{}}\n", own)
    (run / "config.yaml").write_text(text, encoding="utf-8")
    rows = (run / "evaluations.csv").read_text(encoding="utf-8")
    rows = rows.replace(",2,2,", ",2,0,").replace(",3,3,", ",3,1,")
    (run / "evaluations.csv").write_text(rows, encoding="utf-8")
    found = compare([run])
    assert [(row.method, row.settings) for row in found.rows] == [
        ("xql critic_learning_rate=0.0003", "β=1, critic_learning_rate=0.0003"),
        ("xql critic_learning_rate=0.001", "β=1, critic_learning_rate=0.001"),
    ]
    np.testing.assert_array_equal(found.rows[1].last.values, [3, 4])


def test_a_subset_and_a_loop_name_methods_too(tmp_path: Path) -> None:
    whole = write(tmp_path / "a", last=[1, 2], agent="bc")
    best: dict[str, Any] = {
        "data.subset": "top:0.1",
        "data.whole": Extent(10, 2, 0.25),
        "data.extent": Extent(5, 1, 0.5),
    }
    top = write(tmp_path / "b", last=[3, 4], agent="bc", **best)
    assert compare([whole, top]).methods == ["bc subset=all", "bc subset=top:0.1"]
    rounded = write(tmp_path / "c", last=[3, 4], agent="bc", precision="bf16")
    assert compare([whole, rounded]).methods == ["bc precision=float32", "bc precision=bf16"]
    buffers: dict[str, Any] = {"data.streamed": 8}
    streamed = write(tmp_path / "d", last=[3, 4], agent="bc", **buffers)
    assert compare([whole, streamed]).methods == ["bc stream=False", "bc stream=True"]
    online = [
        write(
            tmp_path / f"loop{copies}",
            last=[1, 2],
            agent="sac",
            loop=OnlineLoop(environments=copies),
        )
        for copies in (1, 2)
    ]
    assert compare(online).methods == ["sac environments=1", "sac environments=2"]


def test_a_preset_may_have_a_beta_per_task_but_a_given_one_is_named(tmp_path: Path) -> None:
    maze = write(tmp_path / "a", last=[1, 2])
    other: dict[str, Any] = {"data.name": "door-v0", "hyperparameters.beta": 5.0}
    door = write(tmp_path / "b", last=[3, 4], **other)
    found = compare([maze, door])
    assert found.methods == ["xql"]
    assert [(row.task, row.settings) for row in found.rows] == [
        ("maze-v0", "β=1"),
        ("door-v0", "β=5"),
        ("2 tasks", ""),
    ]
    given = write(tmp_path / "c", last=[3, 4], **other, sources={"beta": "given"})
    assert compare([maze, given]).methods == ["xql β=1", "xql β=5"]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"environment": "Maze-v2"}, ["environment is Maze-v1", "Maze-v2 in"]),
        ({"environment": '{"id": "Maze-v1"}'}, ["environment", "the specification of Maze-v1"]),
        ({"evaluation.episodes": 3}, ["evaluation.episodes is 1 here and 3 in"]),
        ({"evaluation.stop_at_success": True}, ["evaluation.stop_at_success is False"]),
        ({"steps": 300, "at": (100, 300)}, ["steps is 200 here and 300 in"]),
        ({"data.extent.transitions": 11}, ["data.transitions is 10 here and 11 in"]),
        ({"data.extent.mean_return": 0.5}, ["data.mean_return is 0.25 here and 0.5 in"]),
        ({"data.source": "d4rl:maze-v0.hdf5"}, ["data.source is minari here and d4rl in"]),
        ({"data.reference": Reference(1.0, 2.0, "there")}, ["data.reference.minimum"]),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_by_name(
    changes: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    first = write(tmp_path / "first", last=[1, 2])
    second = write(tmp_path / "second", last=[1, 2], agent="bc", **changes)
    line = refusal(first, second)
    for part in [*parts, str(first), str(second), "cannot be compared"]:
        assert part in line, line


def test_other_reward_scalings_are_refused_where_returns_are_compared(tmp_path: Path) -> None:
    scaling: dict[str, Any] = {"scaling.rewards": "scale:0.1", "scaling.reward_scale": 0.1}
    first = write(tmp_path / "a", last=[1, 2])
    second = write(tmp_path / "b", last=[1, 2], agent="bc", **scaling)
    line = refusal(first, second, quantity="return")
    assert "scaling.rewards is raw (1 r +0) here and scale:0.1 (0.1 r +0) in" in line
    # A score is of the simulator's own return, whatever was learned from.
    assert len(compare([first, second]).rows) == 2
    unscored = [
        write(tmp_path / "c", last=[1, 2], scored=False),
        write(tmp_path / "d", last=[1, 2], scored=False, agent="bc", **scaling),
    ]
    assert "scaling.rewards" in refusal(*unscored)
    # "auto" is the same objective as raw, in whatever unit.
    auto = write(tmp_path / "e", last=[1, 2], agent="bc", **scaling | {"scaling.rewards": "auto"})
    assert len(compare([first, auto], quantity="return").rows) == 2


def test_two_specifications_of_one_id_name_the_part_that_differs(tmp_path: Path) -> None:
    specs = [json.dumps({"id": "Maze-v1", "kwargs": {"limit": limit}}) for limit in (300, 600)]
    runs = [
        write(tmp_path / str(number), last=[1, 2], agent=agent, environment=spec)
        for number, (agent, spec) in enumerate(zip(("xql", "bc"), specs, strict=True))
    ]
    assert "environment.kwargs.limit is 300 here and 600 in" in refusal(*runs)


def test_an_unfinished_run_and_one_without_evaluations_are_refused(tmp_path: Path) -> None:
    half = write(tmp_path / "half", last=[1, 2], at=(100,))
    assert "its last evaluation is at step 100 of 200" in refusal(half)
    empty = write(tmp_path / "empty", last=[1], at=())
    assert "no evaluations" in refusal(empty)
    assert "there is no run; name one" in refusal()
    assert "no such run folder" in refusal(tmp_path / "nowhere")
    begun = tmp_path / "sweep"
    (begun / "cells").mkdir(parents=True)
    (begun / "sweep.yaml").write_text("agents: [bc]")
    assert f"{begun}: none of its runs is finished" in refusal(begun)
    damaged = write(tmp_path / "damaged", last=[1, 2])
    file = damaged / "evaluations.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.warns(UserWarning, match="it has 3 of 4 episodes of step 200"):
        assert "at step 200 its members played different numbers" in refusal(damaged)


def test_a_last_row_that_is_cut_short_is_said_and_the_rest_compared(tmp_path: Path) -> None:
    run = write(tmp_path / "cut", last=[10])
    file = run / "evaluations.csv"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.warns(UserWarning) as said:
        (row,) = compare([run]).rows
    assert [str(one.message) for one in said] == [
        f"{file}: its last row is cut short and left out: 1 of 2 episodes of step 200 are there"
    ]
    assert row.last.episodes == 1 and row.last.values.tolist() == [9.0]


def test_the_rows_of_another_run_are_refused(tmp_path: Path) -> None:
    run, other = write(tmp_path / "a", last=[10]), write(tmp_path / "b", last=[20], seeds=[1])
    (run / "evaluations.csv").write_bytes((other / "evaluations.csv").read_bytes())
    line = refusal(run)
    assert line == (
        f"{run / 'evaluations.csv'}: line 2 is of seed 1, config.yaml of seed 0; files of two runs "
        "lie in this folder: make the run again"
    )


def test_tasks_are_averaged_only_where_that_means_something(tmp_path: Path) -> None:
    def two(name: str, **changes: Any) -> list[Path]:
        return [
            write(tmp_path / f"{name}0", last=[10, 20]),
            write(tmp_path / f"{name}1", last=[30, 40], **({"data.name": "door-v0"} | changes)),
        ]

    found = compare(two("a"))
    assert found.tasks == ["maze-v0", "door-v0", "2 tasks"] and not found.notes
    assert found.rows[-1].last.mean.estimate == 25.0
    np.testing.assert_array_equal(found.rows[-1].last.values, [20, 30])
    assert found.profiled == ["maze-v0", "door-v0"]

    found = compare(two("b", scored=False))
    assert found.tasks == ["maze-v0", "door-v0"] and not found.profiles
    assert "share no unit" in found.notes[0]
    found = compare(two("c", steps=300, at=(100, 300)))
    assert "other steps or episodes" in found.notes[0] and len(found.rows) == 2
    found = compare(two("d", seeds=[0, 1], agent="bc"))
    assert "No task has every method" in found.notes[0] and len(found.rows) == 2
    extra = write(tmp_path / "extra", last=[1, 1], agent="bc")
    found = compare([*two("e"), extra])
    assert found.profiled == ["maze-v0"] and len(found.rows) == 3
    assert "that all have: maze-v0" in found.notes[0]
    more = write(tmp_path / "more", last=[1, 1], seeds=[3, 4])
    assert "differ in their seeds" in compare([*two("f"), more]).notes[0]


def test_pairs_are_per_task_and_over_the_tasks_that_two_methods_share(tmp_path: Path) -> None:
    runs = []
    for task, scores in {"maze-v0": (1.0, 2.0), "door-v0": (4.0, 3.0)}.items():
        for agent, score in zip(("xql", "bc"), scores, strict=True):
            path = tmp_path / f"{task}{agent}"
            named: dict[str, Any] = {"data.name": task}
            runs.append(write(path, last=[score] * 2, agent=agent, **named))
    found = [(pair.task, pair.probability.estimate) for pair in compare(runs).pairs]
    assert found == [("maze-v0", 0.0), ("door-v0", 1.0), ("2 tasks", 0.5)]


def test_a_diverged_seed_is_noted(tmp_path: Path) -> None:
    run = write(tmp_path / "a", last=[10, 20])
    (run / "frozen.csv").write_text("member,step,noticed\n1,40,60\n")
    (note,) = compare([run]).notes
    assert note == "Seed 1 of xql diverged in maze-v0: it is evaluated as it was at step 40."
    back = Divergence(member=1, step=20, noticed=40, action="rolled back", lost=20)
    RunFolder.open(run).log_divergence(back, {})
    assert compare([run]).notes == [
        "Seed 1 of xql diverged in maze-v0 by step 40: it went on with learning rates divided by "
        "10, and 20 fewer updates.",
        note,
    ]
    nan = write(tmp_path / "b", last=[10, float("nan")], agent="bc")
    row = compare([nan]).rows[0]
    assert np.isnan(row.last.iqm.estimate) and np.isnan(row.last.mean.estimate)


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path) -> None:
    write(tmp_path / "all" / "a", last=[1, 2])
    write(tmp_path / "all" / "b", last=[3, 4], agent="bc")
    (tmp_path / "all" / "table.md").write_text("not a run")
    assert xql.compare([tmp_path / "all"]).methods == ["xql", "bc"]


def test_the_same_seed_gives_the_same_intervals(tmp_path: Path) -> None:
    run = write(tmp_path / "a", last=list(np.random.default_rng(0).normal(50, 20, 7)))
    one, same, other = (compare([run], seed=seed).rows[0].last.iqm for seed in (0, 0, 1))
    assert one == same and one[1:3] != other[1:3] and one.estimate == other.estimate


def test_the_written_tables(tmp_path: Path) -> None:
    runs = [
        write(tmp_path / "a", last=[10, 30]),
        write(tmp_path / "b", last=[20, 20], first=[70, 90], agent="bc"),
    ]
    found = compare(runs)
    text = found.markdown()
    for cell in ("last: IQM", "best: IQM", "step 200, 2 episodes", "0.50 [0.00, 1.00]"):
        assert cell in text
    header, xql_row, bc_row = (line.split(",") for line in found.csv().splitlines())
    row = dict(zip(header, bc_row, strict=True))
    assert (row["last_iqm"], row["best_iqm"], row["best_scores"]) == ("20", "80", "70 90")
    assert dict(zip(header, xql_row, strict=True))["last_scores"] == "10 30"
    assert found.pairs_csv().splitlines()[1] == "maze-v0,xql,bc,last,0.5,0,1,2"
    profile = [line.split(",") for line in found.profiles_csv().splitlines()]
    assert ["xql", "last", "25", "0.5", "0", "1"] in profile
    assert found.latex().count(r"\begin{tabular}") == 3
    page = found._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 3
    assert "<th>P(first &gt; second), last</th>" in page and "<td>20.0 [10.0, 30.0]</td>" in page
    assert repr(found) == "Comparison(tasks=['maze-v0'], methods=['xql', 'bc'])"


def test_what_is_too_little_to_say_much_is_said(tmp_path: Path) -> None:
    lone = compare([write(tmp_path / "a", last=[10]), write(tmp_path / "b", last=[20], agent="bc")])
    text = lone.markdown()
    (line,) = (one for one in text.splitlines() if "n/a (1 seed) " in one and "[" not in one)
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[1:5] == ["maze-v0", "xql", "bc", "n/a (1 seed)"]
    assert lone.cautions[0].startswith("One seed has no interval, and no probability")
    assert lone.cautions[0] in text and lone.cautions[0] in lone.latex()

    few = compare(
        [write(tmp_path / "c", last=[10, 10]), write(tmp_path / "d", last=[20, 21], agent="bc")]
    )
    assert [one[:20] for one in few.cautions] == ["Two or three seeds: ", "An interval of width"]
    many = compare([write(tmp_path / "e", last=[10, 20, 30, 40])])
    assert many.cautions == []
    plan: dict[str, Any] = {"evaluation": EvaluationPlan(1, 0, 1), "steps": 100}
    once = compare([write(tmp_path / "f", last=[1, 2, 3, 4], at=(100,), **plan)])
    assert [one[:14] for one in once.cautions] == ["One episode fo", "One evaluation"]
    assert "step 100, 1 episode " in once.markdown() and "| 1 evaluation, ≥" in once.markdown()


def test_the_figure_names_every_method_task_and_panel(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    door: dict[str, Any] = {"data.name": "door-v0"}
    runs = [
        write(tmp_path / "a", last=[10, 30]),
        write(tmp_path / "b", last=[20, 20], agent="bc"),
        write(tmp_path / "c", last=[5], agent="bc", **door),
    ]
    path = plot_comparison(compare(runs), tmp_path / "new" / "figure.svg")
    text = path.read_text(encoding="utf-8")
    for comment in ("xql", "bc", "maze-v0", "door-v0", "Performance profile, last step"):
        assert f">{comment}" in text
    assert "xql &gt; bc" in text and "biased upwards" in text
    single = [write(tmp_path / f"d{one}", last=[9], agent=one) for one in ("xql", "bc")]
    text = plot_comparison(compare(single), tmp_path / "single.svg").read_text(encoding="utf-8")
    assert "xql &gt; bc: n/a (1 seed)" in text and ">bc (1 seed)" in text
    lone = plot_comparison(compare(runs[:1]), tmp_path / "lone.png")
    assert lone.read_bytes().startswith(b"\x89PNG")


def test_grids_escape_what_their_format_would_read() -> None:
    header, rows = ["a|b", "c"], [["50 % of_x", "[1, 2]"]]
    assert as_markdown(header, rows).splitlines()[0].startswith(r"| a\|b")
    assert as_csv(header, rows).splitlines()[1] == '50 % of_x,"[1, 2]"'
    assert r"50 \% of\_x & {}[1, 2] \\" in as_latex(header, rows)
