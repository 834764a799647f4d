"""What several runs in one process leave behind: nothing that grows with their number."""

import gc
import os
import threading
from pathlib import Path
from typing import Any

import jax
import pytest

import xql
from worlds import line_data, register_line
from xql import jax_config


def learn(out: Path, **options: Any) -> None:
    """An evaluated run that is let go of, with whatever it held."""
    xql.train_offline(
        line_data(),
        agent="bc",
        steps=2,
        out=out,
        options={"hidden": [4], "batch_size": 8} | options,
        env=register_line(),
        evaluations=1,
        last_episodes=1,
        progress=False,
    ).policy(line_data().observations[:2])


def held() -> dict[str, int]:
    gc.collect()
    return {
        "arrays": len(jax.live_arrays()),  # type: ignore[no-untyped-call]
        "threads": threading.active_count(),
        "open files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    }


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists open files where Linux does")
def test_runs_leave_no_arrays_threads_or_open_files(tmp_path: Path) -> None:
    learn(tmp_path / "0")
    before = held()
    for name in "12":
        learn(tmp_path / name)
        assert held() == before


@pytest.mark.skipif(not jax_config.MAPS.exists(), reason="lists memory maps where Linux does")
def test_programs_are_forgotten_when_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(True))
    monkeypatch.setattr(jax_config, "MOST_MAPS", 10**9)
    learn(tmp_path / "few")
    assert not cleared
    monkeypatch.setattr(jax_config, "MOST_MAPS", 10)
    learn(tmp_path / "many")
    assert cleared == [True]
