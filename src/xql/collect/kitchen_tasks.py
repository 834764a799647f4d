"""Scripts for the seven tasks of FrankaKitchen-v1: waypoints, grasps and strokes of one arm.

A script is a generator of actions: whoever iterates over it steps the environment with each, so
that the script sees at every step where the arm and the things are. The world's y axis points into
the kitchen, x to the right, z upwards; all lengths are metres.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float64

from xql.collect.arm import Arm, Pose, Rotation, Vector, pointing
from xql.errors import require

Task = Literal[
    "microwave",
    "kettle",
    "bottom burner",
    "top burner",
    "light switch",
    "slide cabinet",
    "hinge cabinet",
]

TASKS: tuple[Task, ...] = get_args(Task)
"""In the order in which D4RL's demonstrators did four of them."""

Script = Iterator[Float64[np.ndarray, " joints"]]

DONE = 0.3
"""The environment counts a task as done within this distance of its goal."""

# A stroke stops at this distance from the goal, well within `DONE`: reaching that alone pays a
# reward in the middle of the stroke, and some things swing back.
_STOP: dict[Task, float] = {
    "microwave": 0.10,
    "kettle": 0.20,
    "bottom burner": 0.12,
    "top burner": 0.12,
    "light switch": 0.10,
    "slide cabinet": 0.10,
    "hinge cabinet": 0.25,
}
_AHEAD = pointing()
# Steps for which the fingers close before a pull, and open after it.
_GRASP, _RELEASE = 3, 3
# In front of all furniture, where the arm may turn to the next task.
_CLEAR = 0.44


def distance(data: Any, task: Task) -> float:
    """How far a thing is from where its task wants it, as the environment measures it."""
    kitchen = require("gymnasium_robotics.envs.franka_kitchen.kitchen_env", "mujoco")
    now = data.qpos[kitchen.OBS_ELEMENT_INDICES[task]]
    return float(np.linalg.norm(now - kitchen.OBS_ELEMENT_GOALS[task]))


def script(arm: Arm, task: Task) -> Script:
    """The actions of one task, and of the way back to where the next may begin."""
    match task:
        case "microwave" | "hinge cabinet":
            yield from _door(arm, task)
        case "bottom burner" | "top burner":
            yield from _burner(arm, task)
        case "light switch":
            yield from _light(arm)
        case "slide cabinet":
            yield from _slide(arm)
        case "kettle":
            yield from _kettle(arm)
    if arm.tip[1] > _CLEAR:
        x, _, z = arm.tip
        yield from _reach(arm, [x, _CLEAR, z], arm.rotation, near=0.03, steps=12)


def _reach(
    arm: Arm,
    position: Any,
    rotation: Rotation = _AHEAD,
    *,
    near: float,
    steps: int = 40,
    closed: bool = True,
) -> Script:
    """Move until the fingertips are that near, and turned within a quarter radian."""
    pose = Pose(np.array(position, np.float64), rotation)
    for _ in range(steps):
        gap, turn = arm.gap(pose)
        if gap < near and turn < 0.25:
            return
        yield arm.action(pose, closed=closed)


def _follow(
    arm: Arm, task: Task, path: Callable[[int], Pose], steps: int, *, closed: bool = True
) -> Script:
    """Follow a moving pose until the task's thing is where its stroke stops."""
    for step in range(steps):
        if distance(arm.data, task) < _STOP[task]:
            return
        yield arm.action(path(step), closed=closed)


def _hold(arm: Arm, steps: int, *, closed: bool) -> Script:
    """Stay, and move the fingers alone."""
    pose = Pose(arm.tip, arm.rotation)
    for _ in range(steps):
        yield arm.action(pose, closed=closed)


def _slide(arm: Arm) -> Script:
    """Push the cabinet's handle to the right, from its left side."""
    x, y, z = _shifted(arm.data.site("slide_site").xpos, x=-0.075, y=0.018)

    def stroke(step: int) -> Pose:
        return Pose(np.array([x + min(0.06 * step, 0.525), y, z]), _AHEAD)

    yield from _reach(arm, [x, y - 0.125, z], near=0.03)
    yield from _reach(arm, [x, y, z], near=0.015, steps=15)
    yield from _follow(arm, "slide cabinet", stroke, 30)
    yield from _reach(arm, _shifted(arm.tip, x=-0.04), near=0.02, steps=4)


def _light(arm: Arm) -> Script:
    """Push the switch to the left, from its right side."""
    x, y, z = _shifted(arm.data.site("light_site").xpos, x=0.065, y=0.009)
    hand = pointing(-0.15, 0.25)

    def stroke(step: int) -> Pose:
        return Pose(np.array([x - min(0.04 * step, 0.185), y, z]), hand)

    yield from _reach(arm, [x, y - 0.105, z], hand, near=0.025)
    yield from _reach(arm, [x, y, z], hand, near=0.012, steps=15)
    yield from _follow(arm, "light switch", stroke, 20)
    yield from _reach(arm, _shifted(arm.tip, x=0.03), hand, near=0.02, steps=3)


