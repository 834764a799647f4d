"""The paper's tables: their numbers, what of ours stands beside them, and what says why not."""

import csv
import dataclasses
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from xql.cli import main
from xql.errors import InputError
from xql.experiments.cells import folder_name
from xql.experiments.paper_tables import (
    Method,
    Training,
    cell_of,
    choose_methods,
    choose_rows,
    fill,
    find_kept,
)
from xql.experiments.published import benchmarks, numbers
from xql.experiments.sources import local_data, sources_of
from xql.experiments.table_text import csv_lines, kept_markdown, markdown

RESULTS = Path(__file__).parents[2] / "results"

TINY = Training(
    steps=4,
    seeds=2,
    evaluations=2,
    episodes=1,
    last_episodes=2,
    options={"hidden": [4], "batch_size": 4},
)
FLAGS = "--steps 4 --seeds 2 --evaluations 2 --last-episodes 2 --set hidden=[4] batch_size=4"


@pytest.fixture(autouse=True)
def minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of Minari's datasets."""
    root = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root


def door_file(folder: Path, name: str = "door-v0_demos_clipped.hdf5") -> Path:
    """Random moves in the layout and the sizes of D4RL's door-human."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    with h5py.File(folder / name, "w") as file:
        file["observations"] = random.normal(size=(40, 39)).astype(np.float32)
        file["actions"] = random.uniform(-1, 1, (40, 28)).astype(np.float32)
        file["rewards"] = random.normal(size=40).astype(np.float32)
        file["terminals"] = np.arange(1, 41) % 20 == 0
        file["timeouts"] = np.zeros(40, bool)
    return folder


def average(table: str, method: str, *starts: str, protocol: str = "") -> tuple[float, int]:
    found = [
        one.score
        for one in numbers(table)
        if one.method == method and one.dataset.startswith(starts) and protocol in one.protocol
    ]
    return float(np.mean(found)), len(found)


MUJOCO = ("halfcheetah", "hopper", "walker2d")


@pytest.mark.parametrize(
    ("method", "starts", "printed", "count"),
    [
        ("IQL", MUJOCO, 77.0, 9),
        ("X-QL, first submission", MUJOCO, 84.8, 9),
        ("X-QL C", MUJOCO, 80.6, 9),
        ("X-QL T", MUJOCO, 83.7, 9),
        ("IQL", ("antmaze",), 63.0, 6),
        ("X-QL, first submission", ("antmaze",), 74.3, 6),
        ("X-QL T", ("antmaze",), 70.15, 6),
        ("IQL", ("kitchen",), 53.3, 3),
        ("X-QL, first submission", ("kitchen",), 73.3, 3),
        ("X-QL T", ("kitchen",), 72.9, 3),
    ],
)
def test_table1_has_the_averages_that_the_paper_prints(
    method: str, starts: tuple[str, ...], printed: float, count: int
) -> None:
    found, rows = average("table1", method, *starts)
    assert rows == count and found == pytest.approx(printed, abs=0.051)


@pytest.mark.parametrize(
    ("method", "protocol", "starts", "printed"),
    [
        ("IQL", "last", MUJOCO, 81.63),
        ("IQL", "best", MUJOCO, 86.28),
        ("ReBRAC", "last", ("antmaze",), 78.42),
        ("IQL", "best", ("antmaze",), 72.0),
        ("ReBRAC", "last", ("pen", "door", "hammer", "relocate"), 59.39),
        ("DT", "best", ("maze2d",), 60.74),
    ],
)
def test_corl_has_the_averages_that_it_prints(
    method: str, protocol: str, starts: tuple[str, ...], printed: float
) -> None:
    found, _ = average("corl", method, *starts, protocol=protocol)
    assert found == pytest.approx(printed, abs=0.011)


def test_numbers_that_nobody_was_seen_to_print_are_left_out() -> None:
    # The consistent column of AntMaze and Kitchen, and half of Dual RL's row, are only recalled.
    assert {one.dataset.split("-")[0] for one in numbers("table1") if one.method == "X-QL C"} == {
        *MUJOCO
    }
    rerun = {one.dataset: one.score for one in numbers("reruns") if "Dual" in one.method}
    assert rerun == {
        "hopper-medium-v2": 68.5,
        "hopper-medium-replay-v2": 95.1,
        "hopper-medium-expert-v2": 94.0,
        "antmaze-umaze-v0": 47.7,
        "kitchen-mixed-v0": 40.4,
    }
    for table in ("table1", "table2", "table3", "reruns", "corl"):
        assert all(one.source and one.protocol for one in numbers(table))
        keys = [(one.dataset, one.method, one.protocol) for one in numbers(table)]
        assert len(set(keys)) == len(keys)


def test_tables_two_and_three_as_printed() -> None:
    two = {(one.dataset, one.method): one.score for one in numbers("table2")}
    assert two[("antmaze-large-play-v0", "X-QL before")] == 45.1
    assert two[("antmaze-large-play-v0", "X-QL after")] == 59.3
    assert two[("antmaze-medium-play-v0", "CQL after")] == 0.0
    three = [one.score for one in numbers("table3") if one.method == "X-QL"]
    assert three == [91.4, 5.4, 10.1, 1.1, 58.2, 4.6, 8.9, -0.1]


def test_data_is_found_from_whatever_folder_a_worker_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d4rl" / "hopper_medium-v2.hdf5"
    path.parent.mkdir()
    path.touch()
    monkeypatch.chdir(tmp_path)
    assert list(local_data(Path("d4rl")).files.values()) == [path]


def test_every_row_of_a_table_has_published_numbers_and_a_source_of_data(tmp_path: Path) -> None:
    for table, count in (("table1", 18), ("table2", 6), ("table3", 8)):
        rows = choose_rows(table, ())
        published = {one.dataset for one in numbers(table)}
        assert len(rows) == count and {row.name for row in rows} == published
        assert all(sources_of(row, local_data(None)) for row in rows)
    # D4RL's own names of its files are those that data/d4rl.py knows.
    for row in benchmarks():
        if row.d4rl_file:
            folder = tmp_path / row.name
            folder.mkdir()
            (folder / Path(row.d4rl_file).name).touch()
            assert list(local_data(folder).files) == [row.name]


def test_rows_and_methods_are_chosen_by_name() -> None:
    assert [row.name for row in choose_rows("table1", ["hopper-medium", "kitchen-*"])] == [
        "hopper-medium-v2",
        "kitchen-complete-v0",
        "kitchen-partial-v0",
        "kitchen-mixed-v0",
    ]
    assert [row.name for row in choose_rows("table1", ["pointmaze-umaze"])] == ["pointmaze-umaze"]
    assert not any(row.name.startswith("pointmaze") for row in choose_rows("table1", ()))
    with pytest.raises(InputError, match="table3 has no row 'door-humn'; did you mean 'door-human"):
        choose_rows("table3", ["door-humn"])
    assert choose_methods(["xql:tuned", "bc", "bc"]) == [
        Method("xql", "tuned"),
        Method("bc", "default"),
    ]
    with pytest.raises(InputError, match="no offline agent 'sac'"):
        choose_methods(["sac"])


def test_without_data_every_row_says_how_to_get_it(tmp_path: Path) -> None:
    rows = choose_rows("table1", ["antmaze-umaze", "hopper-medium"])
    places = fill(rows, choose_methods(["xql:consistent"]), Training(), tmp_path / "cells")
    text = markdown("table1", rows, places, Training())
    assert "dataset absent: Minari, made here; xql consistent, D4RL's file: see below" in text
    assert "Ant_maze" not in text  # nobody is sent for a file that no policy can be evaluated on
    for get in (
        "offline_rl/gym_mujoco_v2/hopper_medium-v2.hdf5, and --d4rl-dir",
        "minari download D4RL/antmaze/umaze-v1",
        "xql data make antmaze-umaze",
    ):
        assert get in text
    # The published numbers stand there all the same.
    assert "| 97.1 " in text and "| 66.3 " in text and "ours:" not in text
    lines = list(csv.DictReader(csv_lines("table1", rows, places).splitlines()))
    ours = [line for line in lines if line["column"].startswith("ours")]
    assert len(ours) == 5  # three sources of the maze, two of the hopper
    assert [line["of"].startswith("not run: dataset absent, get it with ") for line in ours] == [
        False,  # D4RL's file of the maze
        True,
        True,
        True,
        True,
    ]
    assert not (tmp_path / "cells").exists()


def test_ours_stands_beside_theirs_on_their_data_alone_and_cells_are_kept(
    tmp_path: Path, minari_root: Path
) -> None:
    pytest.importorskip("gymnasium_robotics")
    pytest.importorskip("minari")
    from xql.collect.pointmaze import make_pointmaze

    make_pointmaze("umaze", transitions=1200)
    files = door_file(tmp_path / "d4rl")
    methods = choose_methods(["bc"])
    places = []
    said: list[str] = []
    for table, pattern in (("table1", "pointmaze-umaze"), ("table3", "door-human")):
        rows = choose_rows(table, [pattern])
        for _ in range(2):
            places = fill(rows, methods, TINY, tmp_path / "cells", d4rl_dir=files, say=said.append)
        text = markdown(table, rows, places, TINY)
        # Data made here, and D4RL's where the simulator's rewards are others.
        assert "ours:" not in text and "**none can be compared with them**" in text
        own = text.partition("## Ours")[2]
        source = "made here" if table == "table1" else "D4RL's file"
        assert f"| {source} " in own and "| 4       | 2 × 2  " in own and "/cells/" in own
        assert "after 4 updates" in text and "2 seeds, 2 episodes each" in text
    assert said == [
        "pointmaze-umaze-here-bc-default: trained (1 of 1)",
        "pointmaze-umaze-here-bc-default: there already",
        "door-human-v0-d4rl-bc-default: trained (1 of 1)",
        "door-human-v0-d4rl-bc-default: there already",
    ]
    file, port = places
    assert file.result is not None and file.result.quantity == "success"
    assert file.result.last.label == "last of 2 evaluations (step 4)"
    assert port.result is None and port.data.opened is None
    assert "% success" in text and "dataset absent: Minari" in text
    # On D4RL's own file, by D4RL's score.
    (pen,) = choose_rows("table3", ["pen-human"])
    text = markdown("table3", [pen], [file._replace(benchmark=pen)], TINY)
    header = next(line for line in text.splitlines() if line.startswith("| dataset"))
    assert "ours: bc, D4RL's file, last" in header and "ours: bc, D4RL's file, best" in header
    assert "## Ours" not in text


def test_a_cell_s_folder_follows_its_settings_and_data_and_not_where_it_lies(
    tmp_path: Path,
) -> None:
    (row,) = choose_rows("table3", ["door-human"])

    def folder(where: Path, method: Method, training: Training) -> str:
        data = sources_of(row, local_data(where))[0]
        cell = cell_of(row, data, method, training, quiet=True)
        return folder_name(cell, cell.configuration)

    one, other = door_file(tmp_path / "one"), door_file(tmp_path / "other")
    consistent = Method("xql", "consistent")
    base = folder(one, consistent, TINY)
    assert base == folder(other, consistent, TINY)
    with h5py.File(other / "door-v0_demos_clipped.hdf5", "a") as file:
        file["more"] = np.zeros(1000)
    changed = [
        folder(other, consistent, TINY),
        folder(one, Method("xql", "default"), TINY),
        folder(one, consistent, Training()),
        folder(one, consistent, Training(**{**vars(TINY), "options": {"hidden": [8]}})),
        folder(one, consistent, Training(**{**vars(TINY), "options": {"subset": "top:0.5"}})),
    ]
    assert len({base, *changed}) == 6


def test_a_kept_cell_is_shown_without_its_data(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    rows, methods = choose_rows("table3", ["door-human"]), choose_methods(["bc"])
    files, home = door_file(tmp_path / "d4rl"), tmp_path / "cells"
    place, port = fill(rows, methods, TINY, home, d4rl_dir=files)
    places = fill(rows, methods, TINY, home)
    assert places[0].data.opened is None and places[0].result == place.result is not None
    assert places[1] == port
    text = markdown("table3", rows, places, TINY)
    assert "| door-human-v0 | D4RL's file | bc" in text and "dataset absent: Minari |" in text
    lines = list(csv.DictReader(csv_lines("table3", rows, places[:1]).splitlines()))
    assert [line["data"] for line in lines if line["column"] == "ours: bc"] == ["D4RL's file"] * 2
    # Under other settings it is another cell.
    other, _ = fill(rows, choose_methods(["iql"]), TINY, home)
    assert other.result is None and other.problem == ""


def test_what_cannot_be_run_says_why(tmp_path: Path) -> None:
    files = tmp_path / "d4rl"
    files.mkdir()
    for name in ("mini_kitchen_microwave_kettle_light_slider-v0", "door-v0_demos_clipped"):
        (files / f"{name}.hdf5").touch()
    rows = choose_rows("table1", ["kitchen-complete"]) + choose_rows("table3", ["door-human"])
    places = fill(rows, choose_methods(["xql:tuned"]), TINY, tmp_path / "cells", d4rl_dir=files)
    why = {(place.benchmark.name, place.data.source): place.problem for place in places}
    assert "FrankaKitchen-v1, which has 59" in why[("kitchen-complete-v0", "d4rl")]
    assert why[("door-human-v0", "d4rl")] == "preset 'tuned' has no settings for 'door-human-v0'"
    text = markdown("table1", rows, places, TINY)
    assert "## Not run: other reasons" in text and "has no settings for 'door-human-v0'" in text
    places = fill(
        rows[1:], choose_methods(["bc"]), TINY, tmp_path / "cells", d4rl_dir=files, train=False
    )
    assert places[0].problem == "not trained yet"


def test_a_file_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    (row,) = choose_rows("table3", ["door-human"])
    prints = []
    for number, content in enumerate((b"one", b"two", b"one")):
        files = tmp_path / str(number)
        files.mkdir()
        (files / "door-v0_demos_clipped.hdf5").write_bytes(content)
        prints.append(sources_of(row, local_data(files))[0].fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_two_files_of_one_dataset_are_refused(tmp_path: Path) -> None:
    files = door_file(tmp_path / "d4rl")
    door_file(files, "d4rl-door-human-v0.hdf5")
    with pytest.raises(InputError, match="door-human-v0 is here and in"):
        local_data(files)


def test_runs_of_other_folders_are_shown_whatever_their_settings(tmp_path: Path) -> None:
    rows = choose_rows("table1", ["antmaze-umaze", "kitchen-*"])
    # A folder that is named twice is read once.
    folders = [RESULTS / "antmaze", RESULTS / "antmaze" / "cells", RESULTS / "beta"]
    kept = find_kept(rows, folders, finetuned=False)
    assert {one.benchmark.name for one in kept} == {"antmaze-umaze-v0"}
    assert len(kept) == 4 + 6  # agents; values of β that one cell sweeps
    text = kept_markdown("table1", rows, kept, folders)
    published, _, ours = text.partition("## Ours")
    assert "| 97.1 " in published and "ours" not in published and "not run" not in published
    assert "**none can be compared with them**" in ours
    assert "**No run of ours**: kitchen-complete-v0, kitchen-partial-v0, kitchen-mixed-v0." in ours
    lines = list(csv.DictReader(csv_lines("table1", rows, kept).splitlines()))
    mine = [line for line in lines if line["column"].startswith("ours")]
    assert len(mine) == 2 * len(kept)
    assert [
        (line["score"], line["low"], line["high"])
        for line in mine
        if "β = 0.6" in line["column"] and "200000" in line["of"]
    ] == [("92.5", "91", "94")]
    # A cell that is still training is none yet.
    (cell,) = (RESULTS / "antmaze" / "cells").glob("bc-*")
    for name in (cell.name, ".0123456789ab.part"):
        shutil.copytree(cell, tmp_path / "table" / "work" / name / "run")
    with pytest.raises(InputError, match="no run has learned offline"):
        find_kept(rows, [tmp_path], finetuned=False)
    # A user's own folder may be called so too.
    shutil.copytree(cell, tmp_path / "work" / "my-bc")
    assert len(find_kept(rows, [tmp_path], finetuned=False)) == 1
    (tuned,) = find_kept(rows, [RESULTS / "finetune"], finetuned=True)
    assert tuned.before is not None and tuned.before.interval.estimate == 94.5
    assert tuned.step == 100_000 and tuned.result.last.interval.estimate == 90.5
    # On D4RL's own file some can be compared.
    (hopper,) = choose_rows("table1", ["hopper-medium"])
    file = sources_of(hopper, local_data(None))[0]
    one = kept[0]._replace(benchmark=hopper, data=file)
    assert "On D4RL's own file" in kept_markdown("table1", [hopper], [one], folders)


@pytest.mark.parametrize("table", ["table1", "table2", "table3"])
def test_the_kept_tables_are_what_the_cells_say(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(RESULTS.parent)
    assert run("paper", table, "--cells", "results", "--out", str(tmp_path)) == 0
    again = f"run: xql paper {table} --cells results --out results/{table}"
    for name in (f"{table}.md", f"{table}.csv"):
        written = (RESULTS / table / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == written, again


def run(*words: str) -> int:
    try:
        main(list(words))
    except SystemExit as end:
        return 0 if end.code is None else int(str(end.code))
    return 0


def test_the_command_writes_the_table_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table3"
    words = ["paper", "table3", "--rows", "door-human", "--out", str(out), *FLAGS.split()]
    for _ in range(2):
        assert run(*words) == 0
        printed = capsys.readouterr().out
        assert printed == (out / "table3.md").read_text(encoding="utf-8")
        assert "**last** of 2 evaluations, after 4 updates" in printed
    assert {path.name for path in out.iterdir()} == {"table3.md", "table3.csv"}


def test_table2_without_data_has_the_published_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["paper", "table2", "--rows", "*-umaze", "--out", str(tmp_path / "out")]
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "| 96.1 " in printed and "| 99.6 " in printed
    assert "after 1,000,000 updates offline, and **after**, 1,000,000 environment" in printed
    (row,) = (line for line in printed.splitlines() if line.startswith("| antmaze-umaze-v0 | 70"))
    assert "dataset absent: Minari, made here" in row
    for more, part in (
        (["--methods", "bc"], "agent bc has no critic to fine-tune with"),
        (["--online-steps", "1"], "--online-steps 1 is too small"),
        (["--replay", "half"], "choose from symmetric, prefill, online"),
    ):
        assert run(*words, *more) == 2
        assert part in capsys.readouterr().err


@pytest.mark.nightly
def test_a_fine_tuned_cell_has_a_before_and_an_after(tmp_path: Path, minari_root: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    pytest.importorskip("minari")
    from xql.collect.pointmaze import make_pointmaze

    make_pointmaze("umaze", transitions=1200)
    # No row of table 2 is quick to make; this one is like them.
    rows = choose_rows("table1", ["pointmaze-umaze"])
    training = dataclasses.replace(TINY, online_steps=6)
    said: list[str] = []
    for _ in range(2):
        (place,) = fill(
            rows, choose_methods(["iql"]), training, tmp_path / "cells", quiet=True, say=said.append
        )
    assert said == [
        "pointmaze-umaze-here-iql-default: trained (1 of 1)",
        "pointmaze-umaze-here-iql-default: there already",
    ]
    assert place.result is not None and place.before is not None
    assert place.before.episodes == place.result.last.episodes == 2
    assert "(step 0)" in place.before.label and "(step 6)" in place.result.last.label
    text = markdown("table2", rows, [place], training)
    header, row = (
        [cell.strip() for cell in one.split("|")[1:-1]]
        for one in text.splitlines()
        if " iql " in one or "then online" in one
    )
    shown = dict(zip(header, row, strict=True))
    assert (shown["updates"], shown["then online"], shown["data"]) == ("4", "6", "made here")
    assert shown["before"] == "0.0 [0.0, 0.0]" and "after" in shown
    lines = csv.DictReader(csv_lines("table2", rows, [place]).splitlines())
    assert [line["of"].split(":")[0] for line in lines] == ["before", "after"]
    # Other online steps, and other updates offline, are another cell.
    for change in ({"online_steps": 8}, {"steps": 5}, {"replay": "symmetric"}):
        other = dataclasses.replace(training, **change)
        (place,) = fill(rows, choose_methods(["iql"]), other, tmp_path / "cells", train=False)
        assert place.problem == "not trained yet"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--rows", "dor-human"], "did you mean 'door-human-v0'"),
        (["--methods", "xlq"], "did you mean 'xql'"),
        (["--methods", "xql:tund"], "did you mean 'tuned'"),
        (["--set", "hiden=[4]"], "did you mean 'hidden'"),
        (["--seeds", "0"], "--seeds 0 is too small"),
        (["--steps", "0"], "--steps 0 is too small"),
        (["--last-episodes", "0"], "--last-episodes 0 is too small"),
        (["--jobs", "0"], "--jobs 0 is too small"),
        (["--d4rl-dir", "nowhere"], "nowhere: there is no such folder"),
        (["--cells", "nowhere"], "nowhere: there is no such folder"),
        (["--cells", str(Path(__file__).parent)], "no run has learned offline from the data"),
        (["--cells", "nowhere", "--seeds", "2"], "--seeds is for what is trained"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("paper", "table3", "--out", str(tmp_path / "out"), *words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1 and part in printed.err, (
        printed.err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--online-steps", "5"], ["--replay", "online"]])
def test_nothing_of_fine_tuning_is_asked_for_where_nothing_trains(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert run("paper", "table2", "--cells", "nowhere", "--out", out, *words) == 2
    said = f"xql: {words[0]} is for what is trained, and with --cells nothing is"
    assert capsys.readouterr().err.startswith(said)
