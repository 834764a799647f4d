"""Whatever can be typed behind a command."""

from collections.abc import Callable

from soak.frame import Case, Place, Subject
from soak.inputs import bomb, brief_name, data_file, run_folder

SETTINGS = [
    "hidden=-1",
    "hidden=[-1]",
    "hidden=[0]",
    "hidden=[1000000000]",
    "hidden=1000000000",
    "hidden=[[256]]",
    "hidden=[]",
    "hidden={}",
    "hidden={a: 1}",
    "hidden=null",
    "hidden=256",
    "hidden=[256.5]",
    "hidden=[true]",
    "hidden=[nan]",
    "hidden=[.nan]",
    "hidden=[.inf]",
    "hidden=['256']",
    "hidden=[256,null]",
    "hidden=[2,",
    "hidden=(256,256)",
    "hidden=256,256",
    "hidden=" + "[" * 5000,
    "hidden=[" + ",".join(["2"] * 200) + "]",
    "hidden=[" + "2," * 20_000 + "2]",
    "hidden=[&a 1, *a]",
    "hidden=" + " " * 20_000,
    "hidden=[9" + "9" * 5000 + "]",
    "hidden=[0x" + "f" * 5000 + "]",
    "hidden=[65536,65536,65536]",
    "batch_size=0",
    "batch_size=-5",
    "batch_size=1.5",
    "batch_size=true",
    "batch_size=1e12",
    "batch_size=1e400",
    "batch_size=nan",
    "batch_size=inf",
    "batch_size=-inf",
    "batch_size=",
    "batch_size=null",
    "batch_size=big",
    "batch_size=[256]",
    "batch_size=!!int x",
    "batch_size=2001-13-45",
    "batch_size=0x" + "f" * 3000,
    "batch_size=9" + "9" * 400,
    "beta=0",
    "beta=-1",
    "beta=nan",
    "beta=inf",
    "beta=.inf",
    "beta=true",
    "beta=x",
    "beta=[1]",
    "beta=null",
    "beta=1e400",
    "beta=",
    "clip=0",
    "clip=nan",
    "discount=1.5",
    "discount=-0.1",
    "discount=nan",
    "polyak=0",
    "polyak=2",
    "critics=0",
    "critics=1000000",
    "critics=2.5",
    "v_updates=0",
    "v_updates=10000000",
    "maclaurin_order=3",
    "maclaurin_order=1e6",
    "huber_delta=0",
    "max_gradient_norm=-1",
    "max_gradient_norm=x",
    "loss=gumbel",
    "loss=[linear]",
    "loss=null",
    "loss=1",
    "loss=true",
    "loss=[red]",
    "value_layer_norm=1",
    "value_layer_norm=x",
    "value_random_actions=-1",
    "value_random_actions=1000000000",
    "value_action_noise=nan",
    "policy_learning_rate=-1",
    "policy_learning_rate=nan",
    "rewards=x",
    "rewards=scale:",
    "rewards=scale:nan",
    "rewards=affine:1",
    "rewards=null",
    "rewards=[1]",
    "observations=x",
    "observations={a: b}",
    "subset=x",
    "subset=top:2",
    "subset=top:nan",
    "subset=top:",
    "bta=1",
    "=1",
    "beta",
    "",
    "[/red]=1",
    "a b=1",
    "\x1b[31m=1",
    "beta=!!python/name:os.system",
    "beta=" + bomb().replace("\n", "\\n"),
    "x" * 50_000 + "=1",
    "beta=" + "x" * 9_000,
    "agent=iql",
    "steps=3",
    "seed=1",
    "__class__=1",
    "hidden=&a [*a]",
    "beta={[",
]


def _train(*words: str) -> Callable[[Place], Subject]:
    return lambda place: [
        *("train", "offline", "--data", str(data_file(place)), "--env", "none"),
        *("--out", str(place.out), *words),
    ]


