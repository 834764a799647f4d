"""Benchmark data from online runs, after D4RL's recipe (Fu et al. 2020, arXiv 2004.07219).

Of MuJoCo's tasks, and of any other environment, also one of discrete actions.

One run of SAC, or of any online agent, gives every kind:

    random         uniformly random actions; needs no run
    medium         the first policy to come a third of the way from random actions to the last one
    medium-replay  the run's replay buffer at that time, in order
    expert         the run's last policy
    medium-expert  half medium, half expert

Policies draw their actions, as in training. A score is 0 at the return of random
actions and 100 at that of the run's own last policy: it is no D4RL score, whose references belong
to other simulators, as these data are not D4RL's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray, PyTree

from xql.collect.trained import (
    Source,
    open_source,
    policy_step,
    provenance,
    replay_logs,
    to_logs,
    train_source,
)
from xql.collect.writing import (
    ROBOTICS,
    SIMULATORS,
    Description,
    Log,
    refuse_existing,
    write_dataset,
)
from xql.data.actions import action_spec
from xql.envs.make import entry_module, make_environment, register_robotics
from xql.errors import InputError, nearest, require_seed
from xql.jax_config import standard_jax
from xql.runs.folder import RunFolder
from xql.runs.policy import load_policy
from xql.training.actors import Actors
from xql.training.replay import Rows

ENVIRONMENTS = {
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
    "cartpole": "CartPole-v1",
    "acrobot": "Acrobot-v1",
}
"""The short names; any other environment goes by its id."""

STEPS = 1_000_000
"""Of SAC, by default."""

TRANSITIONS = 1_000_000
"""From each policy, as in D4RL."""

KINDS: dict[str, tuple[str, ...]] = {
    "random": ("random",),
    "medium": ("medium",),
    "medium-replay": (),
    "medium-expert": ("medium", "expert"),
    "expert": ("expert",),
}
"""Every kind, and the policies that play for it."""

# Each policy plays from starts and draws of its own.
_STREAMS = {"random": 0, "medium": 1, "expert": 2}

_CLASSIC = "gymnasium.envs.classic_control"
"""Needs no extra of Gymnasium's, so that neither do data of it."""

Behaviour = Callable[[Float32[np.ndarray, "1 1 observation"]], np.ndarray]


