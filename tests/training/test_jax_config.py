"""A program's own JAX flags change no number of a run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import xql
from worlds import line_data, register_line, same_bits
from xql.errors import InputError
from xql.jax_config import require_device, standard_jax
from xql.runs.config import OnlineLoop
from xql.runs.policy import load_policy
from xql.runs.run import Run

SMALL: dict[str, Any] = {
    "options": {"hidden": [8], "batch_size": 8},
    "evaluations": 1,
    "episodes": 1,
    "last_episodes": 1,
    "progress": False,
}
OBSERVATIONS = np.asarray([[0.1, -0.2], [0.5, 0.9]])
FLAGS = [
    ("enable_x64", True),
    ("numpy_rank_promotion", "raise"),
    ("numpy_dtype_promotion", "strict"),
    ("default_prng_impl", "rbg"),
    ("threefry_partitionable", False),
    ("legacy_prng_key", "error"),
    ("debug_nans", True),
    ("debug_infs", True),
    ("debug_key_reuse", True),
    ("disable_jit", True),
    ("transfer_guard", "disallow"),
]


def offline(out: Path) -> Run:
    return xql.train_offline(line_data(), env=register_line(), steps=20, out=out, **SMALL)


def online(out: Path) -> Run:
    loop = OnlineLoop(warmup=10)
    return xql.train_online(register_line(), agent="x-td3", steps=30, loop=loop, out=out, **SMALL)


@pytest.fixture(scope="module")
def without_flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    home = tmp_path_factory.mktemp("runs")
    return {"offline": offline(home / "offline"), "online": online(home / "online")}


@pytest.mark.parametrize(("flag", "value"), FLAGS)
@pytest.mark.parametrize("train", [offline, online])
def test_the_same_bits_under_a_flag(
    train: Any, flag: str, value: Any, without_flags: dict[str, Run], tmp_path: Path
) -> None:
    expected = without_flags[train.__name__]
    key = jax.random.key(0)
    with getattr(jax, flag)(value):
        run = train(tmp_path / "run")
        loaded = Run.open(expected.path)
        actions = load_policy(expected.path)(OBSERVATIONS)
        drawn = run.policy(OBSERVATIONS, key)
        found = run.evaluations
    assert same_bits(run.population, expected.population)
    assert same_bits(loaded.population, expected.population)
    assert found == expected.evaluations
    np.testing.assert_array_equal(actions, expected.policy(OBSERVATIONS))
    np.testing.assert_array_equal(drawn, expected.policy(OBSERVATIONS, key))


def test_the_flags_are_the_program_s_own_again() -> None:
    with jax.enable_x64(True):
        with standard_jax():
            assert jax.numpy.zeros(1).dtype == np.float32
        assert jax.numpy.zeros(1).dtype == np.float64


def test_an_offset_of_all_seeds_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jax.config.update("jax_random_seed_offset", 3)  # type: ignore[no-untyped-call]
    try:
        with pytest.raises(InputError, match=r"^JAX_RANDOM_SEED_OFFSET is 3, .*; unset it, and"):
            offline(tmp_path / "run")
    finally:
        jax.config.update("jax_random_seed_offset", 0)  # type: ignore[no-untyped-call]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "platform", "command"),
    [
        ("JAX_PLATFORMS", "nonsense", "train offline --data log.npz --out run"),
        ("JAX_PLATFORMS", "cuda", "train online --env Pendulum-v1 --out run"),
        ("JAX_PLATFORM_NAME", "nonsense", "gumbel demo"),
    ],
)
def test_a_platform_that_is_not_here_is_one_line(
    flag: str, platform: str, command: str, tmp_path: Path
) -> None:
    if platform == "cuda" and any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("it is here")
    np.savez(tmp_path / "log.npz", nothing=np.zeros(1))
    done = subprocess.run(
        [sys.executable, "-c", "from xql.cli import main; main()", *command.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "", flag: platform},
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"xql: {flag} is '{platform}': ")
    assert line.endswith(f"; set {flag}=cpu, or install JAX for that platform")
    assert [path.name for path in tmp_path.iterdir()] == ["log.npz"]


def test_a_device_is_found() -> None:
    require_device()