OFFLINE: dict[str, list[str]] = {
    "--steps": [
        *("0", "-1", "1.5", "x", "", "nan", "true", "1e12", "99999999999", "9" * 400),
        *("9" * 5000, "0x10", "[3]", "1,000"),
    ],
    "--seeds": ["0", "-1", "1000000000", "9" * 30, "9" * 400, "x", "1.5", "20000"],
    "--first-seed": ["-1", "4294967296", "9" * 30, "x"],
    "--evaluations": ["0", "-1", "1000000000000", "9" * 30, "1e12", "x"],
    "--episodes": ["-1", "1000000000000", "9" * 30],
    "--last-episodes": ["-1", "1000000000000", "x"],
    "--beta": ["0", "-1", "nan", "inf", "x", "", ",", "1,1", "1,,x", "9" * 400, "1e-400", "[1]"],
    "--sweep": [
        *("beta", "beta=", "beta=x", "hidden=2", "bta=1", "beta=nan", "beta=inf", "=1", "beta=1,1"),
        *("beta=0", "discount=2", "beta=[1]", "[red]=1", "beta=" + "1," * 50_000, "beta=1e999"),
        "beta=" + ",".join(map(str, range(1, 30_000))),
    ],
    "--agent": ["", "[red]xql[/red]", "sac", "XQL", "x" * 10_000, "\x1b[31m"],
    "--preset": ["", "[bold]", "official", "x" * 10_000, "../default"],
    "--env": [
        *("Nope-v0", "", "[red]", "[/]", "os:Nope-v0", "nosuch:Nope-v0", "../x", "{", "{}"),
        *('{"id": []}', '{"id": ' + "[" * 60_000, "x" * 10_000, "a\nb", "\x1b[31m", "Pendulum-v1"),
        *("dm_control/nope-nope", "dm_control/", "CartPole-v1", '{"id": "Pendulum-v1"}'),
    ],
    "--trust-environment": [],
    "--stop-at-success": ["x"],
    "--data": [
        *("", ".", "/", "x.npz", "minari:", "minari:../../x", "minari:[red]x[/red]", "d4rl:"),
        *("ogbench:", "d4rl:[bold].hdf5", "http://x/y.npz", "x" * 5000, "x.parquet", "/dev/null"),
        *(
            "minari:" + "x" * 5000,
            "/dev/null/x.npz",
            "x.pkl",
            "x.[/red]",
        ),
    ],
}
ONLINE: dict[str, list[str]] = {
    "--environments": ["0", "-1", "1000000", "1000000000000", "9" * 30, "x"],
    "--warmup": ["0", "-1", "1000000000000", "9" * 30],
    "--update-to-data": ["nan", "inf", "-inf", "0", "-1", "1e300", "0.3", "x", "1e9"],
    "--buffer": ["0", "-1", "1000000000000", "9" * 30],
    "--steps": ["0", "-1", "1000000000000", "9" * 400],
    "--seeds": ["0", "1000000000"],
    "--env": [
        "",
        "[red]",
        "Nope-v0",
        "dm_control/nope",
        "CartPole-v1",
        "x" * 9000,
        "FrozenLake-v1",
    ],
    "--agent": ["xql", "[/red]", ""],
    "--preset": ["[red]", "tuned"],
    "--set": ["batch_size=1e12", "critics=99999", "hidden=[-1]"],
}


def _spoil_out(name: str, spoil: Callable[[Place], str]) -> Case:
    def make(place: Place) -> Subject:
        return [
            *("train", "offline", "--data", str(data_file(place)), "--env", "none"),
            *("--set", "hidden=[2]", "batch_size=4", "--steps", "1", "--out", spoil(place)),
        ]

    return Case(name, "out", make)


def _file_there(place: Place) -> str:
    (place.inputs / "there").write_text("x")
    return str(place.inputs / "there")


def _full_folder(place: Place) -> str:
    (place.inputs / "full").mkdir()
    (place.inputs / "full" / "x").write_text("x")
    return str(place.inputs / "full")


def _link_to_nowhere(place: Place) -> str:
    (place.inputs / "link").symlink_to("/nowhere/at/all")
    return str(place.inputs / "link")


