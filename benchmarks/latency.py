"""How long one call of a policy takes in its own process: `python -m benchmarks.latency`.

A Gaussian policy of 256-256, observation 60, action 9, called with one observation and with 64.
Each way is called in turn, round by round, so that a busy machine disturbs all of them alike.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Of a product this small, a second thread costs more than it saves.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np
import tyro

from benchmarks.updates import ACTION, OBSERVATION
from xql.agents import EnvironmentSpec
from xql.agents.policies import GaussianPolicy
from xql.data.actions import box
from xql.data.scaling import Scaling
from xql.deploy.exporting import npz, stablehlo
from xql.deploy.onnx_graph import onnx_model
from xql.errors import require
from xql.runs import numpy_policy
from xql.runs.as_arrays import as_arrays
from xql.runs.policy import Policy

Call = Callable[[np.ndarray], Any]


def make_policy() -> Policy:
    """With weights as they are drawn, which are as fast as trained ones."""
    bounds = box([-1.0] * ACTION, [1.0] * ACTION)
    spec = EnvironmentSpec(OBSERVATION, bounds)
    zeros, ones = np.zeros(OBSERVATION, np.float32), np.ones(OBSERVATION, np.float32)
    scaling = Scaling("raw", "raw", 1.0, 0.0, zeros, ones)
    return Policy(GaussianPolicy.create(jax.random.key(0), spec, (256, 256)), scaling, bounds)


def ways(policy: Policy, folder: Path) -> dict[str, Call]:
    """By name, what is called."""
    arrays = as_arrays(policy.actor, policy.scaling)
    assert arrays is not None
    about = {"network": arrays.kind, "observation": {"size": OBSERVATION}}
    (folder / "policy.npz").write_bytes(npz(arrays, about))
    loaded = numpy_policy.Policy(folder / "policy.npz")
    runtime = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(onnx_model(arrays, about, "policy"), options)
    exported: Any = jax.export.deserialize(bytearray(stablehlo(policy)))
    compiled = jax.jit(exported.call)
    return {
        "`policy(observation)`, by NumPy": policy,
        "`policy.flat(observation)`, by JAX": policy.flat,
        "exported .npz, `policy.py`": loaded,
        "exported .onnx, onnxruntime": lambda rows: session.run(None, {"observation": rows}),
        "exported .stablehlo, `jax.jit`": lambda rows: np.asarray(compiled(rows)),
    }


def measure(calls: dict[str, Call], rows: np.ndarray, repetitions: int) -> dict[str, Any]:
    """Of each way, every call's seconds on the clock, and the processor's seconds per call."""
    clock: dict[str, list[float]] = {name: [] for name in calls}
    processor = dict.fromkeys(calls, 0.0)
    for call in calls.values():
        for _ in range(20):
            call(rows)
    rounds, each = repetitions // 50, 50
    for _ in range(rounds):
        for name, call in calls.items():
            before = time.process_time()
            for _ in range(each):
                begin = time.perf_counter()
                call(rows)
                clock[name].append(time.perf_counter() - begin)
            processor[name] += (time.process_time() - before) / (rounds * each)
    return {name: (np.array(clock[name]), processor[name]) for name in calls}


def main(repetitions: int = 5000) -> None:
    """Print a table.

    Args:
        repetitions: calls of each way, in rounds of 50.
    """
    random = np.random.default_rng(0)
    policy, load = make_policy(), os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        calls = ways(policy, Path(folder))
        print(
            "| | batch | p50, µs | p99, µs | least, µs | processor, µs |\n|---|---|---|---|---|---|"
        )
        for batch in (1, 64):
            rows = random.normal(size=(batch, OBSERVATION)).astype(np.float32)
            for name, (seconds, processor) in measure(calls, rows, repetitions).items():
                middle, most = np.quantile(seconds, (0.5, 0.99))
                numbers = (1e6 * one for one in (middle, most, seconds.min(), processor))
                shown = " | ".join(f"{one:.0f}" for one in numbers)
                print(f"| {name} | {batch} | {shown} |")
    print(f"\nload {load:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    tyro.cli(main)
