"""The cells of the offline tables, and the notes that stand above them.

What a table is drawn from is found by its configuration (`cells.py`), so a cell names all that a
preset of today would choose otherwise: XQL's have the preset `fixed`, which was its `default` when
they were trained, and those of its temperatures that tune themselves the preset `default`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from xql.agents import OFFLINE
from xql.data.d4rl import d4rl_name
from xql.envs.greenhouse import GREENHOUSE, HELD_OUT
from xql.experiments.cells import Cell, offline_cell
from xql.experiments.sources import minari_fingerprint
from xql.runs.config import EvaluationPlan

DOOR = "AdroitHandDoor-v1"


class Table(NamedTuple):
    """Cells that stand together."""

    cells: Callable[[str | None], list[Cell]]
    """Of what --data gives, where that is needed."""
    note: str
    needs: str = ""
    """What --data has to be: "FILE" or "FOLDER"; empty where nothing is needed."""
    shown: tuple[str, ...] = ("beta",)
    """Hyperparameters that have a column, beside those that a cell sweeps."""
    seconds: str = "evaluations included, on one or two cores that may\nhave done other work too."
    """Of what and where they are."""
    own_returns: bool = False
    """Whether the mean return of the data itself has a row."""


_PRESETS = {"xql": "fixed"}
"""Of agents whose cells have another than `default`."""

UNBOUNDED: dict[str, Any] = {"beta_optimism": None}
"""Of XQL's cells of the preset `default` from before it had a bound on β's optimism. Only those of
PointMaze-Large were beyond it at a logged step (docs/choosing-beta.md)."""


def _cell(name: str, data: str, agent: str, steps: int, seeds: int = 4, **more: Any) -> Cell:
    """One agent on one Minari dataset."""
    more = {"preset": _PRESETS.get(agent, "default")} | more
    return offline_cell(
        name,
        data,
        opened=f"minari:{data}",
        fingerprint=minari_fingerprint(data),
        agent=agent,
        steps=steps,
        seeds=seeds,
        **more,
    )


def _pointmaze(_: str | None) -> list[Cell]:
    return [
        _cell(f"{maze}-{agent}", f"pointmaze/{maze}-play-v0", agent, 100_000)
        for maze in ("medium", "large")
        for agent in ("xql", "bc")
    ]


def _peers(_: str | None) -> list[Cell]:
    data = "pointmaze/medium-play-v0"
    cells = [_cell(agent, data, agent, 50_000) for agent in OFFLINE]
    return [
        *cells,
        _cell("iql-matched", data, "iql", 50_000, preset="matched"),
        _cell("bc-top-10", data, "bc", 50_000, options={"subset": "top:0.1"}),
    ]


def _antmaze(_: str | None) -> list[Cell]:
    data, steps = "antmaze/umaze-v0", 200_000
    cells = [_cell(agent, data, agent, steps, 2) for agent in ("xql", "iql", "rebrac", "bc")]
    cells.append(_cell("td3-bc", data, "td3-bc", steps, 2))
    return [*cells, _cell("iql-matched", data, "iql", steps, 2, preset="matched")]


def _peers_large(_: str | None) -> list[Cell]:
    data = "pointmaze/large-play-v0"
    # CQL draws 3n actions for each state, and would take longer than all the others together.
    return [_cell(agent, data, agent, 100_000) for agent in OFFLINE if agent != "cql"]


class _Entry(NamedTuple):
    """An agent of a suite's table."""

    agent: str
    preset: str = "default"
    options: Mapping[str, Any] = {}

    def cell(self, name: str, data: str, steps: int, seeds: int, **more: Any) -> Cell:
        """Of one Minari dataset."""
        options = {**self.options, **more.pop("options", {})}
        own = {"preset": self.preset, "options": options}
        return _cell(name, data, self.agent, steps, seeds, **own, **more)


_SUITE = {
    "xql-auto": _Entry("xql"),
    "xql-consistent": _Entry("xql", "consistent"),
    "iql": _Entry("iql"),
    "td3-bc": _Entry("td3-bc"),
    "bc": _Entry("bc"),
    "rebrac": _Entry("rebrac"),
    # Last, for it takes the longest: it draws 3n actions for each state.
    "cql": _Entry("cql"),
}
"""The agents of the paper's suites, in the order in which they are trained."""


