"""Two runs of one task beside each other, as the paper's page shows X-TD3 beside TD3."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from xql.errors import InputError
from xql.evaluation.rollout import EpisodeResult
from xql.evaluation.video import side_by_side
from xql.files import require_new
from xql.reports.film import film_run
from xql.runs.folder import RunFolder


def videos(
    left: Path,
    right: Path,
    out: Path,
    *,
    member: int = 0,
    episodes: int = 1,
    seed: int = 10_000,
    trust: Sequence[str] = (),
) -> tuple[list[EpisodeResult], list[EpisodeResult]]:
    """Record a policy of each run from the same initial states, side by side.

    Args:
        left: a run's folder.
        right: another run's, of the same environment.
        out: the mp4; nothing may be there.
        member: which member of each run.
        episodes: how many, one after another.
        seed: the first one's.
        trust: as `film_run` takes it.

    Returns:
        The results of both.

    Raises:
        InputError: as `film_run` says; or the runs have different environments.
        MissingExtra: the extra `video` is not installed.
    """
    require_new(out)
    configs = [RunFolder.open(run).config for run in (left, right)]
    environments = [config.environment for config in configs]
    if environments[0] != environments[1]:
        raise InputError(
            f"the left run played {environments[0]}, the right one {environments[1]}",
            hint="take two runs of one task",
        )
    agents = [config.agent for config in configs]
    # Two runs of one agent, such as TD3 with and without its second critic, go by their folders.
    labels = agents if agents[0] != agents[1] else [left.name, right.name]
    with tempfile.TemporaryDirectory() as folder:
        films, results = [], []
        for run, label, side in zip((left, right), labels, ("left", "right"), strict=True):
            film, played = film_run(
                run,
                Path(folder) / f"{side}.mp4",
                index=member,
                episodes=episodes,
                seed=seed,
                label=label,
                trust=trust,
            )
            films.append(film)
            results.append(played)
        side_by_side(films[0], films[1], out)
    return results[0], results[1]