def make_mujoco(
    env: str | None,
    kind: str,
    *,
    steps: int = STEPS,
    transitions: int | None = None,
    seed: int = 0,
    run: Path | str | None = None,
    dataset_id: str | None = None,
    home: Path | str = "runs",
    command: str = "mujoco",
    progress: Callable[[int, int], None] | None = None,
    show_training: bool = True,
) -> str:
    """Make one kind of data from an online run, and write it where Minari keeps its datasets.

    SAC is trained once, in `home`/data-ENV-sac-STEPS-SEED, and serves every kind. The same
    arguments give the same bytes on the same machine and versions.

    Args:
        env: "halfcheetah", "hopper", "walker2d" or "ant" (Gymnasium's v5), "cartpole" or "acrobot",
            or an environment's id; may be None where `run` is given.
        kind: one of `KINDS`; the head of this file says what they are.
        steps: SAC's environment steps; they do not matter for random actions or a given `run`.
        transitions: how many (s, a, r, s') to make, exactly; 1,000,000 of each policy where None.
            Not for medium-replay, which holds what the run has seen.
        seed: of SAC and of the collecting.
        run: a finished online run of one seed to take the policies from, and nothing is trained.
            It must have kept its policies for medium and medium-expert, its replay for
            medium-replay. For random it only gives the reference returns.
        dataset_id: Minari's name for it; "ENV/KIND-v0" without it, such as "hopper/medium-v0".
        home: where runs that are trained here are kept.
        command: what `xql data make` was given, "mujoco" or "online", for the data's own account.
        progress: called with (made, wanted) after each episode that is collected.
        show_training: show a progress bar on standard error while SAC is trained.

    Returns:
        The dataset's id. Its observations are flat, as policies see them. Its reference scores are
        the returns of random actions and of the run's last policy; random without `run` has none.

    Raises:
        InputError: anything among these that cannot be used, an existing id (nothing is
            overwritten), or a run without what the kind asks for.
        MissingExtra: Minari or the simulator is not installed.
    """
    if kind not in KINDS:
        raise InputError(f"no kind '{kind}'", where=command, hint=nearest(kind, KINDS))
    environment = _environment(env, run, command)
    name = _name(environment)
    dataset_id = dataset_id or f"{name}/{kind}-v0"
    require_seed(seed)
    total = _total(kind, transitions, command)
    refuse_existing(dataset_id)
    probe = make_environment(environment)
    probe.close()
    action_spec(probe.action_space, environment)
    if not _is_classic(probe):
        # A dataset names the releases of these simulators: better missing now than after training.
        register_robotics()

    path = None if run is None else Path(run)
    if path is None and kind != "random":
        path = Path(home) / f"data-{name.replace('/', '-')}-sac-{steps}-{seed}"
        if not path.exists():
            train_source(environment, path, steps=steps, seed=seed, progress=show_training)
    source = None if path is None else open_source(path, environment)

    if kind == "medium-replay":
        assert source is not None
        logs = replay_logs(source)
    else:
        logs = _collect(environment, kind, source, total, seed, progress)
    words = [f"xql data make {command} --env {environment} --kind {kind}"]
    if kind != "medium-replay":
        words.append(f"--transitions {total}")
    if run is not None:
        words.append(f"--run {Path(run).resolve().name}")
    elif kind != "random":
        words.append(f"--steps {steps}")
    words.append(f"--seed {seed} --out-id {dataset_id}")
    made = {"command": " ".join(words), "seed": seed}
    _write(dataset_id, environment, kind, logs, source, made)
    return dataset_id


def _is_classic(env: gymnasium.Env[Any, Any]) -> bool:
    assert env.spec is not None
    return entry_module(env.spec.entry_point).startswith(_CLASSIC)


def _environment(env: str | None, run: Path | str | None, command: str) -> str:
    """The environment's id."""
    config = None if run is None else RunFolder.open(Path(run)).config
    known = None if config is None else config.environment
    asked = None if env is None else ENVIRONMENTS.get(env, env)
    if asked is None and known is None:
        raise InputError(
            "no environment is named", where=command, hint="give `env`, such as `env='hopper'`"
        )
    if asked is not None and known is not None and asked != known:
        raise InputError(
            f"this run learned in {known}, not in {asked}", where=str(run), hint="leave `env` out"
        )
    if asked is None and config is not None:
        try:
            return config.require_environment(str(run)).record
        except InputError as error:
            hint = "where you trust it, name it with `env`"
            raise InputError(error.what, where=error.where, hint=hint) from None
    return str(asked)


def _name(environment: str) -> str:
    """What the dataset's id begins with: the short name, or else the environment's id."""
    short = {full: name for name, full in ENVIRONMENTS.items()}
    return short.get(environment, environment.lower())


def _total(kind: str, transitions: int | None, command: str) -> int:
    """How many transitions to collect."""
    policies = len(KINDS[kind])
    if transitions is None:
        return TRANSITIONS * policies
    if policies == 0:
        raise InputError(
            "medium-replay holds what the run has seen",
            where=command,
            hint="leave `transitions` out",
        )
    if transitions < policies:
        raise InputError(
            f"transitions is {transitions}",
            where=f"{command} {kind}",
            hint=f"give {policies} or more",
        )
    return transitions