def _burner(arm: Arm, task: Literal["bottom burner", "top burner"]) -> Script:
    """Turn a knob clockwise: push the upper end of its pointer to the right."""
    bottom = task == "bottom burner"
    knob = arm.data.site("knob2_site" if bottom else "knob4_site").xpos
    x, y, z = _shifted(knob, x=-0.065, y=0.006, z=0.036 if bottom else 0.034)
    hand = pointing(-0.35 if bottom else -0.45, 0.25)

    def stroke(step: int) -> Pose:
        return Pose(np.array([x + min(0.025 * step, 0.13), y, z]), hand)

    yield from _reach(arm, [x, y - 0.08, z], hand, near=0.02)
    yield from _reach(arm, [x, y, z], hand, near=0.02, steps=5)
    yield from _follow(arm, task, stroke, 30)
    yield from _reach(arm, _shifted(arm.tip, x=-0.03), hand, near=0.02, steps=3)


class _Hinged(NamedTuple):
    """A door with a vertical bar, which turns about a vertical hinge."""

    site: str
    joint: str
    sense: int
    """1 if it opens counterclockwise, seen from above."""
    angle: float
    """The largest angle that it is pulled to, in radians, and what the pull adds at each step."""
    advance: float
    yaw: tuple[float, float]
    """Of the hand, as it grasps the bar and at the largest angle. A pull by friction alone slips:
    the hand is turned so that one finger is behind the bar."""
    pitch: float
    depth: float
    """How far the fingertips reach beyond the bar, and above the middle of it."""
    above: float


_DOORS = {
    "microwave": _Hinged(
        site="microhandle_site",
        joint="microwave",
        sense=-1,
        angle=0.95,
        advance=0.05,
        yaw=(0.53, 0.94),
        pitch=0.57,
        depth=0.036,
        above=0.036,
    ),
    "hinge cabinet": _Hinged(
        site="hinge_site2",
        joint="right_hinge_cabinet",
        sense=1,
        angle=1.4,
        advance=0.045,
        yaw=(-0.22, -0.15),
        pitch=0.0,
        depth=0.034,
        above=0.01,
    ),
}


def _door(arm: Arm, task: Literal["microwave", "hinge cabinet"]) -> Script:
    """Take a bar between open fingers, close them, pull it along its circle, and let go."""
    door = _DOORS[task]
    bar = _shifted(arm.data.site(door.site).xpos, z=door.above)
    hinge = arm.data.joint(door.joint).xanchor.copy()
    hinge[2] = bar[2]
    hand = pointing(door.yaw[0], door.pitch)
    direction = hand[:, 2]

    def pull(step: int) -> Pose:
        angle = min(door.advance * (step + 1), door.angle)
        yaw = np.interp(angle, (0.0, door.angle), door.yaw)
        turned = pointing(float(yaw), door.pitch)
        here = hinge + _turned(bar - hinge, door.sense * angle)
        return Pose(here + door.depth * turned[:, 2], turned)

    yield from _reach(arm, bar - 0.10 * direction, hand, near=0.02, closed=False)
    around = bar + door.depth * direction
    yield from _reach(arm, around, hand, near=0.015, steps=8, closed=False)
    for _ in range(_GRASP):
        yield arm.action(Pose(around, hand), closed=True)
    yield from _follow(arm, task, pull, 60)
    yield from _hold(arm, _RELEASE, closed=False)
    back = arm.tip - 0.10 * arm.rotation[:, 2]
    yield from _reach(arm, back, arm.rotation, near=0.02, steps=8, closed=False)


def _shifted(position: Vector, *, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Vector:
    """A position moved along the world's axes."""
    moved: np.ndarray = position + np.array([x, y, z])
    return moved


def _turned(vector: Vector, angle: float) -> Vector:
    """A vector turned counterclockwise about the vertical."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = vector
    return np.array([cos * x - sin * y, sin * x + cos * y, z])


def _kettle(arm: Arm) -> Script:
    """Push the kettle from the near burner to the far one, and steer it from behind."""
    pose = arm.data.joint("kettle").qpos  # a view: position and quaternion, of every moment
    x, _, z = _shifted(pose[:3], z=0.065)
    hand = pointing(-0.1, 0.7)

    def push(step: int) -> Pose:
        turned = 2.0 * np.arctan2(pose[6], pose[3])
        # Right of its middle to turn it to the left, left of it to shift it to the right.
        aside = np.clip(0.4 * turned + 0.8 * (-0.23 - pose[0]), -0.06, 0.06)
        ahead = min(0.20 + 0.035 * step, 0.66)
        yaw = -0.1 - 0.2 * min(step / 10, 1.0)
        return Pose(np.array([pose[0] - aside, ahead, z]), pointing(yaw, 0.7))

    if arm.tip[1] > 0.2:
        # Over the kettle, and not through it.
        yield from _reach(arm, [x, 0.17, max(arm.tip[2], 2.0)], hand, near=0.06, closed=False)
    yield from _reach(arm, [x, 0.175, z], hand, near=0.02, closed=False)
    yield from _follow(arm, "kettle", push, 30, closed=False)
    x, y, _ = arm.tip
    yield from _reach(arm, [x, y - 0.1, z + 0.02], arm.rotation, near=0.03, steps=8, closed=False)
    yield from _reach(arm, [x - 0.05, 0.30, 2.0], hand, near=0.08, steps=8, closed=False)
