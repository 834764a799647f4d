"""JAX as this library needs it, whatever the rest of the program has configured.

The numbers of a run must not depend on flags that another part of the program has set for its own
sake, and training compiles only under JAX's standard rules of promotion.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from xql.errors import InputError


@contextlib.contextmanager
def standard_jax() -> Iterator[None]:
    """JAX's defaults for what changes results, in this thread, while the block or function runs.

    Float32, standard promotion, Threefry keys, and NaN left to the check for divergence.

    Raises:
        InputError: JAX finds no device, or cannot be brought to its defaults; nothing has been done
            then.
    """
    require_device()
    # JAX has no context manager for it.
    offset = getattr(jax.config, "jax_random_seed_offset", 0)
    if offset:
        raise InputError(
            f"JAX_RANDOM_SEED_OFFSET is {offset}, which changes every random number",
            hint="unset it, and give seeds instead",
        )
    with contextlib.ExitStack() as stack:
        for setting in (
            jax.enable_x64(False),
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
            jax.default_prng_impl("threefry2x32"),
            jax.threefry_partitionable(True),
            jax.legacy_prng_key("allow"),
            jax.debug_nans(False),
            jax.debug_infs(False),
            jax.debug_key_reuse(False),
            jax.disable_jit(False),
            jax.transfer_guard("allow"),
        ):
            stack.enter_context(setting)
        yield


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def known_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the compiler, or none where this release of XLA does not know one of them."""
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


MAPS = Path("/proc/self/maps")
MOST_MAPS = 10_000
"""Linux allows a process 65,530 memory maps and a compiled program holds several: a run with
settings of its own leaves some 640 of them, and 70 MB."""


def forget_programs() -> None:
    """Let JAX forget what it has compiled, where that has become much: it never does by itself.

    A process that trains under ever new settings would end in a crash of the compiler.
    """
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()  # type: ignore[no-untyped-call]


def require_device() -> None:
    """Start JAX on the platform that its configuration names.

    Raises:
        InputError: this machine has no such platform.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        # An assertion is how JAX says that the CUDA plugin is missing.
        why = str(error).partition("(set JAX_PLATFORMS")[0].strip(" .") or "it cannot be started"
        platforms = getattr(jax.config, "jax_platforms", None)
        flag = "JAX_PLATFORMS" if platforms else "JAX_PLATFORM_NAME"
        asked = platforms or os.environ.get(flag)
        raise InputError(
            f"{flag} is '{asked}': {why}" if asked else f"JAX has no device: {why}",
            hint=f"set {flag}=cpu, or install JAX for that platform",
        ) from None
