"""What a run shows of itself where it is printed: its files alone are read for it."""

import shutil
from pathlib import Path

import pytest
import yaml

from xql.runs.folder import RunFolder
from xql.runs.run import Run

OLD = Path(__file__).parents[1] / "fixtures" / "run-0.1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two β and two seeds."""
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def without_state(folder: Path) -> Run:
    run = Run.__new__(Run)
    run.folder = RunFolder.open(folder)
    return run


def keep_one_beta(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    config["members"] = [{"seed": seed, "changes": {}} for seed in (0, 1)]
    (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    rows = (folder / "evaluations.csv").read_text("utf-8").splitlines()
    kept = [row for row in rows if row.split(",")[1] in ("member", "0", "1")]
    (folder / "evaluations.csv").write_text("\n".join(kept) + "\n", "utf-8")


def test_of_one_setting_the_score_is_shown(folder: Path) -> None:
    keep_one_beta(folder)
    # The return is the mean over both seeds at step 4, and its interval ends at either seed.
    assert repr(without_state(folder)) == (
        f"Run(path='{folder}', agent='xql', data='arrays', steps=4, members=2, "
        "score='-1521.2 [-1592.3, -1450.2] return')"
    )


def test_of_a_sweep_every_setting_has_its_own(folder: Path) -> None:
    assert repr(without_state(folder)).endswith("steps=4, members=4, settings=2)")


@pytest.mark.parametrize("rows", ["", "no table\n", None])
def test_without_evaluations_that_can_be_read_it_is_shown_all_the_same(
    folder: Path, rows: str | None
) -> None:
    run = without_state(folder)
    if rows is None:
        shutil.rmtree(folder)
    else:
        (folder / "evaluations.csv").write_text(rows, "utf-8")
    assert repr(run).endswith("steps=4, members=4)")
