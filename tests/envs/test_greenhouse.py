"""The greenhouse: its numbers by hand, the package's own benchmark, and days kept apart."""

import datetime
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from xql.envs.greenhouse import (
    CHANGES,
    GREENHOUSE,
    HELD_OUT,
    LOGGED,
    SEASON,
    SENSORS,
    STEPS,
    WITHHELD,
    Greenhouse,
)
from xql.envs.make import make_environment
from xql.errors import InputError

package = pytest.importorskip(
    "lettuce_greenhouse_gym", reason="the extra greenhouse is not installed"
)


@pytest.fixture(scope="module")
def env() -> Greenhouse:
    return Greenhouse()


def test_the_growers_rule_returns_what_its_package_says(env: Greenhouse) -> None:
    rule = package.baselines.GrowerHeuristic()
    env.reset(seed=0)
    rule.reset(env.house)
    total, ends = 0.0, []
    for _ in range(STEPS):
        seen = env.house.observe(env.house.state, env.house.control, env.steps)
        action = env.house.encode_control(rule.control(seen, env.house))
        observation, reward, *end, _ = env.step(action)
        total += reward
        ends.append(end)
    # Its README: a return of −4.35 in the season from day 40.
    assert env.day == 40 and total == pytest.approx(-4.35, abs=0.005)
    assert ends == [[False, False]] * (STEPS - 1) + [[True, False]]
    assert observation[SENSORS.index("sensor_season_share")] == 1.0
    assert env.time == datetime.datetime(2014, 3, 21)


def test_an_observation_and_an_action_by_hand(env: Greenhouse) -> None:
    first, info = env.reset(options={"start_day": 100})
    seen = dict(zip(SENSORS, first.tolist(), strict=True))
    assert info == {"start_day": 100} and env.time == datetime.datetime(2014, 4, 10)
    # The package's transplant: 0.0035 kg/m² at 15 °C, heated with 50 of 150 W/m².
    assert seen["sensor_crop_g_m2"] == pytest.approx(3.5)
    assert seen["sensor_temp_c"] == 15 and seen["sensor_heating_pct"] == pytest.approx(100 / 3)
    # Outside: in April, at midnight. 400 ppm of CO₂ weigh 0.75 g/m³.
    assert seen["sensor_sun_w_m2"] == 0 and -5 < seen["sensor_outside_temp_c"] < 20
    assert 0.7 < seen["sensor_outside_co2_g_m3"] < 1.2
    assert 2 < seen["sensor_outside_vapour_g_m3"] < 15
    assert (seen["sensor_hour_sin"], seen["sensor_hour_cos"]) == (0, 1)

    action = dict.fromkeys(CHANGES, 0.0) | {"change_vent": 0.25, "change_heating": -9.0}
    second, reward, _, _, parts = env.step(np.array(list(action.values())))
    seen = dict(zip(SENSORS, second.tolist(), strict=True))
    assert seen["sensor_vent_pct"] == 2.5 and seen["sensor_dosing_pct"] == 0
    assert seen["sensor_heating_pct"] == pytest.approx(100 / 3 - 10)  # at most
    assert seen["sensor_season_share"] == pytest.approx(1 / STEPS)
    assert seen["sensor_hour_sin"] == pytest.approx(np.sin(2 * np.pi / 48))
    gains = parts["revenue"] - parts["energy_cost"] - parts["co2_cost"] - parts["penalty"]
    assert reward == pytest.approx(gains)


def test_consecutive_seeds_take_one_day_after_the_other(env: Greenhouse) -> None:
    days = [env.reset(seed=seed)[1]["start_day"] for seed in range(10_000, 10_000 + len(HELD_OUT))]
    assert sorted(days) == list(HELD_OUT)
    some = Greenhouse(days=[50, 240])
    assert [some.reset(seed=seed)[1]["start_day"] for seed in (6, 7)] == [50, 240]
    some.reset(seed=3)
    assert {some.reset()[1]["start_day"] for _ in range(20)} == {50, 240}


def test_no_day_of_an_evaluation_is_in_a_log() -> None:
    evaluated = {day + later for day in HELD_OUT for later in range(SEASON)}
    assert evaluated == set(WITHHELD)
    for start in LOGGED:
        season = set(range(start, start + SEASON))
        assert season.isdisjoint(evaluated) or start < WITHHELD[0] < start + SEASON


@pytest.mark.parametrize("days", [[], [9], [294], ["40"], [float("nan")]])
def test_days_without_a_season_are_refused(days: Any) -> None:
    with pytest.raises(InputError, match=r"^xql/Greenhouse-v0: no season can start on day"):
        Greenhouse(days=days)


def test_it_is_found_by_its_name() -> None:
    env = make_environment(GREENHOUSE, days=[100])
    assert env.observation_space.shape == (len(SENSORS),)
    assert env.spec is not None and env.spec.max_episode_steps == STEPS
    assert env.reset(seed=5)[1] == {"start_day": 100}


def test_gymnasium_finds_nothing_wrong() -> None:
    with warnings.catch_warnings():
        # Bounds of the observation would be made up.
        warnings.filterwarnings("ignore", "(?s).*Box observation space (min|max)imum value is")
        check_env(make_environment(GREENHOUSE).unwrapped, skip_render_check=True)
