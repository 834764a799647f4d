import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xql.collect.policies import load_goal_policy, load_hand_policy
from xql.errors import InputError


def ant_arrays(hidden: int = 3) -> Any:
    return {
        "fc0.weight": np.zeros((hidden, 29), np.float32),
        "fc0.bias": np.zeros(hidden, np.float32),
        "last_fc.weight": np.zeros((8, hidden), np.float32),
        "last_fc.bias": np.zeros(8, np.float32),
        "last_fc_log_std.weight": np.zeros((8, hidden), np.float32),
        "last_fc_log_std.bias": np.zeros(8, np.float32),
    }


def hand_arrays(observation: int = 4, action: int = 2, hidden: int = 3) -> Any:
    return {
        "model.fc_layers.0.weight": np.zeros((hidden, observation), np.float32),
        "model.fc_layers.0.bias": np.zeros(hidden, np.float32),
        "model.fc_layers.1.weight": np.zeros((action, hidden), np.float32),
        "model.fc_layers.1.bias": np.zeros(action, np.float32),
        "model.in_shift": np.zeros(observation),
        "model.in_scale": np.ones(observation),
        "model.out_shift": np.zeros(action),
        "model.out_scale": np.ones(action),
        "log_std": np.zeros(action),
        "old_log_std": np.full(action, np.nan),
    }


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def save(arrays: Any, name: str = "policy.npz") -> Any:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return save


def test_goal_policy_computed_by_hand(write: Any) -> None:
    arrays = ant_arrays()
    # Hidden units relu(2 x_0 + 1), relu(-x_28), relu(0).
    arrays["fc0.weight"][0, 0], arrays["fc0.bias"][0] = 2.0, 1.0
    arrays["fc0.weight"][1, 28] = -1.0
    arrays["last_fc.weight"][0] = [0.5, 0.25, 9.0]
    arrays["last_fc.bias"][1] = -0.3
    arrays["last_fc_log_std.weight"][0, 0] = 100.0
    arrays["last_fc_log_std.bias"][1] = np.log(0.5)
    path = write(arrays)
    policy = load_goal_policy(path)
    inputs = np.zeros((2, 29))
    inputs[0, 0], inputs[0, 28] = 0.5, -4.0
    inputs[1, 0], inputs[1, 28] = -3.0, 4.0
    still = policy.act(inputs, np.zeros((2, 8), np.float32))
    # relu(2) = 2, relu(4) = 4: 0.5 * 2 + 0.25 * 4 = 2; then relu(-5) = relu(-4) = 0.
    assert still[:, 0] == pytest.approx(np.tanh([2.0, 0.0]), abs=1e-6)
    assert still[:, 1] == pytest.approx(np.tanh([-0.3, -0.3]), abs=1e-6)
    drawn = policy.act(inputs, np.full((2, 8), 0.1, np.float32))
    # The log deviation of 200 is cut off at 2, and 0.5 is a deviation of action 1.
    assert drawn[0, 0] == pytest.approx(np.tanh(2.0 + 0.1 * np.exp(2.0)), abs=1e-6)
    assert drawn[:, 1] == pytest.approx(np.tanh([-0.25, -0.25]), abs=1e-6)
    assert policy.file == "policy.npz"
    assert policy.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_goal_policy_may_be_deeper_and_without_deviation(write: Any) -> None:
    arrays = {name: array for name, array in ant_arrays().items() if "log_std" not in name}
    arrays["fc1.weight"], arrays["fc1.bias"] = np.zeros((5, 3)), np.ones(5)
    arrays["last_fc.weight"] = np.full((8, 5), 0.1)
    policy = load_goal_policy(write(arrays))
    actions = policy.act(np.ones((1, 29)), np.full((1, 8), 3.0, np.float32))
    assert actions == pytest.approx(np.full((1, 8), np.tanh(0.5)), abs=1e-6)


