"""With rewards="auto" the unit of the rewards does not matter, to the bit, where it is a power of
two: the same decisions give the same parameters."""

import numpy as np

from worlds import line_data, same_bits, trained
from xql.data.scaling import apply_scaling
from xql.training.offline import plan_offline

SMALL = {"hidden": [8], "batch_size": 8, "rewards": "auto"}  # with the program of test_divergence


def test_rewards_times_a_power_of_two_train_to_the_same_bits() -> None:
    data = line_data()
    plans = [
        plan_offline(
            data.with_metadata(rewards=data.rewards * np.float32(factor)),
            steps=100,
            seeds=3,
            options=SMALL,
        )
        for factor in (1.0, 2.0**-7, 2.0**7)
    ]
    scales = [plan.config.scaling.reward_scale for plan in plans]
    assert scales == [scales[0], scales[0] * 2**7, scales[0] / 2**7]
    agent = plans[0].config.make_agent()
    base, *others = (
        trained(
            agent,
            plan.config.spec,
            plan.config.members,
            apply_scaling(plan.dataset, plan.config.scaling),
            50,
        )
        for plan in plans
    )
    assert all(same_bits(other, base) for other in others)
