import dataclasses
import gzip
import json
import math
import queue
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from xql.agents import XQLConfig
from xql.data.actions import Box
from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.evaluation.rollout import EpisodeResult
from xql.evaluation.scores import Reference
from xql.runs.config import DataConfig, EvaluationPlan, Member, RunConfig
from xql.runs.folder import (
    HEADERS,
    Divergence,
    Evaluation,
    Metrics,
    RunFolder,
    evaluation_rows,
    free_folder,
    run_folders,
)

CONFIG = RunConfig(
    agent="xql",
    preset="default",
    steps=10,
    members=tuple(Member(3, {"beta": beta}) for beta in (0.5, 1.0, 2.0)),
    hyperparameters=XQLConfig(hidden=(4,)),
    scaling=Scaling("raw", "raw", 1.0, 0.0, np.zeros(2, np.float32), np.ones(2, np.float32)),
    data=DataConfig("γ", "x/y", 2, Box((-1.0,), (1.0,))),
    environment=None,
)


def row(step: int, member: int = 0, **changes: Any) -> Evaluation:
    return Evaluation(step, member, 3, 0, 1.5, 10, 25.0, True)._replace(**changes)


def test_create_then_open_gives_the_same_configuration(tmp_path: Path) -> None:
    made = RunFolder.create(tmp_path / "a" / "run", CONFIG)
    opened = RunFolder.open(tmp_path / "a" / "run")
    assert opened.config.to_dict() == made.config.to_dict() == CONFIG.to_dict()
    text = (made.path / "config.yaml").read_text(encoding="utf-8")
    assert text.startswith("version: 2\n")
    assert "agent: xql\npreset: default\nsteps: 10\nmembers:\n- seed: 3\n" in text
    assert "name: γ" in text
    assert made.checkpoints == made.path / "checkpoints"


def test_a_path_may_begin_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder.create(Path("~/run"), CONFIG).path == tmp_path / "run"
    assert RunFolder.open(Path("~/run")).path == tmp_path / "run"
    with pytest.raises(InputError, match="run"):
        RunFolder.require_free(Path("~/run"))


def test_an_existing_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunFolder.create(path, CONFIG).log_metrics(1, {"loss": [1.0]})
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(InputError) as error:
        RunFolder.create(path, CONFIG)
    assert str(error.value) == (
        f"{path}: there is already something here; choose another `out`; nothing is written over"
    )
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="there is already something here"):
        RunFolder.create(tmp_path / "file", CONFIG)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "evaluations.csv"])
def test_an_incomplete_folder_names_what_is_missing(tmp_path: Path, name: str) -> None:
    RunFolder.create(tmp_path / "run", CONFIG)
    (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError) as error:
        RunFolder.open(tmp_path / "run")
    assert str(error.value) == (
        f"{tmp_path / 'run'}: {name} is missing; this is no complete run folder"
    )


def test_a_missing_folder_and_a_broken_configuration_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no such run folder; check the path$"):
        RunFolder.open(tmp_path / "run")
    RunFolder.create(tmp_path / "run", CONFIG)
    for broken, said in (
        ("a: [1, 2", "this is not YAML"),
        ("", "expected keys with values, found nothing"),
    ):
        (tmp_path / "run" / "config.yaml").write_text(broken)
        with pytest.raises(InputError, match=said) as error:
            RunFolder.open(tmp_path / "run")
        assert "\n" not in str(error.value)


def test_a_place_that_cannot_hold_a_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    under = tmp_path / "file" / "a" / "run"
    for refuse in (RunFolder.require_free, lambda path: RunFolder.create(path, CONFIG)):
        with pytest.raises(InputError) as error:
            refuse(under)
        assert str(error.value) == (
            f"{under}: no run can be written here ({tmp_path / 'file'} is a file); "
            "choose another `out`"
        )

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Neither way to be refused shows to a superuser, who may write anywhere.
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        with pytest.raises(InputError, match=r"no run can be written here \(.* is not writable\)"):
            RunFolder.require_free(tmp_path / "run")
    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(InputError, match=r"run: no run can be written here .*Permission denied"):
        RunFolder.create(tmp_path / "run", CONFIG)


