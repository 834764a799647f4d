"""Discrete actions: networks and losses by hand, and from a log to an environment and back."""

import math
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xql
from worlds import (
    constant,
    first_gradient,
    first_state,
    in_place,
    line_data,
    one_update,
    random_batch,
)
from xql.agents import (
    OFFLINE,
    ONLINE,
    AWACConfig,
    CQLConfig,
    EnvironmentSpec,
    Unchecked,
    configure,
    make_awac,
    make_cql,
    make_sac,
)
from xql.agents.networks import DiscreteCritic
from xql.agents.policies import CategoricalPolicy
from xql.data.actions import Discrete
from xql.data.dataset import Dataset
from xql.data.files import save_dataset
from xql.errors import InputError
from xql.training.offline import plan_offline
from xql.training.online import plan_online

SPEC = EnvironmentSpec(2, Discrete(3))
LOGITS = (0.0, 1.0, -1.0)


def policy(*logits: float) -> CategoricalPolicy:
    made: CategoricalPolicy = constant(
        CategoricalPolicy.create(jax.random.key(0), SPEC, (4,)), *logits
    )
    return made


def test_a_categorical_policy_by_hand() -> None:
    seen, one_hot = jnp.zeros((3, 2)), jnp.eye(3)
    total = math.log(1 + math.e + 1 / math.e)
    log_prob = policy(*LOGITS).log_prob(seen, one_hot)
    np.testing.assert_allclose(log_prob, np.array(LOGITS) - total, rtol=1e-6)
    np.testing.assert_array_equal(policy(*LOGITS)(seen), np.eye(3)[[1, 1, 1]])
    drawn = policy(*LOGITS)(jnp.zeros((4000, 2)), jax.random.key(1))
    assert (np.asarray(drawn).sum(-1) == 1).all()
    p = np.exp(np.array(LOGITS) - total)
    np.testing.assert_allclose(drawn.mean(0), p, atol=4 * math.sqrt(0.25 / 4000))


def test_a_policy_that_has_diverged_gives_no_action() -> None:
    # Its largest logit has a number all the same, and an evaluation would count it as a choice.
    for logits in ((0.0, math.nan, 1.0), (0.0, math.inf, 1.0)):
        assert np.isnan(policy(*logits)(jnp.zeros((1, 2)))).all()


def test_a_discrete_critic_picks_the_value_of_the_action() -> None:
    critic = DiscreteCritic.create(jax.random.key(0), 2, 3, (4,))
    seen = jax.random.normal(jax.random.key(1), (5, 2))
    values = critic.values(seen)
    assert values.shape == (2, 5, 3)
    chosen = critic(seen, jnp.eye(3)[jnp.array([2, 0, 1, 1, 2])])
    np.testing.assert_array_equal(chosen[:, 0], values[:, 0, 2])
    np.testing.assert_array_equal(chosen[:, 3], values[:, 3, 1])


def test_cql_s_gap_and_target_are_over_all_actions() -> None:
    agent = make_cql(CQLConfig(hidden=(4,), critic_hidden=(4,), discount=0.5, batch_size=8), 10)
    state, batch = first_state(agent, SPEC), random_batch(8, SPEC)
    critic = constant(state.critic.network, 2.0, 3.0)
    # min Q̄ is 1, 5 and 0 for the three actions, and π has 1/2 of the first, 1/4 of the others.
    chances = policy(math.log(2.0), 0.0, 0.0)
    state = in_place(state, critic=critic, target_critic=fixed(1.0, 5.0, 0.0))
    state = in_place(state, policy=chances)
    _, metrics = one_update(agent, state, batch)
    # log Σ e^Q − Q is log 3 where Q is the same everywhere.
    assert metrics["gap"] == pytest.approx(math.log(3.0), rel=1e-5)
    expected = np.asarray(batch.rewards) + 0.5 * np.asarray(batch.masks) * (0.5 + 1.25)
    errors = [np.abs(q - expected) for q in (2.0, 3.0)]
    assert metrics["bellman_error"] == pytest.approx(np.mean(errors), rel=1e-5)


def fixed(*values: float) -> DiscreteCritic:
    """Two members with these values everywhere."""
    return DiscreteCritic((policy(*values).mlp,) * 2)


