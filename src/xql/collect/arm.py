"""A Franka arm that follows poses of its fingertips, by differential inverse kinematics.

At each step the joint velocities are the damped least-squares solution for the wanted velocity of
the fingertips; what is left of the joints' freedom goes towards a preferred posture. A joint that
would leave its range is held at its limit, and the others are solved for again: the kitchen's arm
starts on the limit of its second joint, where clipping alone would bend every path.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from xql.errors import require

Vector = Float64[np.ndarray, "3"]
Rotation = Float64[np.ndarray, "3 3"]

ARM = 7
"""Joints of the arm; two fingers follow them in the model and in an action."""

POSTURE = np.array([0.148, -1.768, 1.844, -2.477, 0.260, 0.713, 1.595])
"""The joint angles in radians with which an episode starts, and which the arm prefers."""

# The joint limits in radians: those of the model and of the environment, whichever is nearer, less
# 0.03 or more, so that the servo's error and the action noise rarely reach them.
_LOWER = np.array([-2.85, -1.74, -2.85, -3.03, -2.85, 0.02, -2.85])
_UPPER = np.array([2.85, 1.74, 2.85, -0.44, 2.85, 2.08, 2.85])
# A joint approaches its limit at no more than this times the distance to it, in 1/s.
_LIMIT_RATE = 3.0
# Damping of the least squares, and the weight of a radian of orientation against a metre.
_DAMPING, _TURN_WEIGHT = 0.05, 0.3
# Velocities towards the wanted position, orientation and posture, by the distance to it, in 1/s.
_GAIN, _TURN_GAIN, _POSTURE_GAIN = 7.0, 4.0, 0.5
# The largest angular velocity that is asked for, in radians per second.
_TURN_SPEED = 2.0
# The pads of the fingers lie this far, in metres, beyond the model's site `end_effector`.
_TIP = 0.045
# FrankaKitchen's action is a joint velocity in units of this many radians per second.
_ACTION_SPEED = 2.0


class Pose(NamedTuple):
    """Where the fingertips are, in the world's frame, and how the hand is turned."""

    position: Vector
    rotation: Rotation
    """Columns: the hand's x axis, the axis along which the fingers open, the pointing direction."""


def pointing(yaw: float = 0.0, pitch: float = 0.0) -> Rotation:
    """A hand that points into the kitchen (+y), its finger axis horizontal.

    Args:
        yaw: radians to the left (towards -x).
        pitch: radians downwards.
    """
    fingers = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    ahead = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    direction = np.cos(pitch) * ahead - np.sin(pitch) * np.array([0.0, 0.0, 1.0])
    return np.stack([np.cross(fingers, direction), fingers, direction], axis=1)


def joint_velocities(
    jacobian: Float64[np.ndarray, "task joints"],
    wanted: Float64[np.ndarray, " task"],
    slowest: Float64[np.ndarray, " joints"],
    fastest: Float64[np.ndarray, " joints"],
    preferred: Float64[np.ndarray, " joints"],
) -> Float64[np.ndarray, " joints"]:
    """Damped least squares with bounds on the joints' velocities, by an active set.

    Args:
        jacobian: of the task's velocity with respect to the joints'.
        wanted: the task's velocity.
        slowest, fastest: bounds of each joint's velocity.
        preferred: joint velocities, followed as far as the task leaves them free.

    Returns:
        Velocities within the bounds.
    """
    velocities = np.zeros(len(slowest))
    free = np.ones(len(slowest), bool)
    while True:
        own = jacobian[:, free]
        damped = own @ own.T + _DAMPING**2 * np.eye(len(wanted))
        gap = wanted - jacobian[:, ~free] @ velocities[~free] - own @ preferred[free]
        velocities[free] = preferred[free] + own.T @ np.linalg.solve(damped, gap)
        outside = free & ((velocities < slowest) | (velocities > fastest))
        if not outside.any():
            return velocities
        velocities[outside] = velocities.clip(slowest, fastest)[outside]
        free &= ~outside