def test_metrics_are_valid_json_also_where_they_are_not_finite(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.log_metrics(10, {"loss": jnp.array([1.5, jnp.nan, jnp.inf]), "rate": [0.1, 0.2, 0.3]})
    run.log_metrics(20, {"loss": np.float32(-np.inf)})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {
            "step": 10,
            "loss": [1.5, None, None],
            "rate": [0.1, 0.2, 0.3],
            "nonfinite": {"loss": {"1": "nan", "2": "inf"}},
        },
        {"step": 20, "loss": [None], "nonfinite": {"loss": {"0": "-inf"}}},
    ]
    first, second = run.read_metrics()
    assert (first.step, first.values["rate"]) == (10, [0.1, 0.2, 0.3])
    assert first.values["loss"][0] == 1.5 and math.isnan(first.values["loss"][1])
    assert first.values["loss"][2] == math.inf
    assert second == Metrics(20, {"loss": [-math.inf]})


def test_a_metric_cannot_take_the_name_of_a_field(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match="a metric cannot be called 'step'"):
        run.log_metrics(1, {"step": [1.0]})


def test_evaluations_round_trip_under_the_promised_header(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    rows = [
        row(100),
        row(100, 1, score=None, success=None, episode_return=1 / 3),
        row(100, 2, success=False, episode_return=float("-inf")),
    ]
    run.log_evaluations(100, rows)
    assert run.read_evaluations() == rows
    assert (run.path / "evaluations.csv").read_text() == (
        "step,member,seed,episode,return,length,score,success\n"
        "100,0,3,0,1.5,10,25.0,1\n"
        "100,1,3,0,0.3333333333333333,10,,\n"
        "100,2,3,0,-inf,10,25.0,0\n"
    )


def test_evaluations_written_by_xql_0_1_are_read(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    (run.path / "evaluations.csv").write_text(
        "step,member,seed,beta,episode,return,length,score,success\n100,0,3,0.5,0,1.5,10,25.0,1\n"
    )
    assert run.read_evaluations() == [row(100)]
    run.rewind(100, evaluated=100)
    run.log_evaluations(200, [row(200)])
    assert run.read_evaluations() == [row(100), row(200)]


def test_compressed_files_are_read_where_the_plain_ones_are_gone(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.log_metrics(1, {"loss": [1.0]})
    run.log_evaluations(1, [row(1)])
    before = run.read_metrics(), run.read_evaluations()
    for name in ("metrics.jsonl", "evaluations.csv"):
        with gzip.open(run.path / f"{name}.gz", "wb") as file:
            file.write((run.path / name).read_bytes())
        (run.path / name).unlink()
    opened = RunFolder.open(run.path)
    assert (opened.read_metrics(), opened.read_evaluations()) == before


def test_a_rollout_becomes_rows() -> None:
    results = [EpisodeResult(1, 4, 10_004, 15.0, 7, None)]
    reference = Reference(10.0, 20.0, "by hand")
    (scored,) = evaluation_rows(500, results, [6, 7], reference)
    assert scored == Evaluation(500, 1, 7, 4, 15.0, 7, 50.0, None)
    (plain,) = evaluation_rows(500, results, [6, 7])
    assert plain.score is None


def test_a_line_cut_short_is_dropped_and_never_runs_into_the_next(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.log_metrics(1, {"loss": [1.0]})
    run.log_evaluations(1, [row(1)])
    for name, torn in (("metrics.jsonl", '{"step": 2, "lo'), ("evaluations.csv", "2,0,3,0,1")):
        with (run.path / name).open("a") as file:
            file.write(torn)
    run = RunFolder.open(run.path)
    with pytest.warns(
        UserWarning, match=r"metrics\.jsonl: its last line is cut short and left out"
    ):
        assert run.read_metrics() == [Metrics(1, {"loss": [1.0]})]
    with pytest.warns(UserWarning, match=r"evaluations\.csv: its last row is cut short") as said:
        assert run.read_evaluations() == [row(1)]
    assert len(said) == 1
    run.log_metrics(3, {"loss": [3.0]})
    run.log_evaluations(3, [row(3)])
    assert [one.step for one in run.read_metrics()] == [1, 3]
    assert run.read_evaluations() == [row(1), row(3)]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"\xff\xfe",
        b"3",
        b"[" * 100_000,
        b'{"loss": [1.0]}',
        b'{"step": "1"}',
        b'{"step": 1, "loss": 2.0}',
        b'{"step": 1, "loss": ["x"]}',
        b'{"step": 1, "loss": [null], "nonfinite": {"loss": {"4": "nan"}}}',
    ],
    ids=str,
)
def test_a_damaged_line_of_the_metrics_is_named(tmp_path: Path, line: bytes) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"metrics.jsonl: line 2 is damaged; remove that line$"):
        run.read_metrics()


@pytest.mark.parametrize(
    "line",
    [b"1,2,3", b"", b"1,0,3,0,one,10,25.0,1", b"\xff", b"1,0,3,0,1.5,10,25.0,2", b'1,0,3,0,"1'],
    ids=str,
)
def test_a_damaged_row_of_the_evaluations_is_named(tmp_path: Path, line: bytes) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.log_evaluations(1, [row(1)])
    with (run.path / "evaluations.csv").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(InputError, match=r"evaluations.csv: line 3 is damaged; remove that line$"):
        run.read_evaluations()


def test_damage_to_whole_files_is_one_line(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    (run.path / "evaluations.csv").write_text("step,member\n1,2\n")
    with pytest.raises(InputError, match="the first line is not the header"):
        run.read_evaluations()
    (run.path / "frozen.csv").write_text("member,step,noticed\n0,4,x\n")
    with pytest.raises(InputError, match=r"frozen.csv: line 2 is damaged"):
        run.read_frozen()
    (run.path / "metrics.jsonl").unlink()
    whole = gzip.compress(b'{"step": 1}\n' * 100)
    for damaged in (whole[:-12], whole[:20] + b"\0" + whole[21:], b"no gzip"):
        (run.path / "metrics.jsonl.gz").write_bytes(damaged)
        with pytest.raises(
            InputError, match=r"metrics.jsonl.gz: this file cannot be read"
        ) as error:
            run.read_metrics()
        assert "\n" not in str(error.value)


def test_divergences_are_read_back(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    assert (run.read_divergences(), run.read_rolled_back(), run.read_frozen()) == ([], {}, {})
    first = Divergence(member=2, step=0, noticed=10, action="rolled back", lost=10)
    second = Divergence(member=2, step=10, noticed=20, action="frozen", lost=10)
    run.log_divergence(first, {"update": 3, "networks": ["value"]})
    assert run.read_frozen() == {}
    run.log_divergence(second, {"update": None, "networks": []})
    with (run.path / "divergence.jsonl").open("a") as file:
        file.write('{"member": 1, "st')
    assert run.read_divergences() == [first, second]
    assert (run.read_rolled_back(), run.read_frozen()) == ({2: first}, {2: 10})


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        "{",
        '{"member": "0", "step": 1, "noticed": 2, "action": "frozen", "lost": 1}',
        '{"member": 0, "step": 1, "noticed": 2, "action": "thawed", "lost": 1}',
        '{"member": 0, "step": 1, "noticed": 2, "action": ["frozen"], "lost": 1}',
    ],
)
def test_a_damaged_divergence_is_one_line(tmp_path: Path, line: str) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    (run.path / "divergence.jsonl").write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"divergence.jsonl: line 1 is damaged; remove that line$"):
        run.read_divergences()


