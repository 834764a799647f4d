"""`xql train …`: learn a policy."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from xql.cli.console import print_words, result, sign_of_life
from xql.errors import InputError, require_seed

# The flag may be given once with several words, or several times.
Words = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
Assignments = Annotated[Words, tyro.conf.arg(metavar="NAME=VALUE...")]
Sweep = Annotated[Words, tyro.conf.arg(metavar="NAME=A,B...")]
Trust = Annotated[Words, tyro.conf.arg(metavar="NAME...")]  # packages and ids
MOST_LETTERS = 10_000
"""Of one value on the command line."""
TEMPERATURES = ("beta", "inverse_temperature")
"""What can be "auto", but not in a sweep."""
Address = Annotated[str | None, tyro.conf.arg(metavar="auto|HOST:PORT|ray://HOST:PORT")]
LoggerNames = Annotated[Words, tyro.conf.arg(metavar="LOGGER...")]
Numbers = Annotated[Words, tyro.conf.arg(metavar="auto or NUMBER...")]


def offline(
    data: str,
    agent: str = "xql",
    preset: str = "default",
    steps: int = 100_000,
    seeds: int = 1,
    first_seed: int = 0,
    beta: Numbers = (),
    policy: str | None = None,
    sweep: Sweep = (),
    hold_out: float = 0.0,
    env: str | None = None,
    env_arg: Assignments = (),
    episode_limit: int | None = None,
    out: Path | None = None,
    set: Assignments = (),
    precision: str = "float32",
    evaluations: int = 20,
    episodes: int = 10,
    last_episodes: int = 100,
    stop_at_success: bool | None = None,
    stream: bool = False,
    checkpoint_every: str = "10min",
    keep_last: int = 2,
    keep_every: int | None = None,
    keep_best: bool = False,
    trust_environment: Trust = (),
    logger: LoggerNames = (),
    plot: bool = True,
    report: bool = True,
) -> None:
    """Learn a policy from logged data alone.

    Args:
        data: minari:ID, d4rl:FILE, ogbench:FILE, neorl2:FILE, or a .npz, .hdf5, .h5, .parquet or
            .csv file.
        agent: xql, iql, cql, td3-bc, awac, rebrac or bc (docs/agents.md).
        preset: named settings, default for any data; xql has fixed, consistent, tuned and official
            too, iql published and matched, rebrac tuned (docs/presets.md).
        steps: gradient updates of each member of the population.
        seeds: how many seeds.
        first_seed: the first of them.
        beta: auto, for a temperature of the Gumbel loss that tunes itself, as xql's does without
            this flag; or temperatures, such as 0.5,2: short for --sweep beta=0.5,2. With numbers
            the preset default is fixed.
        policy: how xql extracts its policy from Q and V: awr, ddpg_bc, best_of_n or flow
            (docs/xql.md); short for --set policy=awr.
        sweep: values of hyperparameters, such as beta=0.5,2 discount=0.99,0.995; every combination
            is trained with every seed, side by side in one program.
        hold_out: a share of the episodes, such as 0.1, or a number of them, that is never learned
            from: xql ope RUN evaluates on it.
        env: the environment to evaluate in; the one that the data names without it, where it is of
            a trusted package. Your own as module:Env-v0, or as module:Class. With none, nothing is
            evaluated.
        env_arg: arguments of the environment that --env names, such as size=3.
        episode_limit: steps after which an evaluation episode is truncated, in place of the
            environment's own limit.
        out: the run's folder, which must not exist; runs/DATA-AGENT-N without it.
        set: settings that override the preset's, such as batch_size=1024 hidden=[128,128].
        precision: float32, or bf16, which rounds the factors of matrix products while learning
            (docs/performance.md).
        evaluations: how many times to evaluate, evenly spaced, the last step included.
        episodes: evaluation episodes per member at each of these but the last.
        last_episodes: evaluation episodes per member at the last step.
        stop_at_success: end an evaluation episode at its first success; for AntMaze without it.
        stream: keep the data in files instead of in memory, and draw from shuffled buffers of it:
            for data that does not fit (docs/data.md).
        checkpoint_every: how often to save the whole state besides before each evaluation: a time
            such as 30s, 10min or 2h, or a number of steps.
        keep_last: how many of the latest checkpoints stay.
        keep_every: besides, those whose step is a multiple of this.
        keep_best: besides, the one with the best evaluation.
        trust_environment: installed packages, or ids, whose environments the data may name besides
            Gymnasium's, Gymnasium-Robotics' and xql's own.
        logger: where numbers go besides the run's folder: tensorboard, wandb and mlflow, one or
            several, or none; tensorboard without it, if installed (docs/loggers.md).
        plot: draw learning-curves.png into the run's folder.
        report: write report.html, a page of the run, into the run's folder.
    """
    sign_of_life(f"opening {data}")
    from xql.agents import Unchecked
    from xql.runs.config import CheckpointPlan
    from xql.training.offline import train_offline
    from xql.training.population import use_all_cores

    options, swept = given_to(offline, set, sweep)
    use_all_cores()
    run = train_offline(
        data,
        agent=Unchecked(agent),
        preset=Unchecked(preset),
        steps=steps,
        seeds=_which_seeds(first_seed, seeds),
        sweep=swept,
        beta=parse_beta(sum(beta, ())),
        policy=None if policy is None else Unchecked(policy),
        hold_out=hold_out,
        env=env,
        env_kwargs=parse_settings(env_arg, "--env-arg", "size=3"),
        episode_limit=episode_limit,
        out=out,
        options=options,
        precision=Unchecked(precision),
        evaluations=evaluations,
        episodes=episodes,
        last_episodes=last_episodes,
        stop_at_success=stop_at_success,
        stream=stream,
        checkpoints=CheckpointPlan(checkpoint_every, keep_last, keep_every, keep_best),
        loggers=parse_loggers(sum(logger, ())),
        trust=sum(trust_environment, ()),
        report=report,
    )
    finish(run, plot)


def online(
    env: str,
    env_arg: Assignments = (),
    episode_limit: int | None = None,
    agent: str = "x-td3",
    preset: str = "default",
    steps: int = 1_000_000,
    seeds: int = 1,
    first_seed: int = 0,
    beta: Numbers = (),
    sweep: Sweep = (),
    out: Path | None = None,
    set: Assignments = (),
    precision: str = "float32",
    environments: int = 1,
    warmup: int | None = None,
    update_to_data: float = 1.0,
    buffer: int = 1_000_000,
    evaluations: int = 20,
    episodes: int = 10,
    last_episodes: int = 100,
    keep_replay: bool = False,
    keep_policies: bool = False,
    checkpoint_every: str = "10min",
    keep_last: int = 2,
    keep_every: int | None = None,
    keep_best: bool = False,
    logger: LoggerNames = (),
    plot: bool = True,
    report: bool = True,
) -> None:
    """Learn a policy in an environment.

    Args:
        env: dm_control/hopper-hop and its like, or a Gymnasium id such as HalfCheetah-v5. Your own
            as module:Env-v0, or as module:Class.
        env_arg: arguments of the environment that --env names, such as size=3.
        episode_limit: steps after which an episode is truncated, in place of the environment's
            own limit.
        agent: sac, td3, ddpg, x-sac or x-td3.
        preset: named settings: default or paper (docs/online-agents.md).
        steps: environment steps of each member of the population, the warm-up included.
        seeds: how many seeds.
        first_seed: the first of them.
        beta: auto, for a temperature of the Gumbel loss that tunes itself; or temperatures, such as
            0.5,2: short for --sweep beta=0.5,2. The preset's without it.
        sweep: values of hyperparameters, such as beta=0.5,2 discount=0.99,0.995; every combination
            is trained with every seed, side by side in one program.
        out: the run's folder, which must not exist; runs/ENV-AGENT-N without it.
        set: settings that override the preset's, such as batch_size=1024 hidden=[128,128].
        precision: float32, or bf16, which rounds the factors of matrix products while learning
            (docs/performance.md).
        environments: copies of the environment for each member, stepped in turn.
        warmup: steps of random actions before the first update. Without it the preset's, at most
            half of the run; or 5000, at most a twentieth of it.
        update_to_data: gradient updates for each environment step.
        buffer: capacity of each member's replay buffer, in transitions.
        evaluations: how many times to evaluate, evenly spaced, the last step included.
        episodes: evaluation episodes per member at each of these but the last.
        last_episodes: evaluation episodes per member at the last step.
        keep_replay: write the replay buffers to replay.npz at the end; not where every member
            diverged.
        keep_policies: keep the policies of every evaluation, as `xql data make mujoco` wants them.
        checkpoint_every: how often to save the whole state besides before each evaluation: a time
            such as 30s, 10min or 2h, or a number of steps.
        keep_last: how many of the latest checkpoints stay.
        keep_every: besides, those whose step is a multiple of this.
        keep_best: besides, the one with the best evaluation.
        logger: where numbers go besides the run's folder: tensorboard, wandb and mlflow, one or
            several, or none; tensorboard without it, if installed (docs/loggers.md).
        plot: draw learning-curves.png into the run's folder.
        report: write report.html, a page of the run, into the run's folder.
    """
    sign_of_life(f"making {env}")
    from xql.agents import Unchecked
    from xql.presets import preset_warmup
    from xql.runs.config import CheckpointPlan, OnlineLoop
    from xql.training.online import loop_for, train_online
    from xql.training.population import use_all_cores

    options, swept = given_to(online, set, sweep)
    use_all_cores()
    run = train_online(
        env,
        env_kwargs=parse_settings(env_arg, "--env-arg", "size=3"),
        episode_limit=episode_limit,
        agent=Unchecked(agent),
        preset=Unchecked(preset),
        steps=steps,
        seeds=_which_seeds(first_seed, seeds),
        sweep=swept,
        beta=parse_beta(sum(beta, ())),
        out=out,
        options=options,
        precision=Unchecked(precision),
        loop=OnlineLoop(
            environments,
            loop_for(steps, preset_warmup(agent, preset, env)).warmup if warmup is None else warmup,
            update_to_data,
            buffer,
        ),
        evaluations=evaluations,
        episodes=episodes,
        last_episodes=last_episodes,
        keep_replay=keep_replay,
        keep_policies=keep_policies,
        checkpoints=CheckpointPlan(checkpoint_every, keep_last, keep_every, keep_best),
        report=report,
        loggers=parse_loggers(sum(logger, ())),
    )
    finish(run, plot)


def given_to(
    command: Callable[..., object], set: Assignments, sweep: Sweep = ()
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The hyperparameters of --set and --sweep, as mappings.

    Raises:
        InputError: as `parse_settings` and `parse_sweep` say, or the command has a flag for one.
    """
    from xql.runs.sweep import require_hyperparameters

    options, swept = parse_settings(set), parse_sweep(sweep)
    require_hyperparameters(swept, options, inspect.signature(command).parameters)
    return options, swept


