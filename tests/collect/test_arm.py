"""Inverse kinematics against MuJoCo's forward kinematics, least squares by their definition."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")
mujoco = pytest.importorskip("mujoco")

from xql.collect.arm import (  # noqa: E402
    ARM,
    POSTURE,
    Arm,
    Pose,
    joint_velocities,
    pointing,
)
from xql.envs.make import register_robotics  # noqa: E402

STEP = 0.08
DAMPING = 0.05


@pytest.fixture(scope="module")
def kitchen() -> Iterator[Any]:
    register_robotics()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make("FrankaKitchen-v1", disable_env_checker=True)
    env.reset(seed=0)
    yield env.unwrapped
    env.close()


def at(kitchen: Any, joints: np.ndarray) -> Any:
    """The kitchen's state with the arm's joints at these angles and everything at rest."""
    mujoco.mj_resetData(kitchen.model, kitchen.data)
    kitchen.data.qpos[:ARM] = joints
    mujoco.mj_forward(kitchen.model, kitchen.data)
    return kitchen.data


def tip_of(data: Any) -> np.ndarray:
    site = data.site("end_effector")
    return np.asarray(site.xpos + 0.045 * site.xmat.reshape(3, 3)[:, 2])


def joint_limits(kitchen: Any) -> tuple[np.ndarray, np.ndarray]:
    low, high = kitchen.model.jnt_range[:ARM].T
    bound = kitchen.robot_env.robot_pos_bound[:ARM].T
    return np.maximum(low, bound[0]), np.minimum(high, bound[1])


def walk(arm: Arm, kitchen: Any, pose: Pose, steps: int) -> np.ndarray:
    """Integrate the joint velocities without dynamics; the joints' angles on the way."""
    angles = []
    for _ in range(steps):
        kitchen.data.qpos[:ARM] += STEP / 2 * arm.velocities(pose)
        mujoco.mj_forward(kitchen.model, kitchen.data)
        angles.append(kitchen.data.qpos[:ARM].copy())
    return np.array(angles)


def test_reachable_poses_are_reached_within_the_joint_limits(kitchen: Any) -> None:
    random = np.random.default_rng(0)
    low, high = joint_limits(kitchen)
    for _ in range(6):
        joints = (POSTURE + random.uniform(-0.6, 0.6, ARM)).clip(low + 0.1, high - 0.1)
        data = at(kitchen, joints)
        # Forward kinematics says that this pose can be reached.
        pose = Pose(tip_of(data), data.site("end_effector").xmat.reshape(3, 3).copy())
        at(kitchen, POSTURE)
        arm = Arm(kitchen.model, kitchen.data, STEP, speed=0.6)
        assert np.linalg.norm(tip_of(data) - pose.position) > 0.05
        angles = walk(arm, kitchen, pose, 120)
        assert np.linalg.norm(tip_of(data) - pose.position) < 0.005
        turned = data.site("end_effector").xmat.reshape(3, 3).T @ pose.rotation
        assert np.arccos((np.trace(turned) - 1) / 2) < 0.05
        assert ((angles >= low) & (angles <= high))[1:].all()


@pytest.mark.parametrize("far", [(0.0, 5.0, 2.0), (-4.0, 0.0, 0.0), (0.0, -3.0, 4.0)])
def test_out_of_reach_the_limits_hold(kitchen: Any, far: tuple[float, ...]) -> None:
    at(kitchen, POSTURE)
    low, high = joint_limits(kitchen)
    arm = Arm(kitchen.model, kitchen.data, STEP, speed=0.6)
    before = np.linalg.norm(arm.tip - far)
    angles = walk(arm, kitchen, Pose(np.array(far), pointing()), 120)
    assert np.isfinite(angles).all()
    assert ((angles >= low) & (angles <= high))[1:].all()
    assert np.linalg.norm(arm.tip - far) < before


