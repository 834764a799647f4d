"""The log of a greenhouse: a year of lettuce under a grower's rules, as a table of named columns.

The rules are those of `lettuce-greenhouse-gym`'s `GrowerHeuristic`: heat below a temperature, vent
above one and above a humidity, dose CO₂ in daylight. A real grower's settings are never the same
for long, and hands turn knobs: here the set-points are drawn anew every few days, and a slow
deviation is added to what the rules ask for. The log holds what the environment's own limits made
of it, and weather of `xql.envs.greenhouse.WITHHELD` in no row.
"""

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from xql.envs.greenhouse import CHANGES, EXTRA, LOGGED, SENSORS, STEPS, WITHHELD, Greenhouse
from xql.errors import InputError, require, require_seed
from xql.files import require_new, whole_file

EPISODES = 60
COLUMNS = ("season", "time", *SENSORS, *CHANGES, "reward", "harvested")

SET_POINTS: dict[str, tuple[float, float]] = {
    "temp_day": (11.0, 19.0),
    "temp_night": (8.0, 14.0),
    "day_radiation": (0.0, 100.0),
    "vent_deadband": (0.0, 5.0),
    "vent_temp_gain": (1.0, 3.0),
    "rh_max": (65.0, 90.0),
    "co2_target": (500.0, 1500.0),
    "co2_vent_cutoff": (0.0, 7.5),
}
"""The least and the largest value of each setting that is varied, around the package's own: °C,
W/m², °C, mm/s for a °C, %, ppm and mm/s. It leaves the others as the package has them."""
DAYS = 4
"""For which a grower keeps the set-points, on average."""
DEVIATION = 0.05
"""Standard deviation of what is added to the controls, as a share of their range."""
PERSISTENCE = 0.9
"""Correlation of the deviation with that of the half hour before."""


class Season(NamedTuple):
    """The rows of one season."""

    label: str
    times: list[str]
    """ISO 8601."""
    observations: Float[np.ndarray, "rows 14"]
    actions: Float[np.ndarray, "rows 3"]
    rewards: Float[np.ndarray, " rows"]
    harvested: bool
    """Whether the last row ends it; else the log is cut there."""


def start_days(episodes: int, seed: int) -> list[int]:
    """The days of `LOGGED` on which a log's seasons start; none twice before all were taken."""
    random = np.random.default_rng(seed)
    turns = math.ceil(episodes / len(LOGGED))
    return [int(day) for _ in range(turns) for day in random.permutation(LOGGED)][:episodes]


def play_season(env: Greenhouse, label: str, day: int, random: np.random.Generator) -> Season:
    """A season from planting to harvest, or to the first day that no log may hold."""
    package = require("lettuce_greenhouse_gym", EXTRA)
    house = env.house
    low, high = house.config.effective_control_bounds()
    observation, _ = env.reset(options={"start_day": day})
    controller: Any = None
    deviation, keeps = np.zeros(len(CHANGES)), 0
    times, observations, actions, rewards, harvested = [], [], [], [], False
    steps = STEPS if day >= WITHHELD[0] else min(STEPS, 48 * (WITHHELD[0] - day))
    for _ in range(steps):
        if keeps == 0:
            drawn = {name: random.uniform(*between) for name, between in SET_POINTS.items()}
            rules = package.baselines.GrowerRules(**drawn)
            controller = package.baselines.GrowerHeuristic(rules)
            controller.reset(house)
            keeps = int(random.geometric(1 / (48 * DAYS)))
        keeps -= 1
        shock = DEVIATION * math.sqrt(1 - PERSISTENCE**2) * random.standard_normal(len(CHANGES))
        deviation = PERSISTENCE * deviation + shock
        seen = house.observe(house.state, house.control, env.steps)
        asked = controller.control(seen, house) + deviation * (high - low)
        action = house.encode_control(np.clip(asked, low, high)).astype(np.float32)
        times.append(env.time.isoformat())
        observations.append(observation)
        actions.append(action)
        observation, reward, harvested, _, _ = env.step(action)
        rewards.append(reward)
    rows = np.array(observations), np.array(actions), np.array(rewards)
    return Season(label, times, *rows, harvested)


def collect(
    episodes: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[Season]:
    """Seasons in the order of their start days; each depends on the seed and its day's turn alone.

    Raises:
        MissingExtra: lettuce-greenhouse-gym is not installed.
    """
    env = Greenhouse()
    days = start_days(episodes, seed)
    for done, turn in enumerate(np.argsort(days, kind="stable")):
        random = np.random.default_rng([seed, int(turn)])
        yield play_season(env, f"S{done + 1:03d}", days[turn], random)
        if progress is not None:
            progress(done + 1, episodes)


def make_greenhouse(
    out: Path,
    *,
    episodes: int = EPISODES,
    seed: int = 0,
    missing: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write the log of a greenhouse as a CSV with the columns `COLUMNS`.

    The same arguments give the same bytes on the same machine and versions.

    Args:
        out: the file, which must not exist.
        episodes: seasons.
        seed: of the start days, the set-points and the deviations.
        missing: the share of the sensors' cells that are left empty; none are of the clock's.
        progress: called with (seasons made, wanted).

    Returns:
        How many rows it has, and how many seasons end with a harvest.

    Raises:
        InputError: the file exists or cannot be written, or a number is out of range.
        MissingExtra: lettuce-greenhouse-gym is not installed.
    """
    require_seed(seed)
    if not 1 <= episodes <= 100_000:
        hint = "give 1 to 100000"
        raise InputError(f"`episodes={episodes}`", where="greenhouse", hint=hint)
    if not 0 <= missing < 1:
        raise InputError(f"`missing={missing:g}`", where="greenhouse", hint="give a share below 1")
    if out.suffix != ".csv":
        raise InputError("it is no .csv file", where=str(out), hint="name it NAME.csv")
    require_new(out)
    require("lettuce_greenhouse_gym", EXTRA)
    rows = harvests = 0
    # The clock and the share of the season are not measured.
    measured = np.array([not name.startswith(("sensor_hour", "sensor_season")) for name in SENSORS])
    gaps = np.random.default_rng([seed, episodes, 1])
    with whole_file(out) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for season in collect(episodes, seed, progress):
            last = len(season.times) - 1
            empty = measured & (gaps.random(season.observations.shape) < missing)
            for row, time in enumerate(season.times):
                seen = zip(season.observations[row], empty[row], strict=True)
                table.writerow(
                    [
                        season.label,
                        time,
                        *("" if gone else f"{value:.6g}" for value, gone in seen),
                        *(f"{value:.6g}" for value in season.actions[row]),
                        f"{season.rewards[row]:.6g}",
                        int(season.harvested and row == last),
                    ]
                )
            rows += last + 1
            harvests += int(season.harvested)
    return rows, harvests
