"""The project's own results: every kept cell is found by its table, which is drawn from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from xql.agents.hyperparameters import AUTO
from xql.errors import InputError
from xql.experiments import (
    figure1,
    figure3,
    finetune_results,
    greenhouse_results,
    offline_results,
    online_results,
)
from xql.experiments.cells import Cell, folder_name, kept, offline_cell
from xql.experiments.offline_results import Entry, chosen, draw, entries_of, rows_of, tabulate
from xql.experiments.offline_tables import TABLES, Table, make_data
from xql.experiments.sources import minari_fingerprint
from xql.runs.config import EvaluationPlan
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.lock import locked
from xql.training.offline import plan_offline

RESULTS = Path(__file__).parents[2] / "results"
HOMES = sorted(RESULTS.glob("*/cells"))
OFFLINE = [home.parent.name for home in HOMES if home.parent.name in TABLES]
PEERS_SEEDS = (0, 1)


def cells_of(table: str) -> list[Cell]:
    """The cells that a table's command asks for (results/README.md)."""
    if table in TABLES:
        return TABLES[table].cells(None)
    if table == "finetune":
        return finetune_results.cells(None)
    if table == "figure1":
        return figure1.cells()
    if table == "figure3":
        methods = tuple(figure3.METHODS)
        return figure3.cells(figure3.TASKS, methods, steps=300_000, seeds=2)
    return [
        cell(agent, seed)
        for agent in online_results.AGENTS
        for seed in PEERS_SEEDS
        for cell in (online_results.ours, online_results.theirs)
    ]


@pytest.mark.parametrize("table", [home.parent.name for home in HOMES])
def test_every_kept_cell_is_found_by_its_table(table: str) -> None:
    home = RESULTS / table / "cells"
    cells = cells_of(table)
    found = {folder: cell for cell in cells if (folder := kept(home, cell)) is not None}
    assert set(found) == {path for path in home.iterdir() if path.is_dir()}


@pytest.mark.parametrize("table", OFFLINE)
def test_a_table_is_what_its_cells_say(table: str, tmp_path: Path) -> None:
    home = tmp_path / table
    shutil.copytree(RESULTS / table / "cells", home / "cells")
    tabulate(table, home)
    for name in ("table.csv", "table.md"):
        written = (home / name).read_text(encoding="utf-8")
        assert written == (RESULTS / table / name).read_text(encoding="utf-8")


def test_which_runs_from_before_the_bound_on_optimism_were_beyond_it() -> None:
    """As docs/choosing-beta.md says of them; β · KL is nearly the lift of a soft maximum."""
    beyond, kept_ones = set(), set()
    for folder in RESULTS.glob("*/cells/*"):
        if not (folder / "config.yaml").exists():
            continue
        run = RunFolder.open(folder)
        config: Any = run.config.hyperparameters
        before = run.config.agent == "xql" and config.beta_optimism is None
        if not before or config.beta != AUTO or run.config.scaling.rewards != AUTO:
            continue
        kept_ones.add(run.config.data.name)
        unit = run.config.scaling.reward_scale / (1 - config.discount)
        for row in run.read_metrics():
            # A warm-up has no temperature.
            most = np.multiply(row.values.get("beta", [0]), row.values.get("kl", [0])) * unit
            if max(most) > 3.0:
                beyond.add(run.config.data.name)
    assert beyond == {"pointmaze/large-play-v0"}
    assert {"door-human-v0", "neorl2/DMSD", "antmaze/umaze-short-v0"} < kept_ones


def test_the_table_of_fine_tuning_is_what_its_cells_say(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "finetune" / "cells", tmp_path / "cells")
    finetune_results.tabulate(tmp_path)
    for name in ("table.csv", "table.md"):
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert written == (RESULTS / "finetune" / name).read_text(encoding="utf-8")


def test_the_greenhouse_by_day_is_what_its_cells_say() -> None:
    home = RESULTS / "greenhouse"
    assert greenhouse_results.markdown(home) == (home / "days.md").read_text(encoding="utf-8")


PICTURES = ("report.png", "quadruped.png")
"""Of docs/images: a page and a simulator, which no vectors draw."""


def test_every_figure_has_a_vector_copy_with_its_text() -> None:
    drawn = sorted(RESULTS.glob("*/*.png")) + sorted((RESULTS.parent / "docs/images").glob("*.png"))
    drawn = [one for one in drawn if one.name not in PICTURES]
    assert len(drawn) > 10
    for path in drawn:
        text = path.with_suffix(".svg").read_text(encoding="utf-8")
        assert "<text" in text and "<dc:date>" not in text, path


