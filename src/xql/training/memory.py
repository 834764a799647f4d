"""Whether a run can fit into memory at all, asked before anything is made or written."""

import contextlib
import ctypes
from typing import Any

import jax
import jax.numpy as jnp

from xql.agents import Agent, EnvironmentSpec
from xql.data.reading import machine_memory
from xql.errors import InputError
from xql.runs.config import RunConfig
from xql.training.replay import row_size

NUMBER = 4
"""Bytes of a float32."""


def require_memory(config: RunConfig) -> None:
    """Refuse a run whose networks, batches, data and replay buffers alone are more than the memory.

    What a run needs on top, such as the layers' outputs and the gradients, is not counted: a run
    that passes may still be too large.

    Raises:
        InputError: it cannot fit; names what is largest.
    """
    agent, spec, members = config.make_agent(), config.spec, len(config.members)
    row = spec.observation_size + spec.actions.size + 3
    drawn = 2 * (spec.observation_size + spec.actions.size) + 3
    logged = 0 if config.data.extent is None else config.data.extent.transitions
    if config.finetune is not None and config.finetune.replay == "online":
        logged = 0
    if config.data.streamed is not None:
        logged = min(logged, 2 * config.data.streamed)
    stored = 0 if config.loop is None else min(config.loop.buffer, config.steps)
    parts = {
        "networks": members * _state_bytes(agent, spec),
        "batches": members * agent.transitions * drawn * NUMBER,
        "data": logged * row * NUMBER,
        "replay buffers": members * stored * row_size(spec) * NUMBER,
    }
    needed, there = sum(parts.values()), memory_bytes()
    if needed > there:
        largest = max(parts, key=lambda name: parts[name])
        hint = "give fewer seeds or swept values, smaller layers, batches or buffers"
        if largest == "data":
            alone = "fine-tune with `replay='online'`, which needs no data"
            hint = "train with `stream=True`" if config.finetune is None else alone
        raise InputError(
            f"{members} members need at least {needed / 2**30:,.0f} GiB of memory, most of it for "
            f"{largest}; there are {there / 2**30:,.0f}",
            hint=hint,
        )


def _state_bytes(agent: Agent, spec: EnvironmentSpec) -> int:
    """Of one member; nothing is computed for it."""

    def made(key: Any) -> Any:
        return agent.init(key, spec, jax.tree.map(jnp.float32, agent.config))

    shapes = jax.eval_shape(made, jax.random.key(0))
    return sum(one.size * one.dtype.itemsize for one in jax.tree.leaves(shapes))


def give_back() -> None:
    """Let the C library give memory that was freed back to the system, where it can.

    A compilation frees some 200 MB, which it would keep.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def memory_bytes() -> int:
    """Of all the devices that JAX uses, where they have their own; else the machine's."""
    limits = [(one.memory_stats() or {}).get("bytes_limit", 0) for one in jax.local_devices()]
    if all(limits):
        return sum(limits)
    return machine_memory()