def _antmaze_more(_: str | None) -> list[Cell]:
    # An episode takes as long as 300 updates.
    plan = EvaluationPlan(evaluations=5, episodes=10, last_episodes=50)
    return [
        one.cell(f"{task}-{name}", f"antmaze/{task}-v0", 250_000, 2, evaluation=plan)
        for task in ("umaze-diverse", "medium-play", "medium-diverse", "large-play")
        for name, one in _SUITE.items()
    ]


MUJOCO = ("hopper", "halfcheetah", "walker2d")

SAC_STEPS = 300_000
"""Of the run of SAC that MuJoCo data is made of, and the transitions from each of its policies: of
D4RL's 1,000,000 what a processor learns in half an hour."""


def _mujoco(_: str | None) -> list[Cell]:
    return [
        one.cell(f"{env}-{kind}-{name}", f"{env}/{kind}-v0", 250_000, 2)
        for env in MUJOCO
        for kind in ("medium", "medium-replay", "medium-expert")
        for name, one in _SUITE.items()
    ]


_KITCHEN = {
    **{name: one for name, one in _SUITE.items() if name not in ("rebrac", "cql")},
    # With the published dropout, as XQL's consistent preset has it.
    "iql": _Entry("iql", "published"),
    "xql-kappa-10": _Entry("xql", "consistent", {"inverse_temperature": 10.0}),
    "cql": _SUITE["cql"],
}


def _kitchen(_: str | None) -> list[Cell]:
    # All starts are alike but for noise, so that more episodes of one policy say little more.
    plan = EvaluationPlan(evaluations=4, episodes=5, last_episodes=20)
    return [
        one.cell(
            f"{kind}-{name}-{observations}",
            f"kitchen/{kind}-v0",
            200_000,
            4,
            options={"observations": observations},
            evaluation=plan,
        )
        for kind in ("partial", "mixed", "complete")
        for observations in ("standardised", "raw")
        for name, one in _KITCHEN.items()
    ]


def _door_human(file: str | None) -> list[Cell]:
    # Trained before the preset had the published dropout.
    options = {"policy_dropout": 0.0}
    return [_door("xql-consistent", "xql", 200_000, file, "consistent", options)]


def _door_peers(file: str | None) -> list[Cell]:
    cells = [
        _door(agent, agent, 100_000, file, _PRESETS.get(agent, "default"))
        for agent in ("xql", "iql", "td3-bc", "bc")
    ]
    return [*cells, _door("iql-matched", "iql", 100_000, file, "matched")]


def _beta(_: str | None) -> list[Cell]:
    sweep = {"beta": (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)}
    return [
        # At β = 1 every seed succeeds in every episode from 15k on (results/peers).
        _cell("pointmaze-medium", "pointmaze/medium-play-v0", "xql", 25_000, 2, sweep=sweep),
        # At β = 0.6 success is level from 60k on (results/antmaze).
        _cell("antmaze-umaze", "antmaze/umaze-v0", "xql", 75_000, 2, sweep=sweep),
    ]


class _Task(NamedTuple):
    """One of the tasks that `stability` is measured on."""

    data: str
    betas: tuple[float, ...]
    """Six, around the preset's."""
    official: Mapping[str, Any]
    """With the paper's loss: its β nearest to the task, and its rewards."""
    episodes: int = 100
    """Of a seed, at the last step."""


