"""A lettuce greenhouse under measured weather: `lettuce-greenhouse-gym`, as a logger would see it.

The package (Apache-2.0) simulates van Henten's model of 1994 with the weather that was measured in
Bleiswijk in the Netherlands from 10 January to 29 November 2014. Rewards, rate limits and the
length of a season are its benchmark's, `LettuceGreenhouse-v0`. What differs:

- the numbers of an observation have names and the units of instruments, and those of an action
  names;
- the hour of the day is observed, which every climate computer knows;
- a season starts on a day of `HELD_OUT`, and `LOGGED` has the others: no weather is in both.
"""

import datetime
import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from jaxtyping import Float32

from xql.errors import InputError, brief, require

GREENHOUSE = "xql/Greenhouse-v0"
EXTRA = "greenhouse"

SENSORS = (
    "sensor_crop_g_m2",
    "sensor_co2_ppm",
    "sensor_temp_c",
    "sensor_humidity_pct",
    "sensor_dosing_pct",
    "sensor_vent_pct",
    "sensor_heating_pct",
    "sensor_season_share",
    "sensor_sun_w_m2",
    "sensor_outside_co2_g_m3",
    "sensor_outside_temp_c",
    "sensor_outside_vapour_g_m3",
    "sensor_hour_sin",
    "sensor_hour_cos",
)
"""What an observation holds, in this order: the dry weight of the crop and the climate inside, the
last settings in per cent of their range (1.2 mg/m²/s of CO₂, 7.5 mm/s of air, 150 W/m² of heat),
the share of the season that is over, the weather and the hour."""

CHANGES = ("change_dosing", "change_vent", "change_heating")
"""What an action holds: how much more CO₂, ventilation and heating than in the last half hour. 1 is
the fastest that the benchmark allows, 10 per cent of the range."""

_GRAMS = 1e3
"""The package weighs in kilograms."""

STEPS = 1920
"""Of half an hour: 40 days from planting to harvest."""
SEASON = 40
"""Days."""

HELD_OUT = tuple(range(40, 60))
"""Days of the year 2014 on which an evaluation's seasons start: 9 February, the benchmark's day, to
28 February. Their weather ends on day 98."""
WITHHELD = range(HELD_OUT[0], HELD_OUT[-1] + SEASON)
"""Days whose weather no log may hold."""
LOGGED = (*range(10, 30), *range(WITHHELD.stop, 294))
"""Days on which a log's seasons start. Those before `WITHHELD` are cut where it begins."""

_YEAR = datetime.datetime(2014, 1, 1)

Observation = Float32[np.ndarray, "14"]


class Greenhouse(gymnasium.Env[Observation, np.ndarray]):
    """A season of lettuce, from planting to harvest, in steps of half an hour.

    An action changes the CO₂ dosing, the ventilation and the heating. The reward is the value of
    the growth less the cost of heat and CO₂, in euro/m², less a penalty outside of 10 to 20 °C, 500
    to 1600 ppm and up to 80 % humidity. After 1920 steps the crop is harvested, which is a
    termination. Nothing is random but the day of the start.

    Attributes:
        days: on which a season may start, by day of the year.
        day: on which this one started.
        steps: since then.
        house: the package's environment.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, days: Sequence[Any] | None = None) -> None:
        """Make it.

        Args:
            days: whole numbers, on which a season may start, from 10 to 293 (2014); `HELD_OUT`
                where None. The seed s starts on day number s modulo how many there are, so that
                consecutive seeds take one after the other.

        Raises:
            InputError: a day on which no season of 40 days with measured weather can start.
            MissingExtra: lettuce-greenhouse-gym is not installed.
        """
        package = require("lettuce_greenhouse_gym", EXTRA)
        self.days: tuple[int, ...] = tuple(HELD_OUT if days is None else days)
        for day in self.days or (None,):
            if type(day) is not int or not 10 <= day <= 293:
                hint = "give `days` of the year 2014, whole numbers from 10 to 293"
                raise InputError(
                    f"no season can start on day {brief(day)}", where=GREENHOUSE, hint=hint
                )
        self.house = package.LettuceGreenhouseEnv()
        self.day, self.steps = self.days[0], 0
        _, most = self.house.config.effective_control_bounds()
        percent = 100 / most
        self._units = np.array([_GRAMS, 1, 1, 1, *percent, 1, 1, _GRAMS, 1, _GRAMS])
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(SENSORS),), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(CHANGES),), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Plant a crop on the seed's day, or without a seed on a random one of `days`.

        Args:
            seed: see there.
            options: `{"start_day": 40}` names any day.
        """
        super().reset(seed=seed)
        number = int(self.np_random.integers(len(self.days))) if seed is None else seed
        self.day = int((options or {}).get("start_day", self.days[number % len(self.days)]))
        self.steps = 0
        observed, _ = self.house.reset(options={"start_day": self.day})
        return self._named(observed), {"start_day": self.day}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Half an hour with these changes; the info has what the reward is made of."""
        action = np.asarray(action, np.float64)
        observed, reward, terminated, truncated, info = self.house.step(action)
        self.steps += 1
        parts = {name: info[name] for name in ("revenue", "energy_cost", "co2_cost", "penalty")}
        return self._named(observed), reward, terminated, truncated, parts

    @property
    def time(self) -> datetime.datetime:
        """The date and the time of day, by the weather's clock."""
        return _YEAR + datetime.timedelta(days=self.day - 1, minutes=30 * self.steps)

    def _named(self, observed: Float32[np.ndarray, "12"]) -> Observation:
        time = self.time
        angle = 2 * math.pi * (time.hour + time.minute / 60) / 24
        clock = [math.sin(angle), math.cos(angle)]
        return np.concatenate([observed * self._units, clock]).astype(np.float32)


def greenhouse_spec() -> EnvSpec:
    """The specification of `GREENHOUSE`."""
    return EnvSpec(
        GREENHOUSE, entry_point="xql.envs.greenhouse:Greenhouse", max_episode_steps=STEPS
    )