def test_the_results_are_small() -> None:
    for home in HOMES:
        figures = list(home.parent.rglob("*.png"))
        # A table of runs that were evaluated once, and sweep nothing, has no figure; that of
        # fine-tuning has one for each task.
        none = ("greenhouse", "cartpole", "neorl2", "observations", "extraction")
        counts = {"finetune": 2} | dict.fromkeys(none, 0)
        assert len(figures) == counts.get(home.parent.name, 1)
        copies = [path.with_suffix(".svg") for path in figures]
        assert all(path.stat().st_size < 150_000 for path in (*figures, *copies))
        # A cell that was trained in this checkout has its checkpoints too, which git ignores.
        files = (path for path in home.parent.rglob("*") if "checkpoints" not in path.parts)
        size = sum(path.stat().st_size for path in files if path.is_file())
        # Figure 1 keeps 95,000 Bellman errors a task, which no one can compress.
        assert size < (2_000_000 if home.parent.name == "figure1" else 500_000)


def test_a_table_writes_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(RESULTS / "beta" / "cells", tmp_path / "results" / "beta" / "cells")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(offline_results, "use_all_cores", lambda: None)
    offline_results.main("beta", train=False)
    files = {path.name for path in (tmp_path / "results" / "beta").iterdir()}
    assert files == {"cells", "table.csv", "table.md", "beta.png", "beta.svg"}
    rows = (tmp_path / "results" / "beta" / "table.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("cell,agent,preset,beta,updates,measure")
    assert rows[1].startswith("antmaze-umaze,xql,default,0.1,75000,% success,73.00,63.00,83.00")
    # Two cells of six values of β, each last and best.
    assert len(rows) == 1 + 2 * 6 * 2


def test_a_table_trains_what_is_missing_and_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gymnasium_robotics")
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr(offline_results, "use_all_cores", lambda: None)
    from xql.collect.pointmaze import make_pointmaze

    monkeypatch.setattr(
        offline_results, "make_data", lambda _: make_pointmaze("umaze", transitions=1200)
    )
    small = {"hidden": [4], "batch_size": 4}

    def cells(_: str | None) -> list[Cell]:
        name = "pointmaze/umaze-play-v0"
        return [
            offline_cell(
                agent,
                name,
                opened=f"minari:{name}",
                fingerprint=minari_fingerprint(name),
                agent=agent,
                steps=2,
                seeds=2,
                options=small,
                evaluation=EvaluationPlan(2, 1, 1),
                quiet=True,
            )
            for agent in ("xql", "bc")
        ]

    monkeypatch.setitem(TABLES, "small", Table(cells, "Nothing is learned."))
    offline_results.main("small", only=("bc",), out=tmp_path)
    # Data that is there is not made again.
    monkeypatch.setattr(offline_results, "make_data", lambda _: None)
    home = tmp_path / "small"
    # A cell that another process trains is left to it.
    work = home / "work" / folder_name(xql := cells(None)[0], xql.configuration)
    work.mkdir(parents=True)
    with locked(work), pytest.raises(InputError, match=r"not trained, .* reasons above: xql"):
        offline_results.main("small", out=tmp_path)
    offline_results.main("small", out=tmp_path)
    trained, busy, *rest = capsys.readouterr().out.splitlines()
    assert trained == "bc: trained (1 of 1)" and "another process" in busy
    assert rest == ["bc: there already", "xql: trained (1 of 1)", "bc: there already"]
    assert {path.name for path in home.iterdir()} == {
        "cells",
        "table.csv",
        "table.md",
        "curves.png",
        "curves.svg",
    }
    text = (home / "table.md").read_text(encoding="utf-8")
    assert "| bc |  | 2 | % success |" in text and "| xql | " in text
    for folder in (home / "cells").iterdir():
        assert set(json.loads((folder / "cell.json").read_text())) == {"train", "fingerprint"}
    # Neither the data nor another run is needed to write it again.
    (home / "table.md").unlink()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "nowhere"))
    offline_results.main("small", train=False, out=tmp_path)
    assert (home / "table.md").read_text(encoding="utf-8") == text


