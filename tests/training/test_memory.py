"""What cannot fit into memory is refused before anything is made."""

import dataclasses
from pathlib import Path

import pytest

from xql.agents.hyperparameters import from_dict
from xql.errors import InputError
from xql.runs.config import Member, OnlineLoop, RunConfig
from xql.training.memory import memory_bytes, require_memory

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