_TASKS = {
    "pointmaze-medium": _Task(
        "pointmaze/medium-play-v0", (0.1, 0.3, 0.6, 1.0, 2.0, 4.0), {"beta": 0.6}
    ),
    "pointmaze-large": _Task(
        "pointmaze/large-play-v0", (0.2, 0.6, 1.0, 2.0, 4.0, 8.0), {"beta": 0.6}
    ),
    "antmaze-umaze-short": _Task(
        "antmaze/umaze-short-v0", (0.1, 0.3, 0.6, 1.0, 2.0, 4.0), {"beta": 0.6}, episodes=30
    ),
    "door-human": _Task("door-human-v0", (0.5, 1.0, 2.0, 5.0, 10.0, 20.0), {"beta": 5.0}),
    "dmsd": _Task(
        "neorl2/DMSD",
        (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        {"beta": 2.0, "rewards": "return_range"},
    ),
    "safety-half-cheetah": _Task(
        "neorl2/SafetyHalfCheetah",
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        {"beta": 2.0, "rewards": "return_range"},
    ),
}
_OFFICIAL = {"loss": "official", "clip": 7.0, "max_gradient_norm": None}


def _short(
    name: str, data: str, agent: str, folder: str | None, episodes: int = 100, **more: Any
) -> Cell:
    """One agent on one dataset for 50,000 updates, evaluated once, at their end."""
    plan = EvaluationPlan(evaluations=1, last_episodes=episodes)
    settings: dict[str, Any] = {"agent": agent, "steps": 50_000, "seeds": 4, "evaluation": plan}
    settings |= more
    kind, _, task = data.rpartition("/")
    if kind in ("pointmaze", "antmaze"):
        opened, fingerprint = f"minari:{data}", minari_fingerprint(data)
        return offline_cell(name, data, opened=opened, fingerprint=fingerprint, **settings)
    home = Path(folder or ".")
    if kind == "neorl2":
        opened = f"neorl2:{home / f'{task}-high-100000-train.npz'}"
        return offline_cell(name, data, opened=opened, **settings)
    files = (one for one in sorted(home.glob("*.hdf5")) if d4rl_name(one) == data)
    opened = f"d4rl:{next(files, home / f'{data}.hdf5')}"
    return offline_cell(name, data, opened=opened, env=DOOR, **settings)


def _stability(folder: str | None) -> list[Cell]:
    # Of the six the one that reaches the bound on β's optimism.
    large = _TASKS["pointmaze-large"]
    bounded = _short("pointmaze-large-bounded", large.data, "xql", folder)
    cells = [
        _short(f"{name}-{kind}", task.data, "xql", folder, task.episodes, **more)
        for name, task in _TASKS.items()
        for kind, more in (
            ("auto", {"options": UNBOUNDED}),
            ("fixed", {"preset": "fixed", "sweep": {"beta": task.betas}}),
            ("official", {"preset": "fixed", "options": {**_OFFICIAL, **task.official}}),
        )
    ]
    return [*cells, bounded]


def _neorl2(folder: str | None) -> list[Cell]:
    peers: dict[str, dict[str, dict[str, Any]]] = {
        "DMSD": {
            "iql": {"expectile": 0.6, "inverse_temperature": 10.0},
            "td3-bc": {"value_weight": 2.5},
            "rebrac": {"policy_cloning": 0.003, "critic_cloning": 0.0},
            "bc": {},
        },
        "SafetyHalfCheetah": {
            "iql": {"expectile": 0.6, "inverse_temperature": 3.0},
            "td3-bc": {"value_weight": 0.1},
            "bc": {},
        },
    }
    cells = []
    for task, settings in peers.items():
        name, data = ("dmsd" if task == "DMSD" else "safety-half-cheetah"), f"neorl2/{task}"
        cells.append(_short(f"{name}-xql", data, "xql", folder, options=UNBOUNDED))
        for agent, own in settings.items():
            # BC sees no rewards.
            scaled = {"observations": "auto"} | ({} if agent == "bc" else {"rewards": "auto"})
            cells.append(_short(f"{name}-{agent}", data, agent, folder, options=scaled | own))
    return cells


def _observations(folder: str | None) -> list[Cell]:
    tasks = ("pointmaze-medium", "dmsd", "safety-half-cheetah", "door-human")
    plan = EvaluationPlan(evaluations=1, last_episodes=100)
    return [
        _short(
            f"{task}-{agent}-{observations}",
            _TASKS[task].data,
            agent,
            folder,
            steps=20_000,
            seeds=2,
            evaluation=plan,
            options={"observations": observations, **own},
        )
        for task in tasks
        # XQL scales its rewards itself, and BC sees none.
        for agent, own in (("xql", UNBOUNDED), ("iql", {"rewards": "auto"}), ("bc", {}))
        for observations in ("raw", "standardised")
    ]


def _extraction(folder: str | None) -> list[Cell]:
    cells = []
    for name, data, bc_weight in (
        ("antmaze-umaze-diverse", "antmaze/umaze-diverse-v0", 0.3),
        ("dmsd", "neorl2/DMSD", 0.01),
    ):
        for policy in ("awr", "ddpg_bc", "best_of_n", "flow"):
            weight = {"bc_weight": bc_weight} if policy in ("ddpg_bc", "flow") else {}
            options = {"policy": policy, **weight, **UNBOUNDED}
            cell = f"{name}-{policy}"
            cells.append(_short(cell, data, "xql", folder, steps=25_000, seeds=2, options=options))
    return cells


def _greenhouse(file: str | None) -> list[Cell]:
    # Each season that is held out once.
    plan = EvaluationPlan(evaluations=1, last_episodes=len(HELD_OUT))
    settings: dict[str, Any] = {"steps": 20_000, "seeds": 4, "evaluation": plan, "env": GREENHOUSE}
    opened, hidden = file or "log.npz", {"hidden": [128, 128]}
    scaled = {"observations": "auto"}
    return [
        offline_cell(name, "log", opened=opened, agent=agent, options=hidden | more, **settings)
        for name, agent, more in (
            ("xql", "xql", UNBOUNDED),
            ("iql", "iql", scaled | {"rewards": "auto"}),
            ("iql-tuned", "iql", scaled | {"rewards": "auto", "inverse_temperature": 100.0}),
            ("bc", "bc", scaled),
        )
    ]


_DISCRETE: dict[str, tuple[str, dict[str, Any]]] = {
    "xql": ("xql", UNBOUNDED),
    "xql-exact": ("xql", {"soft_maximum": "exact", **UNBOUNDED}),
    "iql": ("iql", {"observations": "raw"}),
    "cql": ("cql", {"critic_hidden": (64, 64)}),
    "awac": ("awac", {}),
    "bc": ("bc", {"observations": "raw"}),
}
"""The agents of discrete actions, and what else is set beside the size of their networks."""


def _cartpole(_: str | None) -> list[Cell]:
    plan = EvaluationPlan(evaluations=1, last_episodes=100)
    return [
        _cell(
            f"{kind}-{name}",
            f"cartpole/{kind}-v0",
            agent,
            5_000,
            preset="default",
            options={"hidden": (64, 64), **own},
            evaluation=plan,
        )
        for kind in ("medium", "medium-replay")
        for name, (agent, own) in _DISCRETE.items()
    ]


def _door(
    name: str,
    agent: str,
    steps: int,
    file: str | None,
    preset: str,
    options: Mapping[str, Any] | None = None,
) -> Cell:
    """One agent on D4RL's door-human."""
    return offline_cell(
        name,
        "door-human-v0",
        opened=f"d4rl:{file or 'door-human-v0.hdf5'}",
        agent=agent,
        preset=preset,
        options=options,
        steps=steps,
        seeds=4,
        env=DOOR,
    )


_PLAY = "From the farthest cell to the farthest cell; the data is undirected play."
_TUNED = (
    "Learning rates, polyak rate, schedule and XQL's β were chosen for XQL on PointMaze-Medium, on "
    "a seed that no result uses; the options of the other agents' own were not tuned."
)
_UNTUNED = "No agent was tuned on this task."
_MATCHED = "iql-matched has XQL's settings in all but the loss of V."
_ANT = (
    "The data was made here, with `xql data make antmaze-umaze`; it is not D4RL's. An episode "
    "ends at its first success."
)
_MUJOCO = (
    f"The data was made here with `xql data make mujoco --steps {SAC_STEPS} --transitions "
    f"{SAC_STEPS}`, medium-expert with twice as many and medium-replay without a number; it is not "
    "D4RL's. A score is 0 at the return of random actions and 100 at that of SAC's last policy."
)
_SCRIPTED = (
    "The data was made here with `xql data make kitchen-{complete,partial,mixed}`: scripted, not "
    "D4RL, and not comparable with scores on D4RL's. A score is the share of the four target tasks "
    "that were done. XQL's observations are scaled as said, where its preset chooses by the data. "
    "All episodes start alike but for noise: the seeds are the sample."
)
_DOOR = (
    f"The environment is {DOOR} of gymnasium-robotics, whose reward changed in release 1.2.1: "
    "success compares with D4RL's, returns and normalised scores do not."
)
_GPU = (
    "Trained on one NVIDIA H200, each cell one population, and evaluated on a processor, once, at "
    "the last step: *best* is *last*."
)
_GPU_SECONDS = "without evaluations, on a GPU that some 12 cells shared."
_BEFORE = (
    "*auto* was trained before its temperatures had a floor in the spread of Q (../README.md): "
    "trained anew it gives other numbers."
)
_STABILITY = (
    "*auto*: one setting for all tasks (rewards, observations, β and κ auto, beta_kl 0.05, "
    "policy_kl 2, the bounded loss), chosen on seed 100; the preset default. *fixed*: the preset "
    "fixed over six β. *official*: the paper's own loss at its nearest β, clipped at 7. "
    f"{_BEFORE} {_GPU}"
)
_EXTRACTION = (
    "Q and V are learned as by *auto* of the table stability. bc_weight of DMSD: the best of 0.01, "
    "0.03, 0.1 and 0.3 for ddpg_bc on seed 100; of AntMaze, the default. best_of_n draws 32."
)
_OBSERVATIONS = (
    "The same agent with the observations as they are and with each column standardised, 20,000 "
    "updates. XQL is the preset default, IQL and BC have their defaults, IQL with rewards=auto. "
    "Nothing was tuned."
)
_CARTPOLE = (
    "The data was made here from one run of SAC (the commands are in ../README.md), with actions "
    "that its policies drew. Nothing was tuned on these data: every agent has its defaults, but "
    "for networks of 64-64, for time. The default of XQL's `policy_kl`, 0.15 log n of n actions, "
    "was itself chosen on CartPole, on other data, which favours XQL. *data* is the mean return "
    "of the logged episodes."
)
_NEORL2 = (
    "Normalised as NeoRL-2 does; settings were chosen on seed 100. XQL is *auto* of the table "
    f"stability. {_BEFORE} ReBRAC was stopped at 45,000 updates. BC, and IQL and TD3+BC on "
    "SafetyHalfCheetah, were trained on one core of a processor, the others on one NVIDIA H200. "
    "All were evaluated once, at the last step: *best* is *last*."
)
_GREENHOUSE = (
    "The 20 seasons from days whose weather the log does not hold, one episode each; the rule and "
    "each day stand in days.md. Default settings, but for layers of 128 and, for IQL and BC, "
    "XQL's scaling of observations and rewards; iql-tuned has the best of three inverse "
    "temperatures on other days, 100 (../README.md)."
)
TABLES = {
    "pointmaze": Table(_pointmaze, f"{_PLAY} {_TUNED}"),
    "peers": Table(_peers, f"{_PLAY} {_TUNED} {_MATCHED}"),
    "antmaze": Table(_antmaze, f"{_ANT} {_UNTUNED} {_MATCHED}"),
    "peers-large": Table(_peers_large, f"{_PLAY} {_TUNED}"),
    "antmaze-more": Table(_antmaze_more, _ANT),
    "mujoco": Table(_mujoco, _MUJOCO),
    "kitchen": Table(_kitchen, _SCRIPTED),
    "door-human": Table(_door_human, _DOOR, needs="FILE"),
    "door-peers": Table(_door_peers, f"{_DOOR} {_UNTUNED} {_MATCHED}", needs="FILE"),
    "beta": Table(_beta, f"PointMaze: {_PLAY} AntMaze: {_ANT}"),
    "stability": Table(_stability, _STABILITY, needs="FOLDER", seconds=_GPU_SECONDS),
    "extraction": Table(_extraction, _EXTRACTION, needs="FOLDER", shown=("policy", "bc_weight")),
    "observations": Table(_observations, _OBSERVATIONS, needs="FOLDER", shown=()),
    "greenhouse": Table(_greenhouse, _GREENHOUSE, needs="FILE", shown=()),
    "cartpole": Table(_cartpole, _CARTPOLE, shown=("soft_maximum",), own_returns=True),
    "neorl2": Table(
        _neorl2,
        _NEORL2,
        needs="FOLDER",
        shown=(),
        seconds="without evaluations, on a GPU that some 12 cells shared, or with them on a core\n"
        "that did other work too.",
    ),
}


def make_data(cell: Cell) -> None:
    """Make the dataset of a cell with a simulator where this machine does not hold it."""
    name = str(cell.configuration["data"]["name"])
    task: Any = name.partition("/")[2].removesuffix("-v0")
    short = task.endswith("-short")
    if name.startswith("pointmaze/"):
        from xql.collect.pointmaze import ensure_pointmaze

        ensure_pointmaze(task.removesuffix("-play"))
    elif name.startswith("antmaze/"):
        from xql.collect.antmaze import make_antmaze
        from xql.collect.writing import dataset_folder

        if not dataset_folder(name).exists():
            # The kept cells had the first 350,000 of the 1,000,000 transitions of umaze-v0.
            more: Any = {"transitions": 350_000, "dataset_id": name} if short else {}
            make_antmaze(task.removesuffix("-short"), **more)
    elif name.startswith("kitchen/"):
        from xql.collect.kitchen import make_kitchen
        from xql.collect.writing import dataset_folder

        if not dataset_folder(name).exists():
            make_kitchen(task)
    elif name.startswith(MUJOCO):
        from xql.collect.mujoco import KINDS, make_mujoco
        from xql.collect.writing import dataset_folder

        if not dataset_folder(name).exists():
            policies = len(KINDS[task])
            made: Any = {"transitions": SAC_STEPS * policies} if policies else {}
            make_mujoco(name.partition("/")[0], task, steps=SAC_STEPS, **made)
