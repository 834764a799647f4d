"""Train a goal-reaching ant with SAC on an open plane, and write it as a policy file.

`SHIPPED` is the default policy of AntMaze's data. `docs/data.md` has the command that made it and
its success rate.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

import xql
from xql.agents.policies import SquashedGaussianPolicy
from xql.envs.goal_ant import GOAL_ANT
from xql.errors import InputError
from xql.files import require_new, whole_file
from xql.runs.checkpoints import latest_step
from xql.runs.config import OnlineLoop
from xql.runs.folder import RunFolder
from xql.runs.policy import load_policy
from xql.training.online import train_online

SHIPPED = Path(__file__).parent / "goal_ant.npz"
STEPS = 250_000

_EVALUATE_EVERY = 25_000


def make_ant_policy(
    out: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    run: Path | None = None,
    step: int | None = None,
    home: Path | str = "runs",
    progress: bool = True,
) -> Path:
    """Train SAC on `GoalAnt`, and write its mean action as a policy file for AntMaze.

    Args:
        out: the .npz file, which must not exist.
        steps: environment steps, of two copies of the ant together.
        seed: of everything.
        run: a run on `GoalAnt` to take the policy from, and nothing is trained.
        step: of the run's policies, which one; the last where None.
        home: where the run that is trained here is kept, as ant-policy-sac-STEPS-SEED.
        progress: show a progress bar on standard error while SAC is trained.

    Returns:
        The run's folder.

    Raises:
        InputError: a file that exists or cannot be written, a run of something else, or numbers
            that cannot be used.
        MissingExtra: MuJoCo is not installed.
    """
    _check_out(out)
    if run is None:
        run = Path(home) / f"ant-policy-sac-{steps}-{seed}"
        if not run.exists():
            train_online(
                GOAL_ANT,
                agent="sac",
                steps=steps,
                seeds=[seed],
                out=run,
                # An update for every other step: the simulator is cheap beside one.
                loop=OnlineLoop(
                    environments=2,
                    update_to_data=0.5,
                    warmup=max(2, min(5_000, steps // 20)),
                    buffer=steps,
                ),
                evaluations=max(1, steps // _EVALUATE_EVERY),
                episodes=5,
                last_episodes=20,
                keep_policies=True,
                progress=progress,
                report=False,
            )
    write_ant_policy(run, out, step)
    return run


def write_ant_policy(run: Path, out: Path, step: int | None = None) -> None:
    """Write the mean action of a run's policy in the layout of `docs/data.md`.

    Raises:
        InputError: the file exists or cannot be written, or the run is unfinished, diverged, or not
            SAC's on `GoalAnt`.
    """
    _check_out(out)
    folder = RunFolder.open(run)
    config, done = folder.config, latest_step(folder.checkpoints) or 0
    if step is None and done < config.steps:
        raise InputError(
            f"its training stopped at step {done:,} of {config.steps:,}",
            where=str(run),
            hint=f"go on with it: xql resume {run}",
        )
    if folder.read_frozen():
        raise InputError("its training diverged", where=str(run), hint="take another run or seed")
    actor = load_policy(run, step=step).actor
    if config.environment != GOAL_ANT or not isinstance(actor, SquashedGaussianPolicy):
        raise InputError(
            f"this is a run of {config.agent} on {config.environment}",
            where=str(run),
            hint=f"give one that xql train online --env {GOAL_ANT} --agent sac has made",
        )
    *hidden, last = actor.mlp.layers
    actions = len(actor.low)
    arrays: dict[str, Any] = {}
    for number, layer in enumerate(hidden):
        arrays[f"fc{number}.weight"] = np.asarray(layer.weight).T
        arrays[f"fc{number}.bias"] = np.asarray(layer.bias)
    # The means alone: collecting adds noise of its own to the actions.
    arrays["last_fc.weight"] = np.asarray(last.weight)[:, :actions].T
    arrays["last_fc.bias"] = np.asarray(last.bias)[:actions]
    made = {
        "environment": GOAL_ANT,
        "agent": "sac",
        "seed": config.members[0].seed,
        "steps": config.steps if step is None else step,
        "loop": None if config.loop is None else dataclasses.asdict(config.loop),
        "xql": xql.__version__,
    }
    with whole_file(out, "policy") as draft, draft.open("wb") as file:
        np.savez_compressed(file, made_by=np.array(json.dumps(made)), **arrays)


def _check_out(out: Path) -> None:
    if out.suffix != ".npz":
        raise InputError("a policy file ends in .npz", where=str(out), hint="name it so")
    require_new(out)
