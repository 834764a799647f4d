"""One declaration per hyperparameter: what a field says, and what follows from it."""

import dataclasses
import logging
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from worlds import first_state, one_update, random_batch, spec_of
from xql.agents import AGENTS, SACConfig, TD3Config, XQLConfig, configure, make_xql
from xql.agents.hyperparameters import (
    DISCOUNT,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    Hyperparameter,
    Range,
    Swept,
    agent_config,
    check_range,
    from_dict,
    hyperparameters,
    inactive,
    static,
    swept,
    to_dict,
)
from xql.errors import InputError


@agent_config
class Small:
    """A configuration of three fields."""

    rate: Swept = swept(default=0.5, doc="A rate.", range=FRACTION)
    width: int = static(default=8, doc="A width.", range=POSITIVE)
    shape: tuple[int, ...] = static(default=(4, 4), doc="Widths.", range=POSITIVE)


def test_swept_fields_are_leaves_and_static_fields_are_structure() -> None:
    config = Small()
    assert jax.tree.leaves(config) == [0.5]
    structure: Any = jax.tree.structure(config)
    assert structure == jax.tree.structure(Small(rate=0.1))
    assert structure != jax.tree.structure(Small(width=9))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, config)
    assert doubled == Small(rate=1.0)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Small().rate = 1.0  # type: ignore[misc]


def test_along_a_population_a_swept_field_is_an_array() -> None:
    stacked = jax.tree.map(lambda *rates: jnp.array(rates), Small(), Small(rate=0.1))
    np.testing.assert_allclose(stacked.rate, [0.5, 0.1])
    assert (stacked.width, stacked.shape) == (8, (4, 4))
    doubled = jax.vmap(lambda one: one.rate * one.width)(stacked)
    np.testing.assert_allclose(doubled, [4.0, 0.8])


def test_static_fields_are_known_while_compiling() -> None:
    @jax.jit
    def area(config: Small) -> Array:
        return jnp.ones(config.shape).sum() * config.rate

    assert float(area(Small())) == 8.0


def test_hyperparameters_lists_what_each_field_says_of_itself_in_order() -> None:
    listed = hyperparameters(Small)
    assert listed == hyperparameters(Small())
    assert list(listed) == ["rate", "width", "shape"]
    assert listed["rate"] == Hyperparameter(
        "rate", "number", 0.5, True, FRACTION, required=False, doc="A rate."
    )
    assert listed["width"] == Hyperparameter(
        "width", "int", 8, False, POSITIVE, required=False, doc="A width."
    )
    assert listed["shape"].type == "tuple[int, ...]"
    types = {name: one.type for name, one in hyperparameters(XQLConfig).items()}
    assert types["max_gradient_norm"] == "float or None"
    assert types["critic_loss"] == "'squared' or 'huber'"
    assert types["value_layer_norm"] == "bool"


@pytest.mark.parametrize("agent", AGENTS)
def test_every_field_is_documented_and_its_default_is_in_range(agent: str) -> None:
    algorithm = AGENTS[agent]
    for name, one in hyperparameters(algorithm.config).items():
        assert re.fullmatch(r"[^\n]{2,}[^.]\.", one.doc), (name, one.doc)
        # An agent's default goes through the same checks as a value that a user gives.
        default = algorithm.defaults.get(name, one.default)
        plain = list(default) if isinstance(default, tuple) else default
        assert getattr(configure(agent, {name: plain}), name) == default
        if one.swept:
            assert isinstance(one.default, float) and one.range.holds(one.default)


@pytest.mark.parametrize("agent", AGENTS)
def test_what_sweeps_is_every_learning_rate_and_every_number_of_the_equations(agent: str) -> None:
    listed = hyperparameters(AGENTS[agent].config)
    for name, one in listed.items():
        if name.endswith("learning_rate") or name in ("beta", "discount", "polyak", "penalty"):
            assert one.swept, name
        if name in ("hidden", "batch_size", "critics"):
            assert not one.swept, name
    # Only β is in somebody's unit of return with no default that could serve all of them.
    assert {name for name, one in listed.items() if one.required} <= {"beta"}


