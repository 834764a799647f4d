"""What broke first where a member diverged: known beforehand, and found again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from worlds import line_data, same_bits, spec_of
from xql.agents import TrainState, XQLConfig, make_xql
from xql.data.dataset import DeviceData
from xql.runs.config import Member
from xql.training.diagnosis import BLOCK, Cause, cause_at_the_end, copied, replayed_causes
from xql.training.population import (
    draw,
    initial_population,
    replicated,
    train_chunk,
    zero_totals,
)
from xql.training.streaming import all_of

SPEC = spec_of(2, 1)
AGENT = make_xql(XQLConfig(hidden=(8,), batch_size=8, loss="plain", critic_loss="squared"), 100)
UPDATES = 3 * BLOCK + 5


def start(**changes: float) -> tuple[TrainState, DeviceData]:
    """Three fresh members, the changes in the last, and the line's data."""
    members = [Member(0, {}), Member(1, {}), Member(2, changes)]
    population = initial_population(AGENT, SPEC, members)
    return population, line_data().to_device(replicated(population))


def later(
    population: TrainState, data: DeviceData, updates: int
) -> tuple[TrainState, dict[str, np.ndarray]]:
    totals = zero_totals(population, data, AGENT)
    state, totals = train_chunk(copied(population), totals, data, updates, agent=AGENT)
    return state, {name: np.asarray(values) for name, values in totals.items()}


@jax.jit
def rows_drawn(keys: Array, data: DeviceData) -> Array:
    """The rewards of each member's batches, update by update."""

    def draw_next(key: Array, _: None) -> tuple[Array, Array]:
        key, batch_key = jax.random.split(key)
        # XQL's own update splits the key once more.
        return jax.random.split(key)[0], draw(data, batch_key, AGENT.transitions).rewards

    drawn: Array = jax.vmap(lambda key: jax.lax.scan(draw_next, key, length=UPDATES)[1])(keys)
    return drawn


def test_a_reward_that_is_no_number_breaks_the_first_update_that_draws_it() -> None:
    population, data = start()
    data = data._replace(rewards=data.rewards.at[data.starts[35]].set(jnp.nan))
    drawn = np.isnan(rows_drawn(population.key, data)).any(-1)
    assert drawn.any(1).all()
    expected = {index: 1001 + int(first) for index, first in enumerate(drawn.argmax(1))}
    # One in the first block, two in the second.
    assert sorted((update - 1001) // BLOCK for update in expected.values()) == [0, 1, 1]

    before = copied(population)
    causes = replayed_causes(population, [0, 1, 2], 1000, UPDATES, all_of(data), AGENT)
    assert {index: cause.update for index, cause in causes.items()} == expected
    for cause in causes.values():
        # V and the policy learn from no reward, so that they break one update later.
        assert cause.networks == ("critic", "target_critic")
        assert cause.metrics == ("critic_loss", "bellman_error")
        assert cause.batch is not None and np.isnan(cause.batch["lowest_reward"])
        assert 0.0 < cause.batch["largest_action"] <= 1.0 <= cause.batch["largest_observation"]
        assert json.loads(json.dumps(cause.as_plain()))["batch"]["lowest_reward"] == "nan"
        assert f"update {cause.update:,} was the first that was not finite" in cause.describe()
    assert same_bits(population, before)


def test_of_networks_that_break_in_one_update_the_first_computed_is_named_first() -> None:
    # e^z overflows in V's loss; V is NaN, and so are the policy's weights and Q's targets.
    population, data = start(beta=1e-6, critic_learning_rate=1.0)
    cause = replayed_causes(population, [2], 0, UPDATES, all_of(data), AGENT)[2]
    assert cause.networks == ("value", "policy", "critic", "target_critic")
    assert cause.metrics[:2] == ("value_loss", "policy_loss")
    # As it was before that update, it was sound.
    assert cause.update is not None
    assert cause_at_the_end(*later(population, data, cause.update - 1), 2) == Cause((), ())
    broken = later(population, data, cause.update)
    at_the_end = cause_at_the_end(*broken, 2)
    assert set(at_the_end.networks) == set(cause.networks)
    assert set(at_the_end.metrics) == set(cause.metrics) and at_the_end.update is None
    assert cause_at_the_end(*broken, 0) == Cause((), ())


def test_an_optimizer_alone_is_named_as_such() -> None:
    population, data = start(critic_learning_rate=2e6, beta=1e30)
    cause = replayed_causes(population, [2], 0, UPDATES, all_of(data), AGENT)[2]
    assert (cause.networks, cause.metrics, cause.update) == (("critic optimizer",), (), 2)


def test_a_sum_that_overflows_although_no_update_does_has_no_first_update() -> None:
    population, data = start()
    data = data._replace(rewards=jnp.full_like(data.rewards, 3e18))
    assert cause_at_the_end(*later(population, data, UPDATES), 0) == Cause((), ("critic_loss",))
    assert replayed_causes(population, [0, 1], 0, UPDATES, all_of(data), AGENT) == {}
