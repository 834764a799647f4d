"""Record one policy of a run as an mp4."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xql.envs.given import Given
from xql.envs.make import check_fits, make_environment
from xql.errors import require, require_seed
from xql.evaluation.rollout import EpisodeResult
from xql.evaluation.video import record
from xql.files import require_new
from xql.runs.checkpoints import latest_step
from xql.runs.folder import RunFolder
from xql.runs.policy import load_policy

SIZE = (400, 300)
"""Width and height in pixels, where the environment lets us choose."""


def require_film(run: Path | str, path: Path | None, *, index: int) -> None:
    """Check, before any work, the member and the place of a film.

    Raises:
        InputError: no run, no such member, or nothing can be made at `path`.
        MissingExtra: the extra `video` is not installed.
    """
    RunFolder.open(Path(run)).config.require_member(index, str(run))
    if path is not None:
        require_new(path)
    require("av", "video")


def film_run(
    run: Path | str,
    path: Path | None = None,
    *,
    index: int = 0,
    episodes: int = 1,
    seed: int = 10_000,
    env: Given | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_limit: int | None = None,
    label: str | None = None,
    trust: Sequence[str] = (),
    step: int | None = None,
) -> tuple[Path, list[EpisodeResult]]:
    """Record a policy of a run.

    Args:
        run: the run's folder.
        path: the mp4; without it video-STEP.mp4 in the run's folder, or the first video-STEP-N.mp4
            that is free.
        index: which member, in the order of config.yaml.
        episodes: how many, one after another.
        seed: the first one's; the default is that of training's own evaluations.
        env, env_kwargs, episode_limit: as `xql.training.evaluate.evaluate_run` takes them. What is
            given as an instance must have been made with render_mode="rgb_array".
        label: what to write in the frame; the agent's name without it.
        trust: packages and ids of environments that the run may name besides those of
            `xql.envs.trusted.PACKAGES`.
        step: of the checkpoint; the latest where None.

    Returns:
        The video's path, and the result of each of its episodes.

    Raises:
        InputError: no run, no checkpoint, no such member, no environment or none that is
            trusted and can be drawn here; or `path` exists.
        MissingExtra: the extra `video` is not installed.
    """
    require_film(run, path, index=index)
    folder = RunFolder.open(Path(run))
    require_seed(seed)
    config = folder.config
    environment = config.require_environment(
        str(run), env, trust, env_kwargs=env_kwargs, limit=episode_limit
    )
    policy = load_policy(run, index, step)
    data = config.data
    keys = data.observation_keys
    probe = make_environment(environment, keys=keys)
    try:
        check_fits(probe, data.observation_size, data.actions, data.name)
    finally:
        probe.close()
    path = path or _free(folder.path / f"video-{step or latest_step(folder.checkpoints)}.mp4")
    results = record(
        lambda: make_environment(environment, keys=keys, picture=SIZE),
        policy.flat,
        path,
        seed=seed,
        episodes=episodes,
        label=config.agent if label is None else label,
        stop_at_success=config.evaluation.stop_at_success,
    )
    return path, results


def _free(path: Path) -> Path:
    """`path`, or the first of its name with -2, -3, … that is free."""
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