class Arm:
    """The arm of a FrankaKitchen: its fingertips now, and the action that moves them to a pose.

    Args:
        model, data: MuJoCo's, of the environment; read at each call, never written.
        step: seconds of one environment step.
        speed: the largest speed of the fingertips that is asked for, in m/s.
    """

    def __init__(self, model: Any, data: Any, step: float, speed: float) -> None:
        self._mujoco = require("mujoco", "mujoco")
        self.data = data
        self._model, self._step, self._speed = model, step, speed
        self._site = model.site("end_effector").id
        self._body = model.site_bodyid[self._site]
        self._stiffness = model.actuator_gainprm[:ARM, 0]
        # Damped servos without inertia: the part of an offset that they cover in one step.
        self._covered = 1.0 - np.exp(-step * self._stiffness / model.dof_damping[:ARM])
        self.offset = np.zeros(3)
        """Added to every wanted position, in metres."""

    @property
    def tip(self) -> Vector:
        """Where the fingertips are."""
        position: np.ndarray = self.data.site_xpos[self._site] + _TIP * self.rotation[:, 2]
        return position

    @property
    def rotation(self) -> Rotation:
        """How the hand is turned."""
        rotation: np.ndarray = self.data.site_xmat[self._site].reshape(3, 3).copy()
        return rotation

    def gap(self, pose: Pose) -> tuple[float, float]:
        """The distance to a pose's position in metres, and to its rotation in radians."""
        distance = float(np.linalg.norm(pose.position + self.offset - self.tip))
        return distance, float(np.linalg.norm(self._turn(pose.rotation)))

    def velocities(self, pose: Pose) -> Float64[np.ndarray, " joints"]:
        """The joint velocities, in radians per second, that lead towards a pose."""
        positions = self.data.qpos[:ARM]
        linear = _shortened(_GAIN * (pose.position + self.offset - self.tip), self._speed)
        angular = _shortened(_TURN_GAIN * self._turn(pose.rotation), _TURN_SPEED)
        move, turn = np.zeros((2, 3, self._model.nv))
        self._mujoco.mj_jac(self._model, self.data, move, turn, self.tip, self._body)
        return joint_velocities(
            np.concatenate([move[:, :ARM], _TURN_WEIGHT * turn[:, :ARM]]),
            np.concatenate([linear, _TURN_WEIGHT * angular]),
            _LIMIT_RATE * (_LOWER - positions),
            _LIMIT_RATE * (_UPPER - positions),
            _POSTURE_GAIN * (POSTURE - positions),
        )

    def action(self, pose: Pose, *, closed: bool) -> Float64[np.ndarray, " joints"]:
        """FrankaKitchen's action for one step towards a pose, within ±1.

        The environment moves the servos' targets by the action times its unit and the step. A servo
        covers a part of that in the step, and hangs below its target by the weight that it bears.
        """
        reach = self.velocities(pose) * self._step / self._covered
        sag = self.data.qfrc_bias[:ARM] / self._stiffness
        joints = (reach + sag) / (_ACTION_SPEED * self._step)
        # All by the same factor, so that the direction stays.
        joints /= max(1.0, float(np.abs(joints).max()))
        return np.concatenate([joints, np.full(2, -1.0 if closed else 1.0)])

    def _turn(self, rotation: Rotation) -> Vector:
        """The rotation vector, in the world's frame, from the hand's rotation to another."""
        quaternion, vector = np.zeros(4), np.zeros(3)
        self._mujoco.mju_mat2Quat(quaternion, (rotation @ self.rotation.T).ravel())
        self._mujoco.mju_quat2Vel(vector, quaternion, 1.0)
        return vector


def _shortened(vector: Vector, longest: float) -> Vector:
    """The vector, or that of the same direction and the given length where it is longer."""
    return vector * min(1.0, longest / max(float(np.linalg.norm(vector)), 1e-12))