def _collect(
    environment: str,
    kind: str,
    source: Source | None,
    total: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[Log]:
    """Let the policies of `kind` play, each an equal share."""
    logs: list[Log] = []
    policies = KINDS[kind]
    before = 0

    def report(made: int) -> None:
        if progress is not None:
            progress(before + made, total)

    for number, policy in enumerate(policies, start=1):
        share = total * number // len(policies) - before
        own = int(np.random.SeedSequence([seed, _STREAMS[policy]]).generate_state(1)[0])
        behaviour = None
        if policy != "random":
            assert source is not None
            behaviour = _draws(source, policy_step(source, policy), own)
        logs += play(environment, behaviour, share, own, report)
        before += share
    return logs


def play(
    environment: str,
    behaviour: Behaviour | None,
    transitions: int,
    seed: int,
    progress: Callable[[int], None] = lambda made: None,
) -> list[Log]:
    """Play exactly so many steps; the last episode is cut there.

    Args:
        environment: its id.
        behaviour: the actions for observations, both [1, 1, ...]; uniformly random where None.
        transitions: how many steps.
        seed: of the starts, and of random actions.
        progress: called with the steps made, after each episode.
    """
    actors = Actors(lambda: make_environment(environment), [seed], 1)
    try:
        sizes = [(actors.spec.observation_size,), (actors.spec.actions.size,), (), ()]
        sizes.append(sizes[0])
        seen = Rows(*(np.empty((1, transitions, *size), np.float32) for size in sizes))
        for step in range(transitions):
            ended = len(actors.finished)
            actions = (
                actors.random_actions() if behaviour is None else behaviour(actors.observations)
            )
            for column, new in zip(seen, actors.step(actions), strict=True):
                column[:, step] = new[:, 0]
            if len(actors.finished) > ended or step + 1 == transitions:
                progress(step + 1)
    finally:
        actors.close()
    return to_logs(seen, [one.length for one in actors.finished])


def _draws(source: Source, step: int, seed: int) -> Behaviour:
    """The run's policy of that step, its actions drawn as in training."""
    actor = load_policy(source.folder.path, step=step).actor
    with standard_jax():
        key = jax.random.key(seed)

    @standard_jax()
    def behaviour(observations: Float32[np.ndarray, "1 1 observation"]) -> np.ndarray:
        nonlocal key
        key, actions = _draw(actor, key, observations)
        return np.asarray(actions)

    return behaviour


@jax.jit
def _draw(
    actor: PyTree, key: PRNGKeyArray, observations: Float[Array, "1 1 observation"]
) -> tuple[PRNGKeyArray, Float[Array, "1 1 action"]]:
    key, draw_key = jax.random.split(key)
    actions: Array = actor(observations, draw_key)
    return key, actions


def _write(
    dataset_id: str,
    environment: str,
    kind: str,
    logs: list[Log],
    source: Source | None,
    made: dict[str, Any],
) -> None:
    agent = "" if source is None else source.folder.config.agent
    algorithm = {
        "random": "uniformly random actions",
        "medium": f"{agent}, its first policy a third of the way to its last one",
        "medium-replay": f"{agent}, all that it saw up to its medium policy",
        "medium-expert": f"{agent}, half from its medium policy and half from its last one",
        "expert": f"{agent}, its last policy",
    }[kind]
    flat = make_environment(environment)
    classic = _is_classic(flat)
    description = Description(
        algorithm=algorithm,
        about=f"{environment}, {kind}, after D4RL's recipe; these are not D4RL's data.",
        made=made if source is None else made | provenance(source),
        reference=None if source is None else (source.random_return, source.expert_return),
        requirements=() if classic else (ROBOTICS,),
        simulators=("gymnasium", "numpy") if classic else SIMULATORS,
    )
    try:
        assert isinstance(flat, gymnasium.Wrapper)
        actions = action_spec(flat.action_space, environment)
        logs = [log._replace(actions=np.asarray(actions.unflatten(log.actions))) for log in logs]
        write_dataset(dataset_id, logs, description, flat.env, observations=flat.observation_space)
    finally:
        flat.close()
