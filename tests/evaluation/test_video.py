import ctypes.util
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("av", reason="the extra video is not installed")

from typing import Never

import av

from worlds import Drawn, Line
from xql.envs.make import make_environment
from xql.envs.render import egl_works
from xql.errors import InputError, MissingExtra
from xql.evaluation.rollout import rollout
from xql.evaluation.video import captioned, record, side_by_side

STRIP = 24
"""Rows of the caption."""


def towards_zero(observations: Any) -> Any:
    return -np.sign(observations[..., :1])


def frames_of(path: Path) -> Any:
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        return rate, [one.to_ndarray(format="rgb24") for one in container.decode(video=0)]


def steps_of(frames: Any) -> Any:
    """The steps that frames of `Drawn` show."""
    return [round(float(frame[STRIP:].mean()) / 20) for frame in frames]


def test_the_episodes_are_those_of_a_rollout_and_every_step_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    results = record(Drawn, towards_zero, path, seed=4, episodes=2)
    assert results == rollout(Line, towards_zero, members=1, episodes=2, seed=4)
    rate, frames = frames_of(path)
    # Ten frames a second, and a second for each end.
    assert rate == 10
    assert frames[0].shape == (STRIP + 40, 64, 3)
    assert steps_of(frames) == [*range(11), *[10] * 10] * 2
    assert [one.name for one in tmp_path.iterdir()] == ["film.mp4"]


def test_every_so_many_steps_and_the_last(tmp_path: Path) -> None:
    record(Drawn, towards_zero, tmp_path / "film.mp4", every=4)
    rate, frames = frames_of(tmp_path / "film.mp4")
    assert rate == Fraction(10, 4)
    assert steps_of(frames) == [0, 4, 8, 10, 10]


def test_a_fast_simulation_is_thinned_to_its_own_speed(tmp_path: Path) -> None:
    class Fast(Drawn):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 125}  # noqa: RUF012

    record(Fast, towards_zero, tmp_path / "film.mp4")
    rate, frames = frames_of(tmp_path / "film.mp4")
    assert rate == 25
    assert steps_of(frames) == [0, 5, 10] + [10] * 25


def test_a_policy_that_gives_no_number_ends_the_film(tmp_path: Path) -> None:
    def broken(observations: Any) -> Any:
        # Only the first step, where x is what the reset gave, gets a finite action.
        seen.append(1)
        return np.full((1, 1, 1), np.nan if len(seen) > 1 else 0.0, np.float32)

    seen: list[int] = []
    (result,) = record(Drawn, broken, tmp_path / "film.mp4")
    assert np.isnan(result.episode_return)
    assert steps_of(frames_of(tmp_path / "film.mp4")[1]) == [0, 1] + [1] * 10


def test_an_end_at_success_is_shown(tmp_path: Path) -> None:
    (whole,) = record(Drawn, towards_zero, tmp_path / "whole.mp4", seed=3)
    (cut,) = record(Drawn, towards_zero, tmp_path / "cut.mp4", seed=3, stop_at_success=True)
    assert whole.success and cut.success and cut.length < whole.length
    shown = steps_of(frames_of(tmp_path / "cut.mp4")[1])
    assert shown == [*range(cut.length + 1), *[cut.length] * 10]


def test_the_caption_is_above_the_picture_and_says_the_text() -> None:
    random = np.random.default_rng(0)
    frame = random.integers(0, 255, (30, 200, 3), np.uint8)
    one, other = captioned(frame, "step 1   return 0.5"), captioned(frame, "step 2   return 0.5")
    assert one.shape == (30 + STRIP, 200, 3)
    assert np.array_equal(one[STRIP:], frame)
    strip = one[:STRIP].astype(int)
    assert strip.max() > 200 and np.median(strip) < 40
    changed = np.flatnonzero((one != other).any(axis=(0, 2)))
    # Only the one digit, after "step ", differs.
    assert 0 < len(changed) <= 10 and 30 < changed.min() < changed.max() < 60


def test_an_odd_size_loses_a_line(tmp_path: Path) -> None:
    class Odd(Drawn):
        size = (41, 63)

    record(Odd, towards_zero, tmp_path / "film.mp4")
    assert frames_of(tmp_path / "film.mp4")[1][0].shape == (STRIP + 40, 62, 3)