def test_hand_policy_computed_by_hand(write: Any) -> None:
    arrays = hand_arrays()
    arrays["model.in_shift"][0], arrays["model.in_scale"][0] = 1.0, 0.5
    arrays["model.fc_layers.0.weight"][0, 0] = 0.25
    arrays["model.fc_layers.1.weight"][0, 0] = 2.0
    arrays["model.fc_layers.1.bias"][1] = 0.5
    arrays["model.out_scale"][:] = [3.0, 10.0]
    arrays["model.out_shift"][:] = [-1.0, 0.1]
    arrays["log_std"][1] = np.log(2.0)
    policy = load_hand_policy(write(arrays), 4, 2)
    observations = np.array([[3.0, 9.0, 9.0, 9.0]])
    mean = policy.act(observations, np.zeros((1, 2), np.float32))
    # (3 - 1) / 0.5 = 4; tanh(1); times 2, times 3, minus 1.
    assert mean[0] == pytest.approx([6 * np.tanh(1.0) - 1, 5.1], abs=1e-5)
    drawn = policy.act(observations, np.array([[1.0, -1.0]], np.float32))
    assert drawn[0] - mean[0] == pytest.approx([1.0, -2.0], abs=1e-5)


def without(arrays: Any, name: str) -> Any:
    return {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda a: without(a, "fc0.weight"), "there is no 'fc0.weight' (the file has fc0.bias, "),
        (lambda a: without(a, "fc0.bias"), "there is no 'fc0.bias' ("),
        (lambda a: without(a, "last_fc.bias"), "there is no 'last_fc.bias' ("),
        (
            lambda a: a | {"fc0.weight": np.zeros((3, 31))},
            "fc0.weight is 3x31 of float64, where 3x29 of floats fits; "
            "is it a policy for this task? docs/data.md has the layout",
        ),
        (
            lambda a: a | {"last_fc.weight": np.zeros((6, 3), np.float32)},
            "last_fc.weight is 6x3 of float32, where 8x3 of floats fits; ",
        ),
        (
            lambda a: a | {"fc0.bias": np.zeros(3, int)},
            "fc0.bias is 3 of int64, where 3 of floats fits; ",
        ),
        (
            lambda a: a | {"fc0.weight": np.float64(1)},
            "fc0.weight is a single value of float64, where 0x29 of floats fits; ",
        ),
        (
            lambda a: a | {"last_fc.bias": np.full(8, np.nan)},
            "NaN in last_fc.bias, row 0; ",
        ),
    ],
)
def test_a_file_of_another_layout_is_one_line(write: Any, change: Any, what: str) -> None:
    path = write(change(ant_arrays()))
    with pytest.raises(InputError) as error:
        load_goal_policy(path)
    assert str(error.value).startswith(f"{path}: {what}")
    assert "\n" not in str(error.value)


def test_a_policy_for_another_hand_task_is_one_line(write: Any) -> None:
    path = write(hand_arrays(observation=45, action=24))
    load_hand_policy(path, 45, 24)
    with pytest.raises(InputError) as error:
        load_hand_policy(path, 39, 28)
    assert str(error.value) == (
        f"{path}: model.fc_layers.0.weight is 3x45 of float32, where 3x39 of floats fits; "
        "is it a policy for this task? docs/data.md has the layout"
    )
    with pytest.raises(InputError, match=r"model.fc_layers.1.weight is 24x3 of float32, where 28"):
        load_hand_policy(path, 45, 28)
    with pytest.raises(InputError, match=r"there is no 'model.fc_layers.0.weight'"):
        load_hand_policy(write(ant_arrays(), "ant.npz"), 45, 24)


def test_no_file_and_no_policy_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_goal_policy(tmp_path / "absent.npz")
    assert str(error.value) == f"{tmp_path / 'absent.npz'}: there is no such file; check the path"
    (tmp_path / "policy.pkl").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=r"policy.pkl: this is no policy file; give an .npz file"):
        load_goal_policy(tmp_path / "policy.pkl")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"torn.npz: truncated, or not what its name says"):
        load_goal_policy(tmp_path / "torn.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=r"folder.npz: this is a folder"):
        load_goal_policy(tmp_path / "folder.npz")