def test_files_of_another_run_are_refused(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)

    def refusal(text: str, name: str = "evaluations.csv") -> str:
        (run.path / name).write_text(HEADERS[name] + text)
        read: dict[str, Callable[[], object]] = {
            "metrics.jsonl": run.read_metrics,
            "evaluations.csv": run.read_evaluations,
            "frozen.csv": run.read_frozen,
            "divergence.jsonl": run.read_divergences,
        }
        with pytest.raises(InputError) as error:
            read[name]()
        line = str(error.value)
        assert line.endswith("files of two runs lie in this folder: make the run again")
        return line.removeprefix(f"{run.path / name}: ")

    sound = "1,0,3,0,1.5,10,25.0,1\n"
    assert refusal("1,0,4,0,1.5,10,25.0,1\n").startswith(
        "line 2 is of seed 4, config.yaml of seed 3"
    )
    for member in (3, -1):
        assert refusal(f"{sound}1,{member},3,0,1.5,10,25.0,1\n").startswith(
            f"line 3 is of member {member}, config.yaml has 3"
        )
    assert refusal(2 * sound).startswith("episode 0 of member 0 at step 1 is there twice")
    assert refusal("3,1,2\n", "frozen.csv").startswith("line 2 is of member 3, config.yaml has 3")
    other = '{"member": 3, "step": 1, "noticed": 2, "action": "frozen", "lost": 1}\n'
    assert refusal(other, "divergence.jsonl").startswith("line 1 is of member 3, config.yaml has 3")
    assert refusal('{"step": 1, "loss": [1.0, 2.0]}\n', "metrics.jsonl").startswith(
        "line 1 has numbers of 2 members, config.yaml 3"
    )


