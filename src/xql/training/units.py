"""Which of a run's numbers carry the unit of the rewards, and how their scaling is undone.

With `rewards="auto"` an agent learns from rewards in a unit that the data decides. Whoever reads
the log did not choose that unit, and two runs may have two of them; so every number that is shown
is in the data's own. Another scaling was chosen by name, and its numbers stay in its unit.

Losses are shown as they are minimised: Huber's and the Gumbel losses have no power of a unit.
"""

from collections.abc import Mapping

import numpy as np

from xql.data.scaling import reward_unit as reward_unit

POWERS = {
    "v": 1,
    "q": 1,
    "policy_q": 1,
    "advantage": 1,
    "bellman_error": 1,
    "beta": 1,
    "optimism": 1,
    "temperature": 1,
    "gap": 1,
    "multiplier": 1,
    "inverse_temperature": -1,
}
"""By metric, and by hyperparameter, the power of a reward's unit that it has; of others 0."""


def in_own_unit(metrics: Mapping[str, np.ndarray], unit: float) -> dict[str, np.ndarray]:
    """Metrics of scaled rewards in the data's own unit.

    Args:
        metrics: by name.
        unit: from `reward_unit`.
    """
    if unit == 1.0:
        return dict(metrics)
    # In float64, which holds what float32 does in any unit.
    return {
        name: np.asarray(values, np.float64) * unit ** POWERS[name] if name in POWERS else values
        for name, values in metrics.items()
    }
