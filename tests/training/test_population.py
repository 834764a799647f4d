"""The compiled population: one compilation, the same bits, members that do not know each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worlds import line_data, same_bits, spec_of, trained
from xql.agents import XQLConfig, make_xql, member
from xql.agents.hyperparameters import hyperparameters
from xql.runs.config import Member
from xql.training.population import (
    MemberMetrics,
    draw,
    initial_population,
    mesh_of,
    replicated,
    train_chunk,
    zero_totals,
)

SPEC = spec_of(2, 1)
AGENT = make_xql(XQLConfig(hidden=(16,), batch_size=32, v_updates=2), 1000)


def test_chunk_lengths_do_not_matter() -> None:
    members = [Member(0, {}), Member(1, {"beta": 0.5})]
    whole = trained(AGENT, SPEC, members, line_data(), 300)
    assert same_bits(whole, trained(AGENT, SPEC, members, line_data(), 1, 99, 200))
    assert not same_bits(whole, trained(AGENT, SPEC, members, line_data(), 299))
    assert whole.step.tolist() == [300, 300]


@pytest.mark.parametrize(("many", "few"), [(3, 1), (4, 2)])  # on one device, and on two
def test_a_member_has_the_same_bits_whoever_shares_its_device(many: int, few: int) -> None:
    members = [Member(5, {"beta": 0.3}), Member(3), Member(9), Member(5)]
    beside = trained(AGENT, SPEC, members[:many], line_data(), 20)
    assert mesh_of(beside).size == few
    fewer = trained(AGENT, SPEC, members[:few], line_data(), 20)
    for index in range(few):
        assert same_bits(member(beside, index), member(fewer, index))


def test_a_member_s_own_device_makes_a_difference_of_rounding_alone() -> None:
    alone = member(trained(AGENT, SPEC, [Member(5)], line_data(), 300), 0)
    beside = member(trained(AGENT, SPEC, [Member(5), Member(3)], line_data(), 300), 0)
    assert same_bits(alone.key, beside.key)  # the very same batches
    for part in ("policy", "value", "critic"):
        pairs = zip(
            jax.tree.leaves(getattr(alone, part).network),
            jax.tree.leaves(getattr(beside, part).network),
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    ours, theirs = (
        initial_population(AGENT, SPEC, one) for one in ([Member(5)], [Member(3), Member(5)])
    )
    assert same_bits(member(ours, 0), member(theirs, 1))


def test_seeds_and_changes_tell_members_apart() -> None:
    population = trained(AGENT, SPEC, [Member(0, {}), Member(1, {})], line_data(), 10)
    assert not same_bits(member(population, 0).policy, member(population, 1).policy)
    start = initial_population(AGENT, SPEC, [Member(7, {}), Member(7, {"beta": 0.25})])
    assert same_bits(member(start, 0).policy, member(start, 1).policy)
    assert start.config.beta.tolist() == [1.0, 0.25]
    assert start.config.clip.tolist() == [5.0, 5.0]


def test_sums_of_metrics_are_the_same_bits_however_the_updates_are_divided() -> None:
    members = [Member(0, {}), Member(1, {})]

    def sums(*chunks: int) -> MemberMetrics:
        population = initial_population(AGENT, SPEC, members)
        data = line_data().to_device(replicated(population))
        totals = zero_totals(population, data, AGENT)
        for updates in chunks:
            population, totals = train_chunk(population, totals, data, updates, agent=AGENT)
        return totals

    whole, parts = sums(6), sums(1, 2, 3)
    assert {one.shape for one in whole.values()} == {(2,)}
    assert same_bits(whole, parts)
    assert float(whole["bellman_error"][0]) > 0


def test_batches_are_uniform_over_transitions_and_never_bridge_episodes() -> None:
    data = line_data(episodes=5)
    on_device = data.to_device()
    batch = jax.jit(draw, static_argnames="size")(on_device, jax.random.key(0), size=20_000)
    # Which stored row each drawn one is: positions and actions of this data are all different.
    row = {action: index for index, action in enumerate(data.actions[:, 0].tolist())}
    rows = np.array([row[action] for action in np.asarray(batch.actions)[:, 0].tolist()])
    assert set(rows) == set(data.starts.tolist())
    np.testing.assert_array_equal(batch.observations, data.observations[rows])
    np.testing.assert_array_equal(batch.next_observations, data.observations[rows + 1])
    np.testing.assert_array_equal(batch.rewards, data.rewards[rows])
    np.testing.assert_array_equal(batch.masks, data.masks[rows])
    counts = np.bincount(rows)[data.starts]
    expected = 20_000 / data.transitions
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize("members", [1, 2])
def test_chunks_of_any_length_compile_once(members: int, caplog: pytest.LogCaptureFixture) -> None:
    # A configuration of its own, which no other test can have compiled before.
    agent = make_xql(dataclasses.replace(XQLConfig(), hidden=(11,), batch_size=8), 50 + members)
    with jax.log_compiles():
        which = [Member(seed, {}) for seed in range(members)]
        trained(agent, SPEC, which, line_data(), 1, 7, 20, 7)
    compiled = [one for one in caplog.messages if "Finished XLA compilation of jit(_chunk)" in one]
    assert len(compiled) == 1, compiled


def test_swept_hyperparameters_are_arrays_so_that_a_sweep_is_one_program() -> None:
    population = initial_population(AGENT, SPEC, [Member(0, {"beta": b}) for b in (0.1, 1.0, 9.0)])
    leaves = jax.tree.leaves(population.config)
    assert len(leaves) == sum(one.swept for one in hyperparameters(XQLConfig).values()) == 12
    for leaf in leaves:
        assert leaf.shape == (3,) and leaf.dtype == jnp.float32
    assert population.config.hidden == (16,)


def test_agents_that_differ_in_swept_values_share_a_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with jax.log_compiles():
        for beta in (0.5, 2.0):
            agent = make_xql(XQLConfig(beta=beta, hidden=(9,), batch_size=8), 77)
            trained(agent, SPEC, [Member(0)], line_data(), 3)
    compiled = [one for one in caplog.messages if "Finished XLA compilation of jit(_chunk)" in one]
    assert len(compiled) == 1, compiled
