"""beta=auto and inverse_temperature=auto on worlds whose answer is known."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from worlds import random_log, same_bits, soft_value_iteration, spec_of, trained
from xql.agents import XQLConfig, make_xql, member
from xql.agents.hyperparameters import AUTO
from xql.agents.temperature import SPREAD
from xql.data.dataset import Dataset
from xql.runs.config import Member

UPDATES = 4000
CONFIG = XQLConfig(
    beta=AUTO,
    inverse_temperature=AUTO,
    discount=0.8,
    polyak=0.1,
    value_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    hidden=(64,),
    critic_loss="squared",
    value_schedule="cosine",
)
KLS = (0.1, 0.3)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_mean_divergence_of_the_soft_policy_is_what_was_asked_for(seed: int) -> None:
    """The exact soft policy at the β that was found is ε nats from the data's, on average."""
    log = random_log(seed)
    agent = make_xql(CONFIG, UPDATES)
    members = [Member(0, {"beta_kl": kl}) for kl in KLS]
    population = trained(
        agent, spec_of(log.state_count, log.action_count), members, log.dataset(), UPDATES
    )
    for index, kl in enumerate(KLS):
        state: Any = member(population, index)
        beta = float(state.temperatures["value"])
        v, q, counts = soft_value_iteration(log, beta, 0.8)
        acted = counts.sum(1) > 0
        behaviour = counts[acted] / counts[acted].sum(1, keepdims=True)
        z = (q[acted] - v[acted, None]) / beta
        divergences = (behaviour * np.exp(z) * z).sum(1)
        mean = np.average(divergences, weights=counts[acted].sum(1))
        assert mean == pytest.approx(kl, rel=0.1)


def test_the_soft_maximum_adds_no_more_to_values_than_it_may() -> None:
    """Of the exact soft policy at the β that was found."""
    log, bound = random_log(1), 0.1
    agent = make_xql(dataclasses.replace(CONFIG, beta_optimism=bound), UPDATES)
    spec = spec_of(log.state_count, log.action_count)
    members = [Member(0, {"beta_kl": kl}) for kl in KLS]
    population = trained(agent, spec, members, log.dataset(), UPDATES)
    divergences, lifts = [], []
    for index in range(len(KLS)):
        state: Any = member(population, index)
        beta = float(state.temperatures["value"])
        v, q, counts = soft_value_iteration(log, beta, 0.8)
        behaviour = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        often = counts.sum(1) / counts.sum()
        z = np.where(counts > 0, (q - v[:, None]) / beta, 0.0)
        divergences.append(often @ (behaviour * np.exp(z) * z).sum(1))
        lifts.append(often @ -(behaviour * z * beta).sum(1) / (1 - 0.8))
    assert lifts == pytest.approx([bound, bound], rel=0.15)
    assert max(divergences) < KLS[0]


def one_action_log() -> Dataset:
    """A ring of eight states with one action in each: no action to prefer, Q is known exactly."""
    states = np.tile(np.arange(8), 40)
    actions = np.where(states % 2, 0.5, -0.5)[:, None].astype(np.float32)
    ends = states == 7
    return Dataset.from_arrays(
        np.eye(8, dtype=np.float32)[states],
        actions,
        (states == 3).astype(np.float32),
        np.zeros_like(ends),
        ends,
        next_observations=np.eye(8, dtype=np.float32)[(states + 1) % 8],
    )


def test_data_with_one_action_a_state_stays_finite_and_near_its_values() -> None:
    agent = make_xql(CONFIG, UPDATES)
    data, members = one_action_log(), [Member(seed, {}) for seed in range(8)]
    population = trained(agent, spec_of(8, 1), members, data, UPDATES)
    rows = data.starts
    observations, actions = jnp.asarray(data.observations[rows]), jnp.asarray(data.actions[rows])
    exact = 0.8 ** ((3 - np.arange(8)) % 8) / (1 - 0.8**8)
    near = []
    for place in range(len(members)):
        state: Any = member(population, place)
        q = np.asarray(state.target_critic(observations, actions)).min(0)
        v = np.asarray(state.value.network(observations))
        floor, spread = SPREAD * q.std(), q.std()
        # A floor is of the spread in a batch, which is not that of all states.
        beta, of_policy = (float(state.temperatures[name]) for name in ("value", "policy"))
        assert np.isfinite(q).all() and np.isfinite(v).all() and 0.8 * floor < beta < spread
        assert 0.8 * floor < of_policy < 3 * floor
        near.append(np.abs(v[:8] - exact).max() < 0.1 and beta < 0.3 * spread)
    if not all(near):
        # There is no KL but that of V errors. Both temperatures should fall to their floors; in up
        # to half of the members, others on each processor, β keeps up the errors that it is solved
        # from, and V is lifted by 0.13 to 0.39 of 1.2.
        pytest.xfail(f"beta=auto lifts V in {len(near) - sum(near)} of {len(near)} members")


def test_a_member_of_a_population_is_the_run_alone() -> None:
    log = random_log(1)
    agent = make_xql(dataclasses.replace(CONFIG, hidden=(16,)), 60)
    spec = spec_of(log.state_count, log.action_count)
    changes: list[dict[str, float]] = [
        {"beta_kl": 0.4, "policy_kl": 1.6},
        {"beta_kl": 0.2, "policy_kl": 0.8},
        {"beta_kl": 0.1, "policy_kl": 0.4},
    ]
    # Three share no two cores evenly: they take turns, as tests/truth/test_same_bits.py has it.
    members = [Member(seed, own) for seed, own in enumerate(changes)]
    together = trained(agent, spec, members, log.dataset(), 60)
    alone = trained(agent, spec, members[1:2], log.dataset(), 60)
    assert same_bits(member(together, 1), member(alone, 0))
