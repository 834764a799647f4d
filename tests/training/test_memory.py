"""What cannot fit into memory is refused before anything is made."""

import dataclasses
import os
from pathlib import Path

import pytest

from xql.agents.hyperparameters import from_dict
from xql.errors import InputError
from xql.runs.config import Extent, FineTuning, Member, OnlineLoop, RunConfig
from xql.training.memory import memory_bytes, require_memory
from xql.training.replay import empty_replay

RUN = Path(__file__).parent.parent / "fixtures" / "run-0.1"


def test_a_run_that_fits_passes_and_what_is_too_large_is_named() -> None:
    assert 1 << 28 < memory_bytes() < 1 << 50
    config = RunConfig.load(RUN)
    require_memory(config)
    wide = from_dict(type(config.hyperparameters), {"hidden": [65536] * 6}, "xql")
    batch = from_dict(type(config.hyperparameters), {"batch_size": 65536, "v_updates": 100}, "xql")
    loop = OnlineLoop(buffer=2**31 - 1)
    for changes, largest in (
        ({"hyperparameters": wide}, "networks"),
        ({"hyperparameters": batch, "members": (Member(0),) * 10_000}, "batches"),
        ({"loop": loop, "steps": 2**31 - 1, "members": (Member(0),) * 10_000}, "replay buffers"),
    ):
        with pytest.raises(InputError, match=f"GiB of memory, most of it for {largest}"):
            require_memory(dataclasses.replace(config, **changes))


def test_data_that_does_not_fit_can_be_streamed() -> None:
    config = RunConfig.load(RUN)
    large = dataclasses.replace(config.data, extent=Extent(10**12, 10**9, 0.0))
    with pytest.raises(InputError, match=r"most of it for data; .* train with `stream=True`"):
        require_memory(dataclasses.replace(config, data=large))
    streamed = dataclasses.replace(large, streamed=2**18)
    require_memory(dataclasses.replace(config, data=streamed))


def test_data_that_fine_tuning_does_not_draw_from_is_not_counted() -> None:
    config = RunConfig.load(RUN)
    large = dataclasses.replace(config.data, extent=Extent(10**12, 10**9, 0.0))
    config = dataclasses.replace(config, data=large, loop=OnlineLoop(buffer=1000))
    require_memory(dataclasses.replace(config, finetune=FineTuning("run", 1, "online")))
    with pytest.raises(InputError, match=r"most of it for data; .* with `replay='online'`"):
        require_memory(dataclasses.replace(config, finetune=FineTuning("run", 1, "symmetric")))


def test_where_the_system_does_not_say_its_memory_every_run_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sysconf")
    require_memory(RunConfig.load(RUN))


def test_a_replay_buffer_is_not_counted_for_more_than_it_has() -> None:
    config = dataclasses.replace(RunConfig.load(RUN), loop=OnlineLoop(buffer=10**9), steps=10**9)
    replay = empty_replay(1, 10, config.spec)
    row = sum(column.nbytes for column in replay) // 10
    stored = len(config.members) * row * 10**9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xql.training.memory.memory_bytes", lambda: stored + (1 << 30))
        require_memory(config)
        patch.setattr("xql.training.memory.memory_bytes", lambda: stored)
        with pytest.raises(InputError, match="most of it for replay buffers"):
            require_memory(config)
