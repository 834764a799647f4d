"""`film_run`, and the two commands that film."""

from pathlib import Path

import pytest

pytest.importorskip("av", reason="the extra video is not installed")

import av

import xql
from worlds import line_data, register_drawn, register_line
from xql.cli import main
from xql.errors import InputError
from xql.reports.film import film_run
from xql.reports.videos import videos
from xql.runs.run import Run
from xql.training.evaluate import evaluate_run

TRUST = ["--trust-environment", "worlds"]


def learn(folder: Path, env: str | None) -> Run:
    return xql.train_offline(
        line_data(),
        agent="bc",
        env=env,
        steps=20,
        seeds=2,
        out=folder,
        options={"hidden": [8], "batch_size": 16},
        evaluations=1,
        last_episodes=1,
        progress=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learn(tmp_path_factory.mktemp("runs") / "left", register_drawn())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learn(tmp_path_factory.mktemp("runs") / "right", register_drawn())


def frames_of(path: Path) -> tuple[int, int, int]:
    """How many frames, and their height and width."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return len(frames), frames[0].height, frames[0].width


def test_the_film_shows_the_episodes_that_evaluation_plays(run: Run) -> None:
    rows = evaluate_run(run.path, episodes=2, trust=["worlds"])
    for index in (0, 1):
        path, results = film_run(run.path, index=index, episodes=2, trust=["worlds"])
        played = [row.episode_return for row in rows if row.member == index]
        assert [one.episode_return for one in results] == pytest.approx(played, rel=1e-6)
        # 11 states and a second's pause of each episode, under the caption.
        assert frames_of(path) == (42, 64, 64)
    names = sorted(one.name for one in run.path.glob("video*"))
    assert names == ["video-20-2.mp4", "video-20.mp4"]


def test_evaluate_films_on_demand(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "film.mp4"
    words = ["evaluate", str(run.path), "--episodes", "1", "--video-out", str(out), *TRUST]
    main([*words, "--video", "--member", "1"])
    printed = capsys.readouterr().out
    assert f"{out}: returns -" in printed and "2 seeds × 1 episode" in printed
    assert frames_of(out)[0] == 21
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    # Before the evaluation, which may take hours.
    assert capsys.readouterr() == ("", f"xql: {out}: the file exists; give another name\n")
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(run.path), "--video", "--member", "5", *TRUST])
    assert end.value.code == 2
    assert capsys.readouterr() == ("", f"xql: {run.path}: there is no member 5; choose 0 to 1\n")


def test_two_runs_beside_each_other(
    run: Run, other: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both.mp4"
    words = ["--left", str(run.path), "--right", str(other.path), "--out", str(out)]
    main(["paper", "videos", *words, *TRUST])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(": returns")[0] for line in printed] == [
        str(run.path),
        str(other.path),
        str(out),
    ]
    assert frames_of(out) == (21, 64, 128)
    main(["paper", "list"])
    assert "xql paper videos" in capsys.readouterr().out


def test_what_cannot_be_filmed_is_one_line(run: Run, tmp_path: Path) -> None:
    blind = learn(tmp_path / "blind", None)
    with pytest.raises(
        InputError, match=r"blind: this run has no environment; give one with `env`"
    ):
        film_run(blind.path)
    with pytest.raises(InputError, match=r"XQLTestLine-v0: it cannot be drawn; choose"):
        film_run(run.path, tmp_path / "film.mp4", env=register_line())
    with pytest.raises(InputError, match=r"there is no member 2; choose 0 to 1"):
        film_run(run.path, tmp_path / "film.mp4", index=2, trust=["worlds"])
    with pytest.raises(InputError, match=r"0 evaluation episodes; give at least 1"):
        film_run(run.path, tmp_path / "film.mp4", episodes=0, trust=["worlds"])
    with pytest.raises(InputError, match=r"do not fit Pendulum-v1"):
        film_run(run.path, tmp_path / "film.mp4", env="Pendulum-v1")
    with pytest.raises(InputError, match=r"played XQLTestDrawn-v0, the right one None; take two"):
        videos(run.path, blind.path, tmp_path / "film.mp4")
    (tmp_path / "film.mp4").write_text("mine")
    with pytest.raises(InputError, match=r"film.mp4: the file exists; give another name"):
        videos(run.path, run.path, tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_text() == "mine"