def test_awac_weighs_by_the_advantage_over_its_own_draw() -> None:
    agent = make_awac(AWACConfig(hidden=(4,), batch_size=8, temperature=2.0), 10)
    state = first_state(agent, SPEC)
    # A certain policy: its own action is always the second.
    state = in_place(state, policy=policy(0.0, 50.0, 0.0))
    state = in_place(state, critic=fixed(1.0, 5.0, 0.0))
    batch = random_batch(8, SPEC)
    _, metrics = one_update(agent, state, batch)
    q = np.asarray(batch.actions) @ np.array([1.0, 5.0, 0.0])
    # Q has made one step of Adam by then.
    assert metrics["advantage"] == pytest.approx(np.mean(q - 5.0), abs=0.01)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_sac_s_backup_loss_and_target_are_sums_over_all_actions(share: float) -> None:
    options = {"hidden": [4], "batch_size": 8, "discount": 0.5, "entropy_fraction": share}
    agent = make_sac(configure("sac", options), 10)
    state, batch = first_state(agent, SPEC), random_batch(8, SPEC)
    # min Q̄ is 1, 5 and 0 for the three actions, and π has 1/2 of the first, 1/4 of the others: the
    # value of s' is 1/2 + 5/4 + α H with α = 1 and H = 1.5 log 2.
    state = in_place(state, policy=policy(math.log(2.0), 0.0, 0.0))
    state = in_place(state, critic=fixed(2.0, 3.0, 4.0), target_critic=fixed(1.0, 5.0, 0.0))
    after, metrics = one_update(agent, state, batch)
    entropy = 1.5 * math.log(2.0)
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-5)
    value = 0.5 + 1.25 + entropy
    targets = np.asarray(batch.rewards) + 0.5 * np.asarray(batch.masks) * value
    q = np.asarray(batch.actions) @ np.array([2.0, 3.0, 4.0])
    assert metrics["bellman_error"] == pytest.approx(np.abs(q - targets).mean(), rel=1e-5)
    # Q has made one step of Adam by then, of 0.0003.
    assert metrics["policy_loss"] == pytest.approx(-(1.0 + 0.75 + 1.0) - entropy, abs=0.002)
    gradient = first_gradient(after.temperature)
    assert gradient == pytest.approx(entropy - share * math.log(3), rel=1e-4)


# From a log to an environment ---------------------------------------------------------------


def cartpole(episodes: int = 8, noise: float = 1.0) -> dict[str, np.ndarray]:
    """CartPole, played by a controller that acts at random with probability `noise`."""
    random, env = np.random.default_rng(0), gymnasium.make("CartPole-v1")
    names = ("observations", "actions", "rewards", "terminated", "truncated", "next_observations")
    rows: list[tuple[Any, ...]] = []
    for episode in range(episodes):
        seen, _ = env.reset(seed=episode)
        over = False
        while not over:
            action = int(seen[2] + 0.5 * seen[3] > 0)
            if random.random() < noise:
                action = int(random.integers(2))
            after, reward, terminated, truncated, _ = env.step(action)
            rows.append((seen, action, reward, terminated, truncated, after))
            seen, over = after, terminated or truncated
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def test_from_whole_numbers_to_whole_numbers(tmp_path: Path) -> None:
    columns = cartpole()
    arrays: dict[str, Any] = {**columns}
    np.savez(tmp_path / "log.npz", **arrays)
    run = xql.train_offline(
        tmp_path / "log.npz",
        agent="bc",
        steps=4,
        env="CartPole-v1",
        out=tmp_path / "run",
        evaluations=1,
        last_episodes=2,
        progress=False,
        options={"hidden": [4], "batch_size": 8},
    )
    assert run.config.data.actions == Discrete(2)
    assert len(run.evaluations) == 2 and all(one.length >= 8 for one in run.evaluations)
    loaded = xql.load_policy(tmp_path / "run")
    seen = columns["observations"][:5]
    actions = loaded(seen)
    assert actions.shape == (5,) and actions.dtype.kind == "i" and set(actions) <= {0, 1}
    assert gymnasium.spaces.Discrete(2).contains(loaded(seen[0]))
    assert gymnasium.spaces.Discrete(2).contains(loaded(seen[0], jax.random.key(0)))
    with pytest.raises(InputError, match="the policy's answer is NaN, which is no action"):
        loaded(np.full(4, np.nan), finite=False)


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet"])
def test_a_saved_dataset_knows_actions_that_were_never_taken(tmp_path: Path, suffix: str) -> None:
    whole = xql.open_dataset(cartpole(2))
    wider = np.pad(whole.actions, ((0, 0), (0, 1)))
    path = save_dataset(whole.with_metadata(actions=wider), tmp_path / f"log{suffix}")
    opened = xql.open_dataset(path)
    assert opened.action_spec == Discrete(3)
    np.testing.assert_array_equal(opened.actions, wider)


