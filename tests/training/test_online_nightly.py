"""Every online agent on a task whose solution is known. Minutes: `make nightly`."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import xql
from xql.agents import OnlineName
from xql.runs.config import OnlineLoop


@pytest.mark.nightly
@pytest.mark.parametrize("agent", get_args(OnlineName))
def test_pendulum_swings_up(agent: OnlineName, tmp_path: Path) -> None:
    # SAC and TD3 of Stable-Baselines3's zoo reach about -150 ± 60 on Pendulum-v1; a pendulum that
    # hangs costs some 1200, and one that is never held upright more than 400.
    run = xql.train_online(
        "Pendulum-v1",
        agent=agent,
        steps=20_000,
        seeds=[0],
        options={"hidden": [64, 64], "critic_learning_rate": 1e-3, "policy_learning_rate": 1e-3}
        # Returns here are discounted sums of rewards of up to 16: a temperature to their scale.
        | ({"beta": 20.0} if agent.startswith("x-") else {}),
        loop=OnlineLoop(warmup=1_000),
        evaluations=1,
        last_episodes=50,
        out=tmp_path / "run",
        progress=False,
    )
    assert np.mean([row.episode_return for row in run.evaluations]) > -200
