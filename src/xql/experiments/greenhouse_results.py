"""The greenhouse, day by day: `python -m xql.experiments.greenhouse_results --data LOG.npz`.

XQL, IQL and BC learn from a log of `xql data make greenhouse`, 4 seeds each (the table `greenhouse`
of `offline_results`), and play the seasons of `HELD_OUT`, whose weather the log does not hold. The
grower's rule plays them too, and the behaviour policy, which is the rule with the varied set-points
of the log; and the package's planner, which knows the model and the weather to come, those of
--planner: it takes minutes for each. What was played is kept in OUT/greenhouse, and
is not played again. days.md is drawn from that alone, without the simulator.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from xql.collect.greenhouse import play_season
from xql.envs.greenhouse import EXTRA, HELD_OUT, Greenhouse
from xql.errors import require
from xql.evaluation.statistics import format_interval, mean, stratified_bootstrap
from xql.experiments import offline_results
from xql.experiments.command import as_command
from xql.files import write_text
from xql.training.evaluate import EVALUATION_SEED

TABLE = "greenhouse"
BEHAVIOUR_SEED = 1000
"""Of the set-points and deviations in the held-out seasons; no log has it."""
Returns = dict[int, float]
"""Of a season, by the day on which it starts."""


def play(kind: str, days: Iterable[int]) -> Returns:
    """What "rule", "behaviour" or "planner" returns in the seasons from some days.

    Raises:
        MissingExtra: lettuce-greenhouse-gym is not installed.
    """
    env = Greenhouse()
    if kind == "behaviour":
        draws = {day: np.random.default_rng([BEHAVIOUR_SEED, day]) for day in days}
        seasons = {day: play_season(env, "", day, draws[day]) for day in draws}
        return {day: float(season.rewards.sum()) for day, season in seasons.items()}
    baselines: Any = require("lettuce_greenhouse_gym.baselines", EXTRA)
    made = {"rule": baselines.GrowerHeuristic, "planner": baselines.NominalMPC}[kind]
    house = env.house
    logs = {day: baselines.run_episode(house, made(), options={"start_day": day}) for day in days}
    return {day: float(log.total_return) for day, log in logs.items()}


def read_returns(path: Path) -> Returns:
    """What `write_returns` wrote; nothing where it did not."""
    if not path.exists():
        return {}
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {int(row["day"]): float(row["return"]) for row in rows}


def write_returns(path: Path, returns: Returns) -> None:
    """Write them as a table of two columns."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["day", "return"])
    table.writerows([day, f"{returns[day]:.4f}"] for day in sorted(returns))
    write_text(path, text.getvalue())


def returns_of(entry: offline_results.Entry) -> Float64[np.ndarray, "seeds days"]:
    """Of each seed of a cell at the last step, in the order of `HELD_OUT`."""
    rows = entry.run.read_evaluations()
    end = max(row.step for row in rows)
    found = np.full((len({row.member for row in rows}), len(HELD_OUT)), np.nan)
    for row in rows:
        if row.step == end:
            place = (EVALUATION_SEED + row.episode) % len(HELD_OUT)
            found[row.member, place] = row.episode_return
    return found


def markdown(home: Path) -> str:
    """days.md: each day's return, and how far each method is ahead of the rule."""
    played = {kind: read_returns(home / f"{kind}.csv") for kind in ("rule", "behaviour")}
    planner = read_returns(home / "planner.csv")
    entries = offline_results.entries_of(TABLE, home)
    each = {kind: np.array([values[day] for day in HELD_OUT]) for kind, values in played.items()}
    rules = each["rule"]
    each |= {one.name: returns_of(one).mean(axis=0) for one in entries}
    lines = [
        "# greenhouse, by day",
        "",
        "`python -m xql.experiments.greenhouse_results --data LOG.npz --planner "
        f"{' '.join(map(str, sorted(planner)))}`",
        "",
        "Returns of the seasons from each held-out day (day 40 is 9 February 2014): of the",
        "grower's rule; of the behaviour policy, the rule with the log's varied set-points; of",
        "each method the mean over 4 seeds at the last step; and of the planner, which knows the",
        "model, the state and the weather to come.",
        "",
        f"| day | {' | '.join(each)} | planner |",
        "|" + "---|" * (len(each) + 2),
    ]
    for place, day in enumerate(HELD_OUT):
        cells = [f"{values[place]:.2f}" for values in each.values()]
        planned = f"{planner[day]:.2f}" if day in planner else ""
        lines.append(f"| {day} | {' | '.join(cells)} | {planned} |")
    means = [f"{values.mean():.2f}" for values in each.values()]
    lines.append(f"| mean | {' | '.join(means)} | |")
    lines += [
        "",
        "Ahead of the rule, with the 95 % bootstrap interval of the mean over days. The days are",
        "not independent: seasons of neighbouring days share most of their weather. Share of the",
        "gap: of that between rule and planner, on the days that the planner played.",
        "",
        "| | ahead of the rule | days ahead | share of the gap |",
        "|---|---|---|---|",
    ]
    known = [place for place, day in enumerate(HELD_OUT) if day in planner]
    gap = np.mean([planner[HELD_OUT[place]] - rules[place] for place in known]) if known else np.nan
    for name, values in each.items():
        if name == "rule":
            continue
        ahead = values - rules
        interval = format_interval(stratified_bootstrap(ahead[:, None], mean), digits=2)
        share = f"{100 * ahead[known].mean() / gap:.0f} %" if known else ""
        lines.append(f"| {name} | {interval} | {(ahead > 0).sum()} of {len(ahead)} | {share} |")
    return "\n".join([*lines, ""])


def main(
    data: Path | None = None,
    planner: tuple[int, ...] = (),
    train: bool = True,
    out: Path = Path("results"),
) -> None:
    """Train what is missing, play what is missing, and write the tables.

    Args:
        data: the converted log.
        planner: held-out days for the planner.
        train: train what is missing; without, only write what is there.
        out: the folder; all goes to the folder greenhouse in there.
    """
    home = out / TABLE
    offline_results.main(TABLE, data=None if data is None else str(data), train=train, out=out)
    for kind, days in (("rule", HELD_OUT), ("behaviour", HELD_OUT), ("planner", planner)):
        played = read_returns(home / f"{kind}.csv")
        for day in days:
            if day not in played:
                played |= play(kind, [day])
                write_returns(home / f"{kind}.csv", played)
    write_text(home / "days.md", markdown(home))


if __name__ == "__main__":
    as_command(main, "greenhouse_results")