@pytest.mark.parametrize(("cut", "there"), [(0, 6), (1, 5), (23, 5), (47, 3)])
def test_a_finished_run_that_lacks_episodes_says_how_many(
    tmp_path: Path, cut: int, there: int
) -> None:
    plan = EvaluationPlan(evaluations=2, episodes=1, last_episodes=2)
    run = RunFolder.create(tmp_path / "run", dataclasses.replace(CONFIG, evaluation=plan))
    run.log_evaluations(5, [row(5, member) for member in range(3)])
    run.log_evaluations(
        10, [row(10, member, episode=episode) for member in range(3) for episode in range(2)]
    )
    path = run.path / "evaluations.csv"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert len(run.read_evaluations(whole=True)) == 3 + there
    why = "its last row is cut short and left out: {} are there" if cut % 23 else "it has {}"
    assert [str(one.message) for one in said] == (
        [f"{path}: {why.format(f'{there} of 6 episodes of step 10')}"] if cut else []
    )


def _claim(barrier: Any, out: Any) -> None:
    barrier.wait()
    path = free_folder("sweep")
    out.put(str(RunFolder.create(path, CONFIG).path))


def test_jobs_that_start_at_one_instant_get_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads: list[threading.Thread] = []
    for _ in range(5):
        barrier, out = threading.Barrier(4), queue.Queue[str]()
        threads = [threading.Thread(target=_claim, args=(barrier, out)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(
        f"sweep-{number}" for number in range(1, 21)
    )


def test_of_two_claims_of_one_empty_folder_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    # Both have looked, and saw it empty.
    monkeypatch.setattr(RunFolder, "require_free", staticmethod(lambda path: None))
    RunFolder.create(tmp_path / "run", CONFIG).log_metrics(1, {"loss": [1.0]})
    with pytest.raises(InputError, match="there is already something here"):
        RunFolder.create(tmp_path / "run", CONFIG)
    assert RunFolder.open(tmp_path / "run").read_metrics() == [Metrics(1, {"loss": [1.0]})]
    assert not list((tmp_path / "run").glob("tmp*"))


def test_a_folder_is_named_without_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_folder("a/b\\c\x1b[31m\x00 d\u202e").as_posix() == "runs/a-b-c-31m-d-1"


@pytest.mark.parametrize("dangling", [True, False])
def test_no_folder_can_be_made_where_runs_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dangling: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if dangling:
        Path("runs").symlink_to("gone")
    else:
        Path("runs").touch()
    with pytest.raises(InputError, match=r"^runs: no run can be written here \(File exists\)"):
        free_folder("a")


def test_rows_that_waited_are_not_written_twice(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    for step in (1, 2):
        run.log_metrics(step, {"loss": 1.0})
    first, second = (run.path / "metrics.jsonl").read_text().splitlines()
    again = RunFolder.open(run.path)
    again.wait_with(
        {"metrics.jsonl": f"{first}\n{second}\n", "frozen.csv": "0,1,2\n", "../other": "x\n"}
    )
    again.flush()
    assert [line.step for line in again.read_metrics()] == [1, 2]
    assert again.read_frozen() == {0: 1}
    assert not (tmp_path / "other").exists()


def test_a_sweep_without_a_summary_stands_for_all_its_cells(tmp_path: Path) -> None:
    cell = tmp_path / "cells" / "a"
    cell.mkdir(parents=True)
    for file in (tmp_path / "sweep.yaml", cell / "config.yaml"):
        file.touch()
    assert run_folders(tmp_path) == [cell]
    (tmp_path / "summary.csv").write_text("state,cell\nwaiting,\n")
    with pytest.raises(InputError, match="none of its runs is finished"):
        run_folders(tmp_path)
    (tmp_path / "summary.csv").write_text("no,such\n1,2\n")
    with pytest.raises(InputError, match=r"summary\.csv: this is no summary of a sweep; the same"):
        run_folders(tmp_path)