@pytest.mark.parametrize(
    ("range", "inside", "outside", "text"),
    [
        (NON_NEGATIVE, (0.0, 1e9), (-1e-9, float("inf"), float("nan")), "at least 0"),
        (POSITIVE, (1e-9, 1e9), (0.0, -1.0), "a number above 0"),
        (FRACTION, (1e-9, 1.0), (0.0, 1.1), "a number above 0 and at most 1"),
        (DISCOUNT, (0.0, 1.0), (-0.1, 1.1), "at least 0 and at most 1"),
        (Range(2, even=True), (2, 8), (0, 3), "an even number, at least 2"),
    ],
)
def test_a_range_holds_its_numbers_and_says_so(
    range: Range, inside: tuple[float, ...], outside: tuple[float, ...], text: str
) -> None:
    assert all(range.holds(number) for number in inside)
    assert not any(range.holds(number) for number in outside)
    assert range.text == text
    check_range("rate", inside, range)
    for number in outside:
        with pytest.raises(InputError) as refusal:
            check_range("rate", number, range)
        assert str(refusal.value) == f"option rate cannot be {number!r}; give {text}"


def test_every_number_of_a_tuple_is_checked_and_what_is_no_number_is_not() -> None:
    with pytest.raises(InputError, match=r"option shape cannot be \(4, 0\)"):
        check_range("shape", (4, 0), POSITIVE)
    check_range("layer_norm", False, POSITIVE)
    check_range("loss", "linear", POSITIVE)
    check_range("limit", None, POSITIVE)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rat": 0.1}, "unknown option 'rat' of agent small; did you mean 'rate'?"),
        ({"subse": "all"}, "did you mean 'subset'?"),
        ({"zzzz": 1}, "choose from rate, shape, subset, width"),
        ({"rate": "high"}, "option rate cannot be 'high'; it takes float"),
        ({"rate": True}, "option rate cannot be True; it takes float"),
        ({"rate": 2.0}, "option rate cannot be 2.0; give a number above 0 and at most 1"),
        ({"width": 2.5}, "option width cannot be 2.5; it takes int"),
        ({"width": -1}, "option width cannot be -1; give a number above 0"),
        ({"shape": 4}, "option shape cannot be 4; it takes tuple[int, ...]"),
        ({"shape": []}, "option shape cannot be []"),
        ({"shape": [4, "a"]}, "option shape cannot be 'a'; it takes int"),
        ({"shape": [4, 0]}, "option shape cannot be (4, 0); give a number above 0"),
    ],
)
def test_from_dict_refuses_what_it_cannot_use_in_one_line(
    values: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError) as refusal:
        from_dict(Small, values, "agent small", others=("subset",))
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_from_dict_takes_what_yaml_gives() -> None:
    found = from_dict(Small, {"rate": 1, "shape": [2]}, "agent small", defaults={"width": 3})
    assert found == Small(rate=1.0, width=3, shape=(2,))
    assert isinstance(found.rate, float) and isinstance(found.shape, tuple)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_configuration_survives_a_round_trip(agent: str) -> None:
    config = configure(agent, {})
    assert configure(agent, to_dict(config)) == config


def test_beta_is_inactive_exactly_where_no_loss_has_it() -> None:
    without = [SACConfig(), SACConfig(value="soft"), TD3Config()]
    with_beta = [SACConfig(value="gumbel"), TD3Config(loss="linear"), XQLConfig()]
    for config in without:
        assert "beta" in inactive(config)
        assert "beta" not in to_dict(config)
    for config in with_beta:
        assert "beta" not in inactive(config)
        assert to_dict(config)["beta"] == 1.0
    assert to_dict(Small()) == {"rate": 0.5, "width": 8, "shape": (4, 4)}


def test_configurations_that_differ_in_swept_values_share_one_compilation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec, base = spec_of(2, 1), XQLConfig(hidden=(), batch_size=2)
    batch = random_batch(2, spec)

    fresh = first_state(make_xql(base, 10), spec)

    def compiled(**changes: Any) -> int:
        agent = make_xql(dataclasses.replace(base, **changes), 10)
        state = fresh._replace(config=jax.tree.map(jnp.float32, agent.config))
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            one_update(agent, state, batch)
        names = [record.getMessage() for record in caplog.records]
        return sum("Compiling jit(_one_update)" in name for name in names)

    assert compiled() == 1
    for name, one in hyperparameters(base).items():
        if one.swept:
            assert compiled(**{name: 0.75 * one.default}) == 0, name
    assert compiled(critic_loss="squared") == 1
