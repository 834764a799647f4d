"""A policy that was loaded: what it reads, its values, pickles, threads and processes."""

import concurrent.futures
import math
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xql
from worlds import line_data, spec_of
from xql.agents import AGENTS, member
from xql.errors import InputError
from xql.evaluation.statistics import Interval, Summary
from xql.runs import checkpoints
from xql.runs.folder import RunFolder
from xql.runs.policy import (
    FEW,
    Policy,
    _of_values,
    _paths,
    load_actors,
    load_policy,
    load_population,
    scale,
    template,
)
from xql.runs.run import Run
from xql.runs.summary import Result

OLD = Path(__file__).parents[1] / "fixtures" / "run-0.1"
INDEX = 2


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(OLD, INDEX)


@pytest.fixture(scope="module")
def rows(policy: Policy) -> np.ndarray:
    size = len(policy.scaling.observation_shift)
    return np.random.default_rng(0).normal(size=(20, size)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.open(Path(shutil.copytree(OLD, tmp_path / "run")))


def close(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=4e-6)  # the range of actions is 4


def test_few_observations_go_through_numpy(
    policy: Policy, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, drawn = policy.flat(rows), policy(rows, jax.random.key(0))
    many = np.tile(rows, (FEW // len(rows) + 1, 1))
    of_jax = policy.flat(many)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("JAX was asked")

    monkeypatch.setattr(policy, "_flat", refuse)
    close(policy(rows), expected)
    close(np.stack([policy(row) for row in rows]), expected)
    calls: tuple[Callable[[], object], ...] = (
        lambda: policy(rows, jax.random.key(0)),
        lambda: policy(many),
        lambda: policy(rows, finite=False),
    )
    for of_jax_alone in calls:
        with pytest.raises(AssertionError, match="JAX was asked"):
            of_jax_alone()
    monkeypatch.undo()
    close(policy(many), of_jax)
    assert np.abs(drawn - expected).max() > 0.01


def test_only_what_acts_is_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    step, population = load_population(folder)[1:][::-1]
    seeds = [one.seed for one in folder.config.members]
    extra = {"replay": np.arange(1000.0)}
    checkpoints.save_checkpoint(folder.checkpoints, step, population, seeds=seeds, extra=extra)
    read = list[str]()
    restored = checkpoints._restored

    def record(checkpointer: Any, path: Path, arrays: Any, *, partial: bool) -> Any:
        read.extend(arrays)
        return restored(checkpointer, path, arrays, partial=partial)

    monkeypatch.setattr(checkpoints, "_restored", record)
    loaded = load_policy(folder.path, INDEX)
    parts = {key.split(".")[1] for key in read}
    assert parts == {"policy", "config"}
    assert not any("optimizer" in key for key in read)
    read.clear()
    loaded.value(np.zeros(3))
    assert {key.split(".")[1] for key in read} == {"value", "critic", "config"}
    assert not any("optimizer" in key for key in read)
    # A replay buffer is not even looked at.
    (folder.checkpoints / str(step) / "extra.npz").write_bytes(b"damaged")
    close(load_policy(folder.path, INDEX)(np.zeros(3)), loaded(np.zeros(3)))
    with pytest.raises(InputError, match=r"extra\.npz is not as it was written"):
        load_population(folder)


def test_values_are_those_of_the_critic(policy: Policy, rows: np.ndarray) -> None:
    folder = RunFolder.open(OLD)
    state = member(load_population(folder).population, INDEX)
    scaled = jnp.asarray(scale(rows, policy.scaling))
    actions = policy(rows)
    close(policy.value(rows), state.value.network(scaled))
    q = state.critic.network(scaled, jnp.asarray(actions)).min(0)
    close(policy.q(rows, actions), q)
    close(policy.q(rows[3], actions[3]), q[3])
    assert policy.value(rows[3]).shape == ()
    assert policy.value(rows.reshape(4, 5, -1)).shape == (4, 5)
    held = Run.open(OLD).policies[INDEX]
    close(held.value(rows), policy.value(rows))
    close(held.q(rows, actions), q)


def test_values_are_in_the_data_s_unit_where_auto_chose_another(
    policy: Policy, rows: np.ndarray
) -> None:
    run = Run.open(OLD)
    config = run.config
    scaling = config.scaling._replace(rewards="auto", reward_scale=0.25, reward_shift=0.0)
    object.__setattr__(config, "scaling", scaling)
    close(run.policies[INDEX].value(rows), 4 * policy.value(rows))


def test_what_has_no_values_says_so(folder: RunFolder, policy: Policy, rows: np.ndarray) -> None:
    bare = Policy(policy.actor, policy.scaling, policy.actions)
    with pytest.raises(InputError, match="policy: it has no values: its agent has no critic, or"):
        bare.value(rows)
    with pytest.raises(InputError, match=r"the action has shape \(2,\); give an action for each"):
        policy.q(rows, np.zeros(2))
    checkpoints.save_checkpoint(folder.policies, 3, load_actors(folder))
    kept = load_policy(folder.path, INDEX, step=3)
    close(kept(rows), policy(rows))
    with pytest.raises(InputError, match="there is no checkpoint of step 3 any more, and so no cr"):
        kept.q(rows, kept(rows))


@pytest.mark.parametrize("name", AGENTS)
def test_the_values_of_every_agent_depend_on_its_networks_alone(name: str) -> None:
    algorithm = AGENTS[name]
    agent = algorithm.make(algorithm.config(**algorithm.defaults), 10)
    spec = spec_of(2, 1)
    if agent.backup is None:
        assert name == "bc"
        return
    shapes = jax.eval_shape(lambda: template(agent, spec, 2))
    needed = _of_values(spec, agent.backup, shapes)
    assert any(path.startswith(".critic.network") for path in needed)
    assert not any(".optimizer" in path or path in (".key", ".step") for path in needed)
    assert needed < set(_paths(shapes))


def pickled(policy: Policy) -> Policy:
    found = pickle.loads(pickle.dumps(policy))
    assert isinstance(found, Policy)
    return found


@pytest.mark.parametrize("load", [load_policy, lambda path, index: Run.open(path).policies[index]])
def test_it_can_be_pickled(load: Callable[..., Policy], rows: np.ndarray) -> None:
    policy = load(OLD, INDEX)
    for one in (pickled(policy), pickled(pickled(policy))):
        np.testing.assert_array_equal(one(rows), policy(rows))
        np.testing.assert_array_equal(one.flat(rows), policy.flat(rows))
        np.testing.assert_array_equal(one.value(rows), policy.value(rows))
        assert repr(one) == repr(policy)


def test_a_new_process_takes_the_pickle(policy: Policy, rows: np.ndarray) -> None:
    program = (
        "import pickle, sys; policy, rows = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(pickle.dumps([policy(rows[0]), policy.flat(rows)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((policy, rows)),
        capture_output=True,
        check=True,
        env={"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "PYTHONPATH": ":".join(sys.path)},
    )
    one, many = pickle.loads(done.stdout)
    assert one.dtype == many.dtype == np.float32
    close(one, policy(rows[0]))
    close(many, policy.flat(rows))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no process is forked here"
)
def test_a_forked_process_acts_without_jax(policy: Policy, rows: np.ndarray) -> None:
    expected = policy(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's, of every fork
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found = pool.apply_async(policy, (rows,)).get(60)
    np.testing.assert_array_equal(found, expected)


def test_threads_share_it(rows: np.ndarray) -> None:
    policy = load_policy(OLD, INDEX)
    expected = policy.flat(rows)

    def act(place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row = rows[place % len(rows)]
        return policy(row), policy.flat(rows), policy.value(row)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(act, range(100)))
    for place, (one, many, value) in enumerate(found):
        close(one, expected[place % len(rows)])
        np.testing.assert_array_equal(many, expected)
        close(value, policy.value(rows[place % len(rows)]))


@pytest.mark.parametrize(("flag", "value"), [("enable_x64", True), ("default_prng_impl", "rbg")])
def test_any_flag(flag: str, value: Any, policy: Policy, rows: np.ndarray) -> None:
    with getattr(jax, flag)(value):
        loaded = xql.load_policy(OLD, INDEX)
        np.testing.assert_array_equal(loaded(rows), policy(rows))
        np.testing.assert_array_equal(loaded.flat(rows), policy.flat(rows))
        np.testing.assert_array_equal(loaded.value(rows), policy.value(rows))


def test_how_they_show_themselves(policy: Policy) -> None:
    assert repr(policy) == (
        "Policy(network='GaussianPolicy', observation_size=3, actions='action size 1', step=4)"
    )
    run = Run.open(OLD)
    object.__setattr__(run.config.data, "name", "<b>log</b>")
    result = Result(
        {"beta": 0.5},
        "success",
        Summary(Interval(61.3, 55.0, 68.2, 4), "last of 2 evaluations (step 9)", 10),
        Summary(Interval(70.0, math.nan, math.nan, 1), "best over 2 evaluations", 1),
    )
    shown: tuple[tuple[Any, list[str]], ...] = (
        (
            result,
            [">β<", ">0.5<", ">61.3 [55.0, 68.2] % success, last of 2", "1 seed × 1 episode<"],
        ),
        (policy, ["GaussianPolicy", "action size 1"]),
        (run, ["&lt;b&gt;log", str(OLD)]),
        (line_data(), ['<td style="text-align:left">20, of 10 to 10 steps<', ">200<"]),
    )
    for one, words in shown:
        page = one._repr_html_()
        assert len(page) < 2000
        assert page.startswith("<table>")
        assert page.endswith("</table>")
        assert all(word in page for word in words)