def test_a_row_for_every_combination_of_a_sweep(tmp_path: Path) -> None:
    rows, ends = 40, np.arange(1, 41) % 10 == 0
    data = {
        "observations": np.random.default_rng(0).normal(size=(rows, 2)).astype(np.float32),
        "actions": np.zeros((rows, 1), np.float32),
        "rewards": np.ones(rows, np.float32),
        "terminated": np.zeros(rows, bool),
        "truncated": ends,
    }
    sweep = {"beta": [0.5, 2.0], "inverse_temperature": [1.0, 3.0]}
    # Stopped before its end.
    config = plan_offline(data, agent="xql", steps=12, seeds=2, sweep=sweep).config
    run = RunFolder.create(tmp_path / "run", config)
    run.log_metrics(10, {"seconds": 7.4})
    run.log_evaluations(
        10, [Evaluation(10, m, m % 2, 0, float(10 * m), 5, None, None) for m in range(8)]
    )
    names = ("beta", "inverse_temperature", "discount", "layers")
    found = [row for row in rows_of(Entry("a", run), names) if row["which"] == "last"]
    assert {row["updates"] for row in found} == {10}
    shown = [tuple(row[name] for name in (*names, "each seed", "seconds")) for row in found]
    assert shown == [
        (0.5, 1.0, 0.99, "", "0 10", 7),
        (0.5, 3.0, 0.99, "", "20 30", 7),
        (2.0, 1.0, 0.99, "", "40 50", 7),
        (2.0, 3.0, 0.99, "", "60 70", 7),
    ]


def test_the_figure_shows_the_cells_that_sweep(tmp_path: Path) -> None:
    home = tmp_path / "stability"
    kinds = ("dmsd-auto", "dmsd-fixed", "pointmaze-medium-auto", "pointmaze-medium-fixed")
    for kind in kinds:
        [folder] = (RESULTS / "stability" / "cells").glob(f"{kind}-*")
        shutil.copytree(folder, home / "cells" / folder.name)
    entries = entries_of("stability", home)
    assert [one.name for one in entries] == list(kinds)
    draw("stability", entries, home)
    assert [path.name for path in home.glob("*.png")] == ["beta.png"]
    # Runs that were evaluated once have no curves.
    (home / "beta.png").unlink()
    draw("stability", [one for one in entries if one.name.endswith("auto")], home)
    assert not list(home.glob("*.png"))


def test_files_are_looked_for_in_the_folder_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "d4rl-door-human-v0.hdf5").touch()
    opened = {
        cell.settings["data"]
        for table in ("stability", "neorl2")
        for cell in TABLES[table].cells(str(tmp_path))
        if not str(cell.settings["data"]).startswith("minari:")
    }
    assert opened == {
        f"d4rl:{tmp_path / 'd4rl-door-human-v0.hdf5'}",
        f"neorl2:{tmp_path / 'DMSD-high-100000-train.npz'}",
        f"neorl2:{tmp_path / 'SafetyHalfCheetah-high-100000-train.npz'}",
    }


@pytest.mark.parametrize(
    ("module", "maker", "cells", "asked"),
    [
        (
            "antmaze",
            "make_antmaze",
            ["stability antmaze-umaze-short-auto", "antmaze xql"],
            [
                ("umaze", {"transitions": 350_000, "dataset_id": "antmaze/umaze-short-v0"}),
                ("umaze", {}),
            ],
        ),
        (
            "mujoco",
            "make_mujoco",
            [f"mujoco hopper-{kind}-bc" for kind in ("medium", "medium-replay", "medium-expert")],
            [
                ("hopper", "medium", {"steps": 300_000, "transitions": 300_000}),
                ("hopper", "medium-replay", {"steps": 300_000}),
                ("hopper", "medium-expert", {"steps": 300_000, "transitions": 600_000}),
            ],
        ),
    ],
)
def test_data_is_made_as_its_table_says(
    module: str,
    maker: str,
    cells: list[str],
    asked: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collect = pytest.importorskip(f"xql.collect.{module}")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made: list[Any] = []
    monkeypatch.setattr(collect, maker, lambda *task, **more: made.append((*task, more)))
    for table, name in (one.split() for one in cells):
        [cell] = chosen(TABLES[table].cells(None), [name])
        make_data(cell)
    assert made == asked


def test_what_the_tables_do_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="no table 'antmase'; did you mean 'antmaze'"):
        offline_results.main("antmase")
    with pytest.raises(InputError, match="no cell 'iqql'; did you mean 'iql'"):
        chosen(TABLES["antmaze"].cells(None), ["iqql"])


def test_every_table_s_cells_can_be_asked_for() -> None:
    for table in TABLES.values():
        names = [cell.name for cell in table.cells(None)]
        assert names and len(set(names)) == len(names)


def test_the_peer_s_cells_are_known_by_what_the_peer_is_given(tmp_path: Path) -> None:
    one = online_results.theirs("td3", 0, tmp_path / "python")
    assert one.configuration == {} and one.more["counts"]["steps"] == online_results.STEPS
    home = RESULTS / "halfcheetah" / "cells"
    folder = kept(home, one)
    assert folder is not None and folder == kept(home, online_results.theirs("td3", 0))
    assert kept(home, online_results.theirs("td3", 7)) is None
    [curve, *_] = online_results.curves(home)
    assert (curve.library, curve.agent, curve.seed) == ("xql", "td3", 0)
    assert curve.steps[-1] == online_results.STEPS