def test_side_by_side_the_shorter_one_waits(tmp_path: Path) -> None:
    long, short, both = (tmp_path / f"{name}.mp4" for name in ("long", "short", "both"))

    class Brief(Drawn):
        def step(self, action: Any) -> Any:
            *rest, truncated, info = super().step(action)
            return *rest, truncated or self._steps == 3, info

    record(Drawn, towards_zero, long)
    record(Brief, towards_zero, short)
    assert side_by_side(short, long, both) == both
    rate, frames = frames_of(both)
    assert rate == 10 and frames[0].shape == (STRIP + 40, 128, 3)
    assert steps_of([frame[:, :64] for frame in frames]) == [0, 1, 2, *[3] * 18]
    assert steps_of([frame[:, 64:] for frame in frames]) == [*range(11), *[10] * 10]
    with pytest.raises(InputError, match=r"both.mp4: the file exists; give another name"):
        side_by_side(short, long, both)


def test_films_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    class Tall(Drawn):
        size = (80, 64)

    record(Drawn, towards_zero, tmp_path / "film.mp4")
    record(Drawn, towards_zero, tmp_path / "slow.mp4", every=2)
    record(Tall, towards_zero, tmp_path / "tall.mp4")
    (tmp_path / "text.mp4").write_text("no film")
    for other, line in (
        ("slow", "their speeds are 10 and 5 frames a second"),
        ("tall", "their heights are 64 and 104 pixels"),
        ("text", "this is no film that can be read"),
        ("none", "there is no such file"),
    ):
        with pytest.raises(InputError, match=line):
            side_by_side(tmp_path / "film.mp4", tmp_path / f"{other}.mp4", tmp_path / "out.mp4")
    assert not list(tmp_path.glob("out*"))


def test_nothing_is_written_over_and_nothing_half_is_left(tmp_path: Path) -> None:
    (tmp_path / "mine.mp4").write_text("mine")
    with pytest.raises(InputError, match=r"mine.mp4: the file exists; give another name"):
        record(Drawn, towards_zero, tmp_path / "mine.mp4")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere; make it first"):
        record(Drawn, towards_zero, tmp_path / "nowhere" / "film.mp4")

    def interrupted(observations: Any) -> Any:
        if not patience:
            raise KeyboardInterrupt
        patience.pop()
        return np.zeros((1, 1, 1), np.float32)

    for steps in (0, 5):
        patience = list(range(steps))
        with pytest.raises(KeyboardInterrupt):
            record(Drawn, interrupted, tmp_path / "film.mp4")
    assert [one.name for one in tmp_path.iterdir()] == ["mine.mp4"]
    assert (tmp_path / "mine.mp4").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("Cannot create an EGL context."),
            "NoScreen: it cannot be drawn on this machine (Cannot create an EGL context.); "
            "install EGL (Debian: libegl1 libegl-mesa0 libgl1-mesa-dri) or OSMesa (libosmesa6), "
            "and leave MUJOCO_GL unset",
        ),
        (
            gymnasium.error.DependencyNotInstalled("pygame is not installed"),
            "NoScreen: it cannot be drawn (pygame is not installed); install what is missing",
        ),
    ],
)
def test_what_cannot_be_drawn_here_is_one_line(tmp_path: Path, error: Any, line: str) -> None:
    class NoScreen(Drawn):
        def render(self) -> Never:
            raise error

    with pytest.raises(InputError) as caught:
        record(NoScreen, towards_zero, tmp_path / "film.mp4")
    assert str(caught.value) == line
    assert not list(tmp_path.iterdir())


def test_what_draws_nothing_is_one_line(tmp_path: Path) -> None:
    class Blind(Drawn):
        def render(self) -> Any:
            return None

    with pytest.raises(InputError, match=r"^Blind: it draws no pictures; "):
        record(Blind, towards_zero, tmp_path / "film.mp4")


@pytest.mark.parametrize("module", ["av", "PIL.Image"])
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"run: pip install 'extreme-q-learning\[video\]'$"):
        record(Drawn, towards_zero, tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not egl_works() and ctypes.util.find_library("OSMesa") is None,
    reason="neither EGL nor OSMesa is installed",
)
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("dm_control/hopper-hop", "dm_control"),
        ("Hopper-v5", "mujoco"),
        ("PointMaze_UMaze-v3", "gymnasium_robotics"),
    ],
)
def test_simulators_are_drawn_without_a_display(tmp_path: Path, name: str, module: str) -> None:
    pytest.importorskip(module)
    path = tmp_path / "film.mp4"

    def make() -> Any:
        return make_environment(name, max_episode_steps=3, picture=(64, 48))

    size = make().action_space.shape[0]
    (result,) = record(make, lambda _: np.ones((1, 1, size), np.float32), path, every=3)
    assert result.length == 3
    _, frames = frames_of(path)
    assert frames[0].shape == (STRIP + 48, 64, 3)
    # There is something to see, and it moved.
    assert frames[0][STRIP:].std() > 5
    assert not np.array_equal(frames[0][STRIP:], frames[1][STRIP:])
