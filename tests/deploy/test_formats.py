"""A policy of every kind gives the same actions in every format."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from worlds import constant
from xql.agents import EnvironmentSpec
from xql.agents.flows import BestOfN, FlowPolicy, OneStepFlowPolicy
from xql.agents.networks import critic_for
from xql.agents.policies import (
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    SquashedGaussianPolicy,
)
from xql.data.actions import Discrete, box
from xql.data.scaling import Scaling
from xql.deploy.exporting import stablehlo
from xql.deploy.onnx_graph import IR, OPSET, onnx_model
from xql.deploy.served import KEY
from xql.runs import numpy_policy
from xql.runs.as_arrays import PolicyArrays, as_arrays
from xql.runs.numpy_policy import Network
from xql.runs.policy import Policy, scale

SIZE, HIDDEN = 5, (64, 64)
BOUNDS = [-0.5, 10.0], [3.0, 12.0]
BOX = EnvironmentSpec(SIZE, box(*BOUNDS))
CHOICES = EnvironmentSpec(SIZE, Discrete(4))
SCALING = Scaling(
    "raw",
    "standardised",
    1.0,
    0.0,
    np.array([3.0, 0.0, -20.0, 0.1, 0.0], np.float32),
    np.array([0.5, 1.0, 0.01, 30.0, 1.0], np.float32),
)


def best_of_n(key: Any) -> BestOfN:
    critic: Any = critic_for(key, BOX._replace(unit_actions=True), HIDDEN, layer_norm=True)
    behaviour = FlowPolicy.create(key, BOX, HIDDEN, 5)
    return BestOfN(behaviour, critic, 8)


MAKERS: dict[str, tuple[EnvironmentSpec, Callable[[Any], Any]]] = {
    "gaussian": (BOX, lambda key: GaussianPolicy.create(key, BOX, HIDDEN)),
    "one layer": (BOX, lambda key: GaussianPolicy.create(key, BOX, ())),
    "squashed": (BOX, lambda key: SquashedGaussianPolicy.create(key, BOX, HIDDEN)),
    "deterministic": (BOX, lambda key: DeterministicPolicy.create(key, BOX, HIDDEN)),
    "deterministic with LayerNorm": (
        BOX,
        lambda key: DeterministicPolicy.create(key, BOX, HIDDEN, layer_norm=True),
    ),
    "categorical": (CHOICES, lambda key: CategoricalPolicy.create(key, CHOICES, HIDDEN)),
    "flow": (BOX, lambda key: OneStepFlowPolicy.create(key, BOX, HIDDEN, 5)),
    "best of n": (BOX, best_of_n),
}


@functools.cache
def policy(kind: str) -> Policy:
    """Weights and biases as training leaves them: none is 0."""
    spec, make = MAKERS[kind]
    leaves, structure = jax.tree.flatten(make(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [
        leaf + 0.1 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return Policy(jax.tree.unflatten(structure, moved), SCALING, spec.actions)


@functools.cache
def observations() -> np.ndarray:
    drawn = np.random.default_rng(0).normal(size=(10_000, SIZE)) / SCALING.observation_scale
    return np.asarray(drawn + SCALING.observation_shift, np.float32)


@functools.cache
def native(kind: str) -> np.ndarray:
    one = policy(kind)
    return np.asarray(one.actions.unflatten(one.flat(observations())))


def arrays_of(kind: str) -> PolicyArrays:
    found = as_arrays(policy(kind).actor, SCALING)
    assert found is not None
    return found


def assert_same_actions(kind: str, found: np.ndarray) -> None:
    """To 1e-6 of the range; where two choices are equally good to rounding, either will do."""
    expected = native(kind)
    assert found.shape == expected.shape
    if kind == "categorical":
        assert found.dtype.kind == "i"
        assert np.ptp(expected) == 3
        scaled = scale(observations(), SCALING)
        logits = np.asarray(policy(kind).actor.mlp(jax.numpy.asarray(scaled)))
        rows = np.arange(len(logits))
        lost = logits[rows, expected] - logits[rows, found]
        assert np.abs(lost).max() < 1e-5
        assert (found != expected).sum() <= 1
        return
    low, high = (np.array(end) for end in BOUNDS)
    apart = (np.abs(found - expected) / (high - low)).max(axis=1)
    assert found.dtype == np.float32
    assert (expected.std(axis=0) > 0.05 * (high - low)).all()
    assert (apart > 1e-6).sum() <= (1 if kind == "best of n" else 0)


@pytest.mark.parametrize("kind", MAKERS)
def test_numpy(kind: str) -> None:
    network = Network(arrays_of(kind).program, arrays_of(kind).arrays)
    assert_same_actions(kind, network(observations()))
    one = network(observations()[7])
    assert np.shape(one) == native(kind)[7].shape
    np.testing.assert_allclose(one, native(kind)[7], rtol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_onnx(kind: str) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    about = {"format": 1, "name": "β"}
    content = onnx_model(arrays_of(kind), about, "policy")
    model = onnx.load_from_string(content)
    assert (model.ir_version, model.opset_import[0].version) == (IR, OPSET)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (asked,), (given,) = session.get_inputs(), session.get_outputs()
    assert (asked.name, asked.shape, asked.type) == ("observation", ["batch", 5], "tensor(float)")
    discrete = kind == "categorical"
    assert (given.name, given.shape, given.type) == (
        ("action", ["batch"], "tensor(int64)")
        if discrete
        else ("action", ["batch", 2], "tensor(float)")
    )
    assert json.loads(session.get_modelmeta().custom_metadata_map[KEY]) == about

    def act(rows: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(["action"], {"observation": rows})[0])

    assert_same_actions(kind, act(observations()))
    assert act(observations()[:1]).shape == native(kind)[:1].shape


@pytest.mark.parametrize("kind", MAKERS)
def test_stablehlo(kind: str) -> None:
    exported: Any = jax.export.deserialize(bytearray(stablehlo(policy(kind))))
    assert exported.platforms == ("cpu", "cuda")
    assert_same_actions(kind, np.asarray(exported.call(observations())))
    assert exported.call(observations()[:3]).shape == native(kind)[:3].shape


FORMATS = ["python", "numpy", "onnx", "stablehlo"]


def act_in(format: str, one: Policy, rows: np.ndarray) -> np.ndarray:
    """The flat actions of `Policy`, or what the exported policy gives."""
    if format == "python":
        return one.flat(rows)
    if format == "stablehlo":
        exported: Any = jax.export.deserialize(bytearray(stablehlo(one)))
        return np.asarray(exported.call(rows))
    arrays = as_arrays(one.actor, one.scaling)
    assert arrays is not None
    if format == "numpy":
        return np.asarray(Network(arrays.program, arrays.arrays)(rows))
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = runtime.InferenceSession(
        onnx_model(arrays, {}, "policy"), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"observation": rows})[0])


@pytest.mark.parametrize("format", FORMATS)
def test_actions_stay_within_bounds_that_rounding_passes(format: str) -> None:
    """centre − half range is below the first low end, centre + half range above the second high."""
    ends = low, high = np.array([[58.790947, 1.0], [86.0341, 3.3]], np.float32)
    spec = EnvironmentSpec(SIZE, box(*ends))
    gaussian = GaussianPolicy.create(jax.random.key(0), spec, (8,))
    rows = observations()[:64] * np.float32(1e4)
    mean = np.asarray(gaussian.mean(jax.numpy.asarray(scale(rows, SCALING))))
    assert (mean.min(0) < low).any() and (mean.max(0) > high).any()
    actions = act_in(format, Policy(gaussian, SCALING, spec.actions), rows)
    assert (actions >= low).all() and (actions <= high).all()


@pytest.mark.parametrize("format", FORMATS)
def test_a_choice_among_numbers_that_are_not_finite_is_no_action(format: str) -> None:
    choices = policy("categorical")
    rows = observations()[:3].copy()
    rows[1] = [3e38, -3e38, 3e38, -3e38, 3e38]
    expected = native("categorical")[:3]
    best = policy("best of n").actor
    unknown = dataclasses.replace(best, critic=constant(best.critic, np.inf, np.inf))
    unvalued = Policy(unknown, SCALING, BOX.actions)
    with np.errstate(all="ignore"):
        if format == "numpy":
            for one in (choices, unvalued):
                with pytest.raises(ValueError, match="is not finite, which is no action"):
                    act_in(format, one, rows)
            return
        found = act_in(format, choices, rows)
        assert np.isnan(act_in(format, unvalued, rows[:1])).all()
    if format == "python":
        found = np.where(np.isnan(found).all(-1), -1, found.argmax(-1))
    np.testing.assert_array_equal(found, [expected[0], -1, expected[2]])


def test_an_actor_of_ones_own_is_no_arrays() -> None:
    class Shifted(GaussianPolicy):
        def mean(self, observations: Any) -> Any:
            return super().mean(observations) + 1.0

    gaussian = policy("gaussian").actor
    own = Shifted(gaussian.mlp, gaussian.log_std, gaussian.low, gaussian.high)
    assert as_arrays(own, SCALING) is None


def test_numpy_names_the_choice_of_a_row(tmp_path: Path) -> None:
    observed = [
        {"name": "speed", "categories": [], "offset": 2.0},
        {"name": "gear", "categories": ["1", "2", "R", "N"], "offset": 0.0},
    ]
    about = {
        "network": "argmax",
        "observation": {"missing_values": [], "size": SIZE, "columns": observed},
        "action": {
            "kind": "discrete",
            "columns": [{"name": "pedal", "categories": ["gas", "brake", "clutch", "none"]}],
        },
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    arrays: dict[str, Any] = arrays_of("categorical").arrays
    steps = np.frombuffer(json.dumps(arrays_of("categorical").program).encode(), np.uint8)
    np.savez(tmp_path / "policy.npz", xql=text, program=steps, **arrays)
    load = numpy_policy.Policy(tmp_path / "policy.npz")
    encoded = np.array([1.5, 0.0, 1.0, 0.0, 0.0], np.float32)
    number = policy("categorical")(encoded)
    for gear in (2, 2.0, "2", " 2 ", "2.0"):
        assert load.act({"speed": "3.5", "gear": gear, "note": "ok"}) == {
            "pedal": ["gas", "brake", "clutch", "none"][number]
        }
    with pytest.raises(ValueError, match="gear is '3', which the table never had"):
        load.act({"speed": 3.5, "gear": 3})
    with pytest.raises(KeyError, match="speed"):
        load.act({"gear": 2})
    for missing in (None, "", " ", float("nan"), np.float32("nan"), "NaN"):
        with pytest.raises(ValueError, match="speed is missing; fill it as the table was filled"):
            load.act({"speed": missing, "gear": 2})
    with pytest.raises(ValueError, match="gear is missing"):
        load.act({"speed": 3.5, "gear": float("nan")})
    with pytest.raises(ValueError, match="speed is '3,5', which is no number"):
        load.act({"speed": "3,5", "gear": 2})
    huge = np.full(SIZE, 3e38)
    with (
        pytest.raises(ValueError, match="the policy's answer is not finite"),
        np.errstate(all="ignore"),
    ):
        load(huge)
