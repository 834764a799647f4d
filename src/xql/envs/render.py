"""Draw a simulator without a display: which OpenGL library, which camera, which size."""

import ctypes
import ctypes.util
import functools
import os
import re
import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import UInt8

from xql.errors import InputError

_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
_INSTALL = "install EGL (Debian: libegl1 libegl-mesa0 libgl1-mesa-dri) or OSMesa (libosmesa6)"

_MUJOCO = "gymnasium.envs.mujoco|gymnasium_robotics|xql.envs"
"""Entry points of environments whose frames have a width and a height to choose."""


@functools.cache
def choose_renderer() -> None:
    """Let MuJoCo render without a display where a library for that works.

    MuJoCo reads the choice once, at its import, and fails there if its library is missing.

    Raises:
        InputError: MUJOCO_GL asks for a library that is not installed.
    """
    asked = os.environ.get("MUJOCO_GL")
    if asked in _LIBRARIES and ctypes.util.find_library(_LIBRARIES[asked]) is None:
        raise InputError(
            f"MUJOCO_GL={asked}, but lib{_LIBRARIES[asked]} is not installed",
            hint=f"leave MUJOCO_GL unset, or {_INSTALL}",
        )
    if asked is not None:
        return
    if egl_works():
        os.environ["MUJOCO_GL"] = "egl"
    elif ctypes.util.find_library("OSMesa"):
        os.environ["MUJOCO_GL"] = "osmesa"


@functools.cache
def egl_works() -> bool:
    """Whether EGL opens a display on some device, as MuJoCo is going to ask it.

    The library alone does not say: it may be there without any driver.
    """
    name = ctypes.util.find_library("EGL")
    if name is None:
        return False
    try:
        library = ctypes.CDLL(name)
        look_up = library.eglGetProcAddress
    except (OSError, AttributeError):
        return False
    look_up.restype, look_up.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    found = look_up(b"eglQueryDevicesEXT"), look_up(b"eglGetPlatformDisplayEXT")
    if not all(found):
        return False
    query = ctypes.CFUNCTYPE(integer, integer, pointer, pointer)(found[0])
    open_display = ctypes.CFUNCTYPE(pointer, integer, pointer, pointer)(found[1])
    initialize = library.eglInitialize
    initialize.restype, initialize.argtypes = integer, [pointer, pointer, pointer]
    devices, count = (pointer * 16)(), integer()
    if not query(len(devices), devices, ctypes.byref(count)):
        return False
    # 0x313F is EGL_PLATFORM_DEVICE_EXT.
    displays = (open_display(0x313F, device, None) for device in devices[: count.value])
    return any(display and initialize(display, None, None) for display in displays)


def drawing(described: EnvSpec, size: tuple[int, int]) -> dict[str, Any]:
    """The arguments with which an environment can be drawn, `size` = (width, height) in pixels.

    Environments that are not made with MuJoCo have a size of their own.

    Raises:
        InputError: MuJoCo would find no OpenGL on this machine.
    """
    arguments: dict[str, Any] = {"render_mode": "rgb_array"}
    if re.search(_MUJOCO, str(described.entry_point)):
        _require_opengl(described.id)
        arguments |= {"width": size[0], "height": size[1]}
    return arguments


def _require_opengl(name: str) -> None:
    """Fail here in one line; the libraries would fail with warnings and tracebacks."""
    screen = any(os.environ.get(one) for one in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform != "linux" or screen or os.environ.get("MUJOCO_GL") in _LIBRARIES:
        return
    raise InputError(
        "it cannot be drawn on this machine: there is no screen, and neither EGL nor OSMesa works",
        where=name,
        hint=f"{_INSTALL}, and leave MUJOCO_GL unset",
    )


def aim_camera(env: gymnasium.Env[Any, Any]) -> None:
    """Show the whole of a maze from above; AntMaze's own camera looks at a wall."""
    inner: Any = env.unwrapped
    body = getattr(inner, "ant_env", None) or getattr(inner, "point_env", None)
    if body is None:
        return
    cells = max(inner.maze.map_length, 0.75 * inner.maze.map_width)
    # MuJoCo's camera sees 45 degrees of height, hence 0.83 of its distance; the wall all around may
    # be cut a little.
    body.mujoco_renderer.default_cam_config = {
        "distance": 1.25 * (cells - 0.5) * inner.maze.maze_size_scaling,
        "elevation": -75,
        "azimuth": 90,
        "lookat": np.zeros(3),
        "trackbodyid": -1,
    }


def draw(env: gymnasium.Env[Any, Any]) -> UInt8[np.ndarray, "height width 3"]:
    """The environment's present state as a picture.

    Raises:
        InputError: it cannot be drawn, on this machine or at all.
    """
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    try:
        frame = env.render()
    except gymnasium.error.DependencyNotInstalled as error:
        raise InputError(
            f"it cannot be drawn ({error})", where=name, hint="install what is missing"
        ) from None
    # What a missing OpenGL library raises depends on the simulator, the library and what is left
    # of it: AttributeError, ImportError, RuntimeError, mujoco.FatalError, OpenGL.error.GLError.
    except Exception as error:
        raise InputError(
            f"it cannot be drawn on this machine ({str(error) or type(error).__name__:.120})",
            where=name,
            hint=f"{_INSTALL}, and leave MUJOCO_GL unset",
        ) from error
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(
            "it draws no pictures",
            where=name,
            hint="choose an environment with the render mode rgb_array",
        )
    return frame.astype(np.uint8, copy=False)
