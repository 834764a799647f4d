import ctypes
import ctypes.util
import os
import sys
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from worlds import register_line
from xql.envs import render
from xql.envs.make import make_environment
from xql.errors import InputError

choose = render.choose_renderer.__wrapped__


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine that has the libraries put into this set."""
    have: set[str] = set()
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: name if name in have else None)
    monkeypatch.setattr(render, "egl_works", lambda: "EGL" in have)
    # Set before it is deleted, so that what the code under test writes is undone too.
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("MUJOCO_GL")
    return have


@pytest.mark.parametrize(
    ("have", "chosen"),
    [({"EGL", "OSMesa"}, "egl"), ({"EGL"}, "egl"), ({"OSMesa"}, "osmesa"), (set(), None)],
)
def test_the_library_that_works_is_chosen(libraries: Any, have: Any, chosen: str | None) -> None:
    libraries |= have
    choose()
    assert os.environ.get("MUJOCO_GL") == chosen


@pytest.mark.parametrize("asked", ["glfw", "disabled", "osmesa"])
def test_what_the_user_chose_stays(
    libraries: Any, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    libraries |= {"EGL", "OSMesa"}
    monkeypatch.setenv("MUJOCO_GL", asked)
    choose()
    assert os.environ["MUJOCO_GL"] == asked


def test_a_choice_that_is_not_installed_is_one_line(
    libraries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(InputError) as error:
        choose()
    assert str(error.value) == (
        "MUJOCO_GL=egl, but libEGL is not installed; leave MUJOCO_GL unset, or install EGL "
        "(Debian: libegl1 libegl-mesa0 libgl1-mesa-dri) or OSMesa (libosmesa6)"
    )


def test_no_library_and_no_screen_is_one_line_before_anything_is_made(
    libraries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    described = EnvSpec("Ant-v9", entry_point="gymnasium.envs.mujoco.ant_v9:AntEnv")
    choose()
    with pytest.raises(InputError) as error:
        render.drawing(described, (64, 48))
    assert str(error.value) == (
        "Ant-v9: it cannot be drawn on this machine: there is no screen, and neither EGL nor "
        "OSMesa works; install EGL (Debian: libegl1 libegl-mesa0 libgl1-mesa-dri) or OSMesa "
        "(libosmesa6), and leave MUJOCO_GL unset"
    )
    sized = {"render_mode": "rgb_array", "width": 64, "height": 48}
    with monkeypatch.context() as screen:
        screen.setenv("DISPLAY", ":0")
        assert render.drawing(described, (64, 48)) == sized
    libraries.add("OSMesa")
    choose()
    assert render.drawing(described, (64, 48)) == sized
    # What is not MuJoCo's draws as it likes.
    other = EnvSpec("Car-v9", entry_point="cars:Car")
    assert render.drawing(other, (64, 48)) == {"render_mode": "rgb_array"}


def test_a_library_without_egl_in_it_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert not render.egl_works.__wrapped__()
    # Some library that loads and is not EGL, and a file that is no library.
    for name in (ctypes.util.find_library("c") or "libc.so.6", __file__):
        monkeypatch.setattr(ctypes.util, "find_library", lambda _, name=name: name)
        assert not render.egl_works.__wrapped__()


def test_an_environment_that_does_not_draw_itself_is_one_line() -> None:
    with pytest.raises(InputError) as error:
        make_environment(register_line(), picture=(64, 48))
    assert str(error.value) == (
        "XQLTestLine-v0: it cannot be drawn; choose an environment with the render mode rgb_array"
    )


@pytest.mark.parametrize(("name", "cells"), [("UMaze", 5), ("Large", 9)])
def test_a_maze_is_seen_from_above_and_whole(name: str, cells: int) -> None:
    pytest.importorskip("gymnasium_robotics")
    env = make_environment(f"AntMaze_{name}-v4", picture=(64, 48))
    simulator: Any = env.unwrapped
    camera = simulator.ant_env.mujoco_renderer.default_cam_config
    assert camera["lookat"].tolist() == [0, 0, 0] and camera["trackbodyid"] == -1
    # A cell is 4 long; what lies within the outer wall must fit into the 45 degrees of view.
    seen = 2 * camera["distance"] * np.tan(np.pi / 8)
    assert 4 * (cells - 2) < seen < 4 * (cells + 2)
    env.close()
