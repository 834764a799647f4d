"""Print the parameters of agents after 200 updates, as hashes and norms: one JSON object.

    python tests/truth/record_parameters.py AGENT/POPULATION ...

Kept to one core, so that XLA splits no product. parameters.json holds what version 0.1 printed.
"""

import hashlib
import json
import os
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np

import xql
from xql.agents import OFFLINE
from xql.runs.config import OnlineLoop

UPDATES = 200
OPTIONS: dict[str, Any] = {"hidden": [32, 32], "batch_size": 32}
BETA = ("xql", "x-sac", "x-td3")


def machine() -> str:
    """What the bits depend on: the processor, its instructions, and XLA's release."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    lines = {line for line in text.splitlines() if line.startswith(("model name", "flags"))}
    facts = "\n".join([*sorted(lines), version("jaxlib"), sys.platform])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def log() -> dict[str, np.ndarray]:
    """20 episodes of 30 steps of noise, some of them terminated."""
    random, rows = np.random.default_rng(0), 600
    truncated, terminated = np.arange(rows) % 30 == 29, np.arange(rows) % 150 == 149
    observations = random.normal(size=(rows + 1, 5)).astype(np.float32)
    return {
        "observations": observations[:-1],
        "actions": random.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": random.normal(size=rows).astype(np.float32),
        "terminated": terminated,
        "truncated": truncated & ~terminated,
        "next_observations": observations[1:],
    }


def train(agent: str, seeds: list[int]) -> Any:
    """A population after 200 updates."""
    options = dict(OPTIONS)
    if agent == "xql":
        options |= {"loss": "linear", "max_gradient_norm": 1.0}  # the defaults of 0.1
    if agent == "cql":
        options |= {"critic_hidden": [32, 32], "samples": 2}
    with tempfile.TemporaryDirectory() as home:
        common: dict[str, Any] = {
            "agent": agent,
            "seeds": seeds,
            "beta": 1.0 if agent in BETA else None,
            "options": options,
            "out": f"{home}/run",
            "evaluations": 1,
            "episodes": 0,
            "last_episodes": 0,
            "progress": False,
        }
        if agent in OFFLINE:
            return xql.train_offline(log(), steps=UPDATES, **common).population
        loop = OnlineLoop(warmup=40, buffer=1000)
        return xql.train_online("Pendulum-v1", steps=UPDATES + 40, loop=loop, **common).population


ADDED = ("beta_kl", "policy_kl", "bc_weight", "entropy_fraction")
"""Hyperparameters that 0.1 did not have, without effect here."""


def summary(population: Any, member: int) -> dict[str, Any]:
    """The SHA-256 of one member's every leaf, and the norm of each of its parts."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(population):
        if jax.tree_util.keystr(path) in [f".config.{name}" for name in ADDED]:
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaves[jax.tree_util.keystr(path)] = np.asarray(leaf)[member]
    digest, squares = hashlib.sha256(), dict[str, float]()
    for name, array in sorted(leaves.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
        if array.dtype == np.float32:
            part = name.split(".")[1].split("[")[0]
            square = float(np.square(array.astype(np.float64)).sum())
            squares[part] = squares.get(part, 0.0) + square
    return {
        "sha256": digest.hexdigest(),
        "norms": {part: float(f"{value**0.5:.9g}") for part, value in squares.items()},
    }


def main(cells: list[str]) -> None:
    """Train each AGENT/POPULATION, where the population is 1 (of seed 0, of seed 1) or 3."""
    found: dict[str, Any] = {}
    for cell in cells:
        agent, size = cell.split("/")
        for seeds in [[0, 1, 2]] if size == "3" else [[0], [1]]:
            population = train(agent, seeds)
            for place, seed in enumerate(seeds[:2]):
                found[f"{cell}/{seed}"] = summary(population, place)
    print(json.dumps({"machine": machine(), "cells": found}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