def _which_seeds(first: int, count: int) -> range:
    from xql.runs.config import require_at_least

    require_seed(first, "first_seed")
    if count > 0:
        require_at_least("seeds", count, 1)
    return range(first, first + max(count, 0))


def finish(run: Any, plot: bool) -> None:
    """Print the scores of a run and its folder; draw its learning curves.

    Raises:
        SystemExit: every member diverged.
    """
    print_words(run.describe())
    if plot and run.results:
        draw(run.path)
    print(f"run folder: {run.path}")
    if (page := run.path / "report.html").is_file():
        print(f"report: {page}")
    result(
        run=str(run.path), steps=run.config.steps, results=[one.as_plain() for one in run.results]
    )
    if len(run.folder.read_frozen()) == len(run.config.members):
        raise SystemExit(1)  # nothing was learned; the warning says why


def parse_settings(
    words: Iterable[Iterable[str]], flag: str = "--set", example: str = "batch_size=1024"
) -> dict[str, Any]:
    """NAME=VALUE words as a mapping, each value read as YAML.

    Args:
        words: of a flag that may be given several times.
        flag: its name, for messages.
        example: a word for it.

    Raises:
        InputError: a word without "=", or a value that is no YAML.
    """
    found: dict[str, Any] = {}
    for word in (word for group in words for word in group):
        name, value = _assignment(flag, word, example)
        if name in found:
            raise InputError(f"{name} is given twice", where=flag, hint="give it once")
        found[name] = _value(flag, word, value)
    return found