OUTS: dict[str, Callable[[Place], str]] = {
    "a file": _file_there,
    "below a file": lambda place: _file_there(place) + "/run",
    "a full folder": _full_folder,
    "a device": lambda place: "/dev/null",
    "below a device": lambda place: "/dev/null/x",
    "no such file system": lambda place: "/proc/nowhere/run",
    "a long name": lambda place: str(place.inputs / ("x" * 300)),
    "a long path": lambda place: str(place.inputs) + "/x" * 5000,
    "a link to nowhere": _link_to_nowhere,
}


def word_cases() -> list[Case]:
    """Whatever can stand behind the flags of the commands that train."""
    cases = [
        Case(brief_name(word), "set", _train("--steps", "1", "--set", word)) for word in SETTINGS
    ]
    for flag, values in OFFLINE.items():
        cases += [
            Case(f"{flag} {brief_name(value)}", "offline", _train(flag, value)) for value in values
        ]
    cases += [
        Case("twice", "set", _train("--set", "beta=1", "beta=2"), says="given twice"),
        Case("and sweep", "set", _train("--set", "beta=1", "--sweep", "beta=2")),
        Case("and beta", "set", _train("--beta", "1", "--sweep", "beta=2")),
        Case(
            "product",
            "offline",
            _train("--sweep", *(f"{name}={_many(200)}" for name in ("beta", "clip", "weight_cap"))),
        ),
        Case("past the last seed", "offline", _train("--seeds", "2", "--first-seed", "4294967295")),
        Case("untrusted", "offline", _train("--trust-environment", "nosuch", "--steps", "0")),
        Case("wide", "offline", _train("--set", "hidden=[60000,60000]"), says="memory"),
        Case("unknown flag", "offline", _train("--stps", "3"), says="--steps"),
        Case("flag of markup", "offline", _train("--[red]", "3")),
        Case("flag of escapes", "offline", _train("--\x1b[31m", "3")),
        Case("no value", "offline", _train("--steps")),
        Case("no words", "offline", lambda _: ["train", "offline"]),
        Case("positional", "offline", _train("x")),
    ]
    for flag, values in ONLINE.items():
        for value in values:
            words = ["train", "online", "--env", "Pendulum-v1", flag, value]
            cases.append(
                Case(
                    f"{flag} {brief_name(value)}",
                    "online",
                    lambda place, words=words: [*words, "--out", str(place.out)],  # type: ignore[misc]
                )
            )
    cases += [_spoil_out(name, spoil) for name, spoil in OUTS.items()]
    cases += [
        Case("info", "markup", _named("data", "info"), exits=(0,), says="[red]line[bold].npz"),
        Case("check", "markup", _named("data", "check"), exits=(0,)),
        Case("fit", "markup", _coefficient, exits=(0,), says="coefficient of [red]x[bold]"),
    ]
    return cases


def _named(*words: str) -> Callable[[Place], Subject]:
    return lambda place: [*words, str(data_file(place, "[red]line[bold].npz"))]


def _coefficient(place: Place) -> Subject:
    path = place.inputs / "[red].csv"
    path.write_text("[red]x[bold],y\n" + "".join(f"{i},{i * i % 7}\n" for i in range(20)))
    return ["gumbel", "fit", str(path), "--target", "y", "--features", "[red]x[bold]"]


def _many(count: int) -> str:
    return ",".join(f"{0.5 + i / count:g}" for i in range(count))


