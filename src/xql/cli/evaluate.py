"""`xql evaluate RUN`: evaluate a run's policies again."""

from pathlib import Path
from typing import Any

import tyro

from xql.cli.console import plain_console, print_words, result, sign_of_life
from xql.cli.train import Assignments, Trust, parse_settings


def evaluate(
    run: tyro.conf.Positional[Path],
    episodes: int = 100,
    seed: int = 10_000,
    env: str | None = None,
    env_arg: Assignments = (),
    episode_limit: int | None = None,
    step: int | None = None,
    video: bool = False,
    video_out: Path | None = None,
    video_episodes: int = 1,
    member: int = 0,
    trust_environment: Trust = (),
) -> None:
    """Evaluate every policy of a run in its environment and print the scores.

    Args:
        run: the run's folder.
        episodes: episodes for each member.
        seed: the first episode's seed; training evaluates from the default one.
        env: the environment to play in; the run's own without it. Your own as module:Env-v0, or as
            module:Class.
        env_arg: arguments of the environment that --env names, such as size=3.
        episode_limit: steps after which an episode is truncated, in place of the environment's
            own limit.
        step: of the checkpoint; the latest without it.
        video: record the first of these episodes as a video, after the scores.
        video_out: the mp4; video-STEP.mp4 in the run's folder without it.
        video_episodes: how many to record, one after another.
        member: whose policy to record.
        trust_environment: installed packages, or ids, whose environments the run may name besides
            Gymnasium's, Gymnasium-Robotics' and xql's own.
    """
    sign_of_life(f"evaluating {run}: {episodes} episodes for each member")
    import numpy as np
    from rich.table import Table

    from xql.evaluation.statistics import format_interval, format_number
    from xql.runs.config import RunConfig
    from xql.runs.summary import SYMBOLS, UNITS, quantity_of, results, value_of
    from xql.training.evaluate import evaluate_run

    filmed = video or video_out is not None
    if filmed:
        from xql.reports.film import film_run, require_film

        require_film(run, video_out, index=member)
    film, trust = member, sum(trust_environment, ())
    world: Any = {
        "env": env,
        "env_kwargs": parse_settings(env_arg, "--env-arg", "size=3"),
        "episode_limit": episode_limit,
        "trust": trust,
    }
    rows = evaluate_run(run, episodes=episodes, seed=seed, step=step, **world)
    quantity = quantity_of(rows)
    members = RunConfig.load(run).members
    swept = list(members[0].changes)
    names = [SYMBOLS.get(name, name) for name in swept]
    measures = dict.fromkeys(("return", quantity))
    table = Table("member", "seed", *names, *(UNITS[one] for one in measures), "length", box=None)
    for member in sorted({row.member for row in rows}):
        own = [row for row in rows if row.member == member]
        table.add_row(
            str(member),
            str(own[0].seed),
            *(f"{members[member].changes[name]:g}" for name in swept),
            *(
                format_number(float(np.mean([value_of(row, one) for row in own])))
                for one in measures
            ),
            f"{np.mean([row.length for row in own]):.0f}",
        )
    plain_console().print(table)
    found = results(rows, members)
    for one in found:
        head = f"{one.label}: " if one.changes else ""
        print_words(
            f"{head}{format_interval(one.last.interval)} {UNITS[quantity]} at step "
            f"{rows[0].step}, {one.last.sample}"
        )
    films: list[str] = []
    if filmed:
        path, played = film_run(
            run,
            video_out,
            index=film,
            episodes=video_episodes,
            seed=seed,
            step=step,
            **world,
        )
        films.append(str(path))
        print(f"{path}: returns {', '.join(format_number(one.episode_return) for one in played)}")
    result(
        run=str(run),
        step=rows[0].step,
        results=[one.as_plain() for one in found],
        episodes=[row._asdict() for row in rows],
        videos=films,
    )