def _value(flag: str, word: str, text: str) -> Any:
    from xql.runs.plain import read_yaml

    if len(text) > MOST_LETTERS:
        raise InputError(
            f"{flag} {word[:60]}…: the value has {len(text):,} letters",
            hint=f"give at most {MOST_LETTERS:,}",
        )
    try:
        return read_yaml(text, by_hand=True)
    except ValueError as error:
        raise InputError(
            f"{flag} {word[:60]}: the value cannot be read ({error})", hint="write it as in YAML"
        ) from None


def parse_loggers(words: Sequence[str]) -> list[str] | None:
    """The words of --logger: names, "none" for no logger, or None for the default ones.

    Raises:
        InputError: none, and others.
    """
    if "none" in words and len(words) > 1:
        raise InputError("--logger none and others", hint="give none alone")
    return None if not words else [one for one in words if one != "none"]


def parse_beta(words: Sequence[str]) -> Any:
    """The words of --beta: "auto", numbers, or None for the preset's.

    Raises:
        InputError: they are neither.
    """
    if not words:
        return None
    text = ",".join(words)
    if text == "auto":
        return text
    if "auto" in text.split(","):
        hint = "give auto alone, and the numbers in a run of their own"
        raise InputError(f"--beta {text} mixes auto and numbers", hint=hint)
    return _numbers("--beta", text, "auto, or numbers such as 0.5,2")