OTHER_WORDS: dict[str, list[str]] = {
    "nothing known": ["[red]", "[/]", "", "\x1b[31m", "x" * 10_000, "--", "-", "--x", "help"],
    "train": ["", "[bold]", "ofline", "--help=3"],
    "data": ["[/red]", "inof"],
    "paper": ["figure4", "[red]"],
    "gumbel": ["fti", "-1"],
}
# Words of commands that need no input of their own; each is refused before anything is done.
ALONE: list[list[str]] = [
    ["compare"],
    ["compare", "nowhere"],
    ["compare", "[red]nowhere[/red]"],
    ["compare", "nowhere", "--seed", "-1"],
    ["compare", "nowhere", "--quantity", "x"],
    ["compare", "nowhere", "--format", "[red]"],
    ["evaluate"],
    ["evaluate", "nowhere"],
    ["evaluate", "[/red]"],
    ["evaluate", "nowhere", "--episodes", "x"],
    ["reproduce"],
    ["reproduce", "nowhere"],
    ["reproduce", "[/red]"],
    ["data", "info"],
    ["data", "info", "[red].npz"],
    ["data", "check", "[/].csv"],
    ["data", "convert", "x.npz", "x.zip"],
    ["data", "convert", "x.npz", "x.npz"],
    ["data", "convert", "[red].npz", "[/red].npz"],
    ["data", "make", "[red]"],
    ["data", "make", "pointmaze-medum"],
    ["data", "make", "pointmaze-umaze", "--transitions", "0"],
    ["data", "make", "pointmaze-umaze", "--transitions", "-1"],
    ["data", "make", "pointmaze-umaze", "--transitions", "1000000000000000"],
    ["data", "make", "pointmaze-umaze", "--seed", "-1"],
    ["data", "make", "pointmaze-umaze", "--seed", "9" * 30],
    ["data", "make", "pointmaze-umaze", "--noise", "nan"],
    ["data", "make", "pointmaze-umaze", "--noise", "inf"],
    ["data", "make", "pointmaze-umaze", "--noise", "-1"],
    ["data", "make", "pointmaze-umaze", "--out-id", ""],
    ["data", "make", "pointmaze-umaze", "--out-id", "../x"],
    ["data", "make", "pointmaze-umaze", "--out-id", "[red]"],
    ["data", "make", "pointmaze-umaze", "--out-id", "x" * 5000],
    ["data", "make", "pointmaze-umaze", "--policy", "x"],
    ["data", "make", "adroit-pen-expert"],
    ["data", "make", "adroit-pen-expert", "--policy", "[red].npz"],
    ["data", "make", "mujoco"],
    ["data", "make", "mujoco", "--kind", "[red]"],
    ["data", "make", "mujoco", "--kind", "medium", "--env", "[/red]"],
    ["data", "make", "mujoco", "--kind", "medium", "--env", "hopper", "--steps", "0"],
    ["data", "make", "mujoco", "--kind", "medium", "--env", "hopper", "--steps", "9" * 30],
    ["data", "make", "mujoco", "--kind", "medium", "--run", "nowhere"],
    ["data", "make", "ant-policy"],
    ["data", "make", "ant-policy", "--out", "/nowhere/x.npz", "--steps", "0"],
    ["demo", "--steps", "0"],
    ["demo", "--steps", "1000000000000"],
    ["demo", "--seeds", "0"],
    ["demo", "--seeds", "-1"],
    ["demo", "--seeds", "1000000000"],
    ["paper", "figure1", "--steps", "0"],
    ["paper", "figure1", "--seeds", "0"],
    ["paper", "figure1", "--seeds", "1000000000"],
    ["paper", "figure1", "--every", "0"],
    ["paper", "figure1", "--jobs", "0"],
    ["paper", "figure2", "--seed", "-1"],
    ["paper", "figure2", "--out", "/dev/null"],
    ["paper", "figure3", "--tasks", "[red]"],
    ["paper", "figure3", "--methods", "[/red]"],
    ["paper", "figure3", "--steps", "-1"],
    ["paper", "figure3", "--seeds", "0"],
    ["paper", "figure3", "--jobs", "-1"],
    ["paper", "table1", "--rows", "[red]"],
    ["paper", "table1", "--methods", "[red]"],
    ["paper", "table1", "--seeds", "0"],
    ["paper", "table1", "--steps", "-1"],
    ["paper", "table1", "--set", "beta"],
    ["paper", "table2", "--rows", "nope"],
    ["paper", "table2", "--out", "/dev/null/x"],
    ["paper", "videos", "--left", "a", "--right", "b", "--out", "[red].mp4"],
    ["sweep"],
    ["sweep", "[red].yaml"],
    ["sweep", "/dev/null"],
    ["sweep", "/dev/null", "--address", "[red]"],
    ["gumbel", "fit"],
    ["gumbel", "errors"],
    ["gumbel", "errors", "[red]"],
]
OF_A_RUN: list[list[str]] = [
    ["evaluate", "RUN", "--episodes", "0"],
    ["evaluate", "RUN", "--episodes", "-1"],
    ["evaluate", "RUN", "--episodes", "1000000000000"],
    ["evaluate", "RUN", "--episodes", "9" * 400],
    ["evaluate", "RUN", "--seed", "-1"],
    ["evaluate", "RUN", "--seed", "9" * 30],
    ["evaluate", "RUN", "--step", "3"],
    ["evaluate", "RUN", "--step", "-1"],
    ["evaluate", "RUN", "--step", "9" * 400],
    ["evaluate", "RUN", "--env", "[red]"],
    ["evaluate", "RUN", "--env", "CartPole-v1"],
    ["evaluate", "RUN", "--env", ""],
    ["evaluate", "RUN/config.yaml"],
    ["evaluate", "RUN/checkpoints"],
    ["reproduce", "RUN"],
    ["reproduce", "RUN/config.yaml"],
    ["reproduce", "RUN", "--data", "nowhere.npz"],
    ["reproduce", "RUN", "--data", "[red]:x"],
    ["reproduce", "RUN", "--out", "RUN"],
    ["reproduce", "RUN", "--out", "/dev/null/x"],
    ["compare", "RUN", "RUN"],
    ["compare", "RUN", "--seed", "-1"],
    ["compare", "RUN", "--seed", "9" * 30],
    ["compare", "RUN", "--quantity", "success"],
    ["compare", "RUN", "--out", "RUN"],
    ["compare", "RUN", "--out", "RUN/config.yaml"],
    ["compare", "RUN", "--out", "/dev/null/x"],
    ["gumbel", "errors", "RUN", "--member", "9"],
    ["gumbel", "errors", "RUN", "--member", "-1"],
    ["gumbel", "errors", "RUN", "--transitions", "0"],
    ["gumbel", "errors", "RUN", "--transitions", "-1"],
    ["gumbel", "errors", "RUN", "--transitions", "1000000000000000"],
    ["gumbel", "errors", "RUN", "--seed", "-1"],
    ["gumbel", "errors", "RUN", "--data", "nowhere.npz"],
    ["gumbel", "errors", "RUN", "--plot", "RUN/x.bmp"],
    ["gumbel", "errors", "RUN", "--plot", "RUN/config.yaml"],
    ["gumbel", "errors", "RUN", "--plot", "/nowhere/x.png"],
    ["data", "info", "RUN"],
    ["train", "offline", "--data", "RUN"],
    ["data", "make", "mujoco", "--kind", "medium", "--run", "RUN"],
    ["data", "make", "mujoco", "--kind", "medium", "--run", "RUN", "--steps", "5"],
    ["paper", "videos", "--left", "RUN", "--right", "RUN", "--out", "x.avi"],
    ["paper", "videos", "--left", "RUN", "--right", "RUN", "--out", "/dev/null/x.mp4"],
]


def command_cases() -> list[Case]:
    """Other commands' words."""
    cases = []
    for group, words in OTHER_WORDS.items():
        start = [] if group == "nothing known" else [group]
        for word in words:
            line = [*start, word]
            cases.append(Case(brief_name(" ".join(line)), "command", lambda _, line=line: line))  # type: ignore[misc]
    for line in ALONE:
        name = " ".join(brief_name(word) for word in line)
        cases.append(Case(name, "command", lambda _, line=line: line))  # type: ignore[misc]
    for line in OF_A_RUN:
        name = " ".join(brief_name(word) for word in line)

        def make(place: Place, line: list[str] = line) -> Subject:
            run = str(run_folder(place))
            return [word.replace("RUN", run) for word in line]

        cases.append(Case(name, "run", make))
    return cases


CASES = [*word_cases(), *command_cases()]
