"""The unit of the actions does not matter to Q and V, to the bit, where it is a power of two."""

from typing import Any

import jax
import numpy as np
import pytest

from worlds import line_data, same_bits, trained
from xql.data.actions import Box
from xql.data.scaling import apply_scaling
from xql.runs.config import RunConfig
from xql.training.offline import OfflinePlan, plan_offline

SMALL = {"hidden": [8], "batch_size": 8, "rewards": "auto"}


def plan(factor: float) -> OfflinePlan:
    data = line_data()
    bound = np.full(1, factor, np.float32)
    scaled = data.with_metadata(
        actions=data.actions * np.float32(factor), action_low=-bound, action_high=bound
    )
    return plan_offline(scaled, steps=100, seeds=3, options=SMALL)


def test_actions_times_a_power_of_two_give_the_same_values() -> None:
    states: list[Any] = []
    for factor in (1.0, 8.0):
        one = plan(factor)
        config = one.config
        data = apply_scaling(one.dataset, config.scaling)
        states.append(trained(config.make_agent(), config.spec, config.members, data, 50))
    # The bounds are a part of a critic's structure.
    base, *others = (
        [jax.tree.leaves(part) for part in (one.critic, one.target_critic, one.value)]
        for one in states
    )
    assert all(same_bits(other, base) for other in others)


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_a_run_says_whether_its_critics_see_rescaled_actions(factor: float) -> None:
    config = plan(factor).config
    assert isinstance(config.data.actions, Box)
    assert config.data.unit_actions == config.spec.unit_actions == (factor != 1.0)
    plain = config.to_dict()
    assert RunConfig.from_dict(plain, "here").spec == config.spec
    plain["data"].pop("unit_actions", None)  # as an older version wrote it
    assert not RunConfig.from_dict(plain, "here").spec.unit_actions