def parse_sweep(words: Iterable[Iterable[str]]) -> dict[str, list[float]]:
    """NAME=A,B words as values by hyperparameter.

    Raises:
        InputError: a word without "=", a name given twice, or what is no number.
    """
    found: dict[str, list[float]] = {}
    for word in (word for group in words for word in group):
        name, values = _assignment("--sweep", word, "beta=0.5,2")
        if name in found:
            raise InputError(f"{name} is swept twice", where="--sweep", hint="give it once")
        found[name] = _numbers(f"--sweep {name}", values)
    return found


def _assignment(flag: str, word: str, example: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise InputError(f"{flag} {word}", hint=f"write NAME=VALUE, such as {example}")
    return name, value


def _numbers(flag: str, text: str, example: str = "0.5,2") -> list[float]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [word for word in words if not _is_number(word)]
    if wrong or not words:
        hint = f"write it as {example}"
        if wrong[:1] == ["auto"] and (name := flag.removeprefix("--sweep ")) in TEMPERATURES:
            hint = f"give --set {name}=auto, in a run of its own"
        raise InputError(f"{flag} {text}: '{''.join(wrong[:1])}' is no number", hint=hint)
    return [float(word) for word in words]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def draw(run: Path) -> None:
    """Draw a run's learning curves into its folder; where that fails, one line says why."""
    from xql.errors import decoration
    from xql.reports.plots import curves_from_run, plot_learning_curves
    from xql.runs.folder import RunFolder
    from xql.runs.summary import quantity_of

    with decoration("figure"):
        folder = RunFolder.open(run)
        config = folder.config
        plot_learning_curves(
            curves_from_run(folder, label=config.agent),
            run / "learning-curves.png",
            quantity=quantity_of(folder.read_evaluations()),
            title=config.data.name,
            steps="Environment steps" if config.online else "Gradient updates",
        )