def test_what_discrete_actions_must_be() -> None:
    whole = xql.open_dataset(cartpole(1))
    with pytest.raises(InputError, match=r"discrete actions, and row 0 is \[.*\]; give a 1 at"):
        whole.with_metadata(actions=whole.actions * 0.5)
    bound = np.ones(2, np.float32)
    with pytest.raises(InputError, match="discrete actions with bounds"):
        whole.with_metadata(action_low=-bound, action_high=bound)


@pytest.mark.parametrize(
    ("agent", "options", "line"),
    [
        (
            "td3-bc",
            {},
            "agent td3-bc needs continuous actions, and these are Discrete(n=2); choose",
        ),
        ("rebrac", {}, "choose from xql, iql, cql, awac, bc"),
        ("xql", {"policy": "flow"}, "agent xql with policy=flow needs continuous actions, and"),
        ("xql", {"policy": "flow"}, "leave policy=flow out, or choose from xql, iql, cql"),
        ("xql", {"value_action_noise": 0.1}, "agent xql with value_action_noise=0.1 needs contin"),
    ],
)
def test_agents_of_continuous_actions_refuse_others(
    agent: str, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError) as error:
        plan_offline(cartpole(1), agent=agent, options=options, env="none")
    assert line in str(error.value) and "\n" not in str(error.value)


def test_what_needs_discrete_actions_refuses_continuous_ones() -> None:
    with pytest.raises(
        InputError, match="agent xql with soft_maximum=exact needs discrete actions"
    ):
        plan_offline(line_data(2), options={"soft_maximum": "exact"}, env="none")
    with pytest.raises(InputError, match="and 2 discrete actions do not fit Pendulum-v1, which"):
        xql.train_offline(cartpole(1), agent="bc", steps=1, env="Pendulum-v1", progress=False)


@pytest.mark.parametrize("agent", ["td3", "x-td3", "ddpg"])
def test_online_agents_of_continuous_actions_name_those_of_discrete_ones(agent: str) -> None:
    with pytest.raises(InputError) as error:
        plan_online("CartPole-v1", agent=agent, steps=100)
    assert str(error.value) == (
        f"CartPole-v1: agent {agent} needs continuous actions, and these are Discrete(n=2); "
        "choose from sac, x-sac"
    )
    with pytest.raises(InputError, match=r"agent sac with entropy_fraction=0\.3 needs discrete"):
        plan_online("Pendulum-v1", agent="sac", steps=100, options={"entropy_fraction": 0.3})


def test_every_agent_says_which_actions_it_takes() -> None:
    takes = {
        name: Discrete in kind.make(kind.config(**kind.defaults), 1).takes
        for name, kind in (OFFLINE | ONLINE).items()
    }
    both = [name for name, discrete in takes.items() if discrete]
    assert both == ["xql", "iql", "cql", "awac", "bc", "sac", "x-sac"]


@pytest.mark.nightly
@pytest.mark.parametrize("agent", ["xql", "iql", "cql", "awac"])
def test_agents_do_better_than_the_log_and_go_on_online(tmp_path: Path, agent: str) -> None:
    data: Dataset = xql.open_dataset(cartpole(300, noise=0.7))
    run = xql.train_offline(
        data,
        agent=Unchecked(agent),
        steps=4000,
        env="CartPole-v1",
        out=tmp_path / "run",
        evaluations=1,
        last_episodes=20,
        progress=False,
        options={"hidden": [64, 64]},
    )
    returns = np.mean([one.episode_return for one in run.evaluations])
    assert returns > 2 * data.returns.mean()
    xql.train_finetune(
        run, data=data, steps=64, env="CartPole-v1", out=tmp_path / "on", progress=False
    )


def test_the_policy_s_kl_follows_from_the_number_of_actions() -> None:
    columns = {
        "observations": np.arange(8.0)[:, None],
        "actions": np.arange(8) % 4,
        "rewards": np.arange(8.0) % 3,
        "terminated": np.arange(8) == 7,
        "truncated": np.zeros(8, bool),
    }

    def kl(data: Any, **changes: Any) -> tuple[float, str | None]:
        config = plan_offline(data, steps=4, **changes).config
        return config.hyperparameters.policy_kl, config.sources.get("policy_kl")

    assert kl(columns) == (round(0.15 * math.log(4), 3), "ours: from the number of actions")
    assert kl(columns, options={"policy_kl": 0.5})[0] == 0.5
    assert kl(columns, options={"inverse_temperature": 3.0})[0] == 2.0
    assert kl(line_data()) == (2.0, None)