def test_at_a_limit_the_path_stays_straight(kitchen: Any) -> None:
    """Where the start's second joint, at its limit, would have to go on."""
    at(kitchen, POSTURE)
    arm = Arm(kitchen.model, kitchen.data, STEP, speed=0.6)
    move, turn = np.zeros((2, 3, kitchen.model.nv))
    body = kitchen.model.site_bodyid[kitchen.model.site("end_effector").id]
    mujoco.mj_jac(kitchen.model, kitchen.data, move, turn, arm.tip, body)
    wanted = -0.3 * move[:, 1] / np.linalg.norm(move[:, 1])
    slowest, fastest = np.full(ARM, -9.0), np.full(ARM, 9.0)
    slowest[1] = 0.0
    bounds = slowest, fastest
    free = joint_velocities(move[:, :ARM], wanted, np.full(ARM, -9.0), fastest, np.zeros(ARM))
    assert free[1] < -0.05  # it is the limit that matters here
    clipped = free.clip(*bounds)
    held = joint_velocities(move[:, :ARM], wanted, *bounds, np.zeros(ARM))
    errors = [np.linalg.norm(move[:, :ARM] @ each - wanted) for each in (held, clipped)]
    assert errors[0] < 0.2 * errors[1]


def ridge(jacobian: np.ndarray, wanted: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """The minimiser of |J v - wanted|² + damping² |v - preferred|², by another way."""
    size = len(preferred)
    rows = np.concatenate([jacobian, DAMPING * np.eye(size)])
    right = np.concatenate([wanted, DAMPING * preferred])
    return np.asarray(np.linalg.lstsq(rows, right, rcond=None)[0])


def test_velocities_are_damped_least_squares_within_bounds() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(50):
        jacobian, wanted = random.normal(size=(6, ARM)), random.normal(size=6)
        preferred = random.normal(size=ARM)
        low, high = -random.uniform(0, 2, ARM), random.uniform(0, 2, ARM)
        found = joint_velocities(jacobian, wanted, low, high, preferred)
        assert ((found >= low) & (found <= high)).all()
        fixed = (found == low) | (found == high)
        held += fixed.sum()
        rest = wanted - jacobian[:, fixed] @ found[fixed]
        expected = ridge(jacobian[:, ~fixed], rest, preferred[~fixed])
        np.testing.assert_allclose(found[~fixed], expected, atol=1e-9)
    assert held > 50


def test_all_joints_may_be_at_their_limits() -> None:
    still = np.zeros(ARM)
    found = joint_velocities(np.ones((6, ARM)), np.ones(6), still, still, np.ones(ARM))
    assert found.tolist() == [0.0] * ARM


def test_a_hand_that_points_ahead() -> None:
    np.testing.assert_allclose(pointing(), np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]), atol=1e-12)
    for yaw, pitch in ((0.5, 0.2), (-1.0, 1.2)):
        rotation = pointing(yaw, pitch)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert rotation[2, 1] == 0.0  # the fingers stay level
        assert rotation[2, 2] == pytest.approx(-np.sin(pitch))  # downwards
        assert np.sign(rotation[0, 2]) == -np.sign(yaw)  # to the left


def test_an_action_moves_the_tip_of_the_simulated_arm_to_the_pose(kitchen: Any) -> None:
    kitchen.reset(seed=0)
    arm = Arm(kitchen.model, kitchen.data, STEP, speed=0.6)
    pose = Pose(arm.tip + np.array([0.05, 0.1, 0.1]), arm.rotation)
    for _ in range(30):
        action = arm.action(pose, closed=True)
        assert np.abs(action).max() <= 1.0
        kitchen.step(action)
    # Without the weight the arm would hang a centimetre or more below.
    assert arm.gap(pose)[0] < 0.01
    assert kitchen.data.qpos[7:9].max() < 0.005
    kitchen.step(arm.action(pose, closed=False))
    assert kitchen.data.qpos[7:9].min() > 0.005
