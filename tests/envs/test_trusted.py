"""Nothing that a file names is imported or called: not by any reader, not by any command.

The canary is a module whose import, and every call of whose members, leaves a file behind.
"""

import dataclasses
import importlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import yaml

import xql
from worlds import line_data, register_line
from xql.cli import main
from xql.data.dataset import Dataset
from xql.data.files import save_dataset
from xql.envs.make import make_environment
from xql.envs.trusted import trusted_environment
from xql.errors import InputError
from xql.runs.config import OnlineLoop, RunConfig
from xql.training.evaluate import evaluate_run

CANARY = """
import pathlib
pathlib.Path({fired!r}).write_text("imported")

def make(*words, **values):
    pathlib.Path({fired!r}).write_text("called")
    raise SystemExit("called")

Wrapper = make
"""


@pytest.fixture
def fired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is there once the canary was imported or called; at the end it must not be."""
    path = tmp_path / "fired"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "canary.py").write_text(CANARY.format(fired=str(path)))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists(), path.read_text()
    assert "canary" not in sys.modules


def spec_text(**changes: Any) -> str:
    pendulum = json.loads(gymnasium.spec("Pendulum-v1").to_json())
    return json.dumps(pendulum | changes)


EVIL = {
    "entry point": spec_text(id="Evil-v0", entry_point="canary:make", kwargs={"args": ["id"]}),
    "entry point under a known id": spec_text(entry_point="canary:make", kwargs={"colour": "red"}),
    "vector entry point": spec_text(id="Evil-v0", entry_point=None, vector_entry_point="canary:m"),
    "wrapper": spec_text(
        additional_wrappers=[{"name": "Wrapper", "entry_point": "canary:Wrapper", "kwargs": {}}]
    ),
    "wrapper under a known name": spec_text(
        additional_wrappers=[{"name": "TimeLimit", "entry_point": "canary:Wrapper", "kwargs": {}}]
    ),
    "module and id": "canary:Evil-v0",
    "module and id in JSON": spec_text(id="canary:Evil-v0"),
    "old gym": spec_text(id="GymV26Environment-v0", kwargs={"env_id": "canary:Evil-v0"}),
}
KINDS = list(EVIL)


def named_in(line: str) -> bool:
    return any(name in line.lower() for name in ("evil-v0", "pendulum-v1", "gymv26environment-v0"))


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The last line on standard error of a command that must fail with status 2."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("xql: ")]
    assert len(lines) == 1
    return lines[0]


def minari_set(root: Path, spec: str | None, *, spaces: bool) -> str:
    """The line's data as Minari writes it, with an `env_spec` of our own."""
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            id=index,
            observations=one.observations,
            actions=one.actions,
            rewards=one.rewards,
            terminations=np.zeros(len(one.actions), bool),
            truncations=np.arange(len(one.actions)) == len(one.actions) - 1,
        )
        for index, one in enumerate(line_data(episodes=3))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "toy/line-v0",
            buffers,
            observation_space=gymnasium.spaces.Box(-9, 9, (2,)),
            action_space=gymnasium.spaces.Box(-1, 1, (1,)),
        )
    path = root / "minari" / "toy" / "line-v0" / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    if spec is not None:
        metadata["env_spec"] = spec
    if not spaces:
        del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata))
    return "minari:toy/line-v0"


def own_file(suffix: str) -> Callable[[Path, str], str]:
    def write(root: Path, spec: str) -> str:
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        data = line_data(episodes=3, environment=spec)
        return str(save_dataset(data, root / f"line{suffix}"))

    return write


SOURCES: dict[str, Callable[[Path, str], str]] = {
    **{suffix: own_file(suffix) for suffix in (".npz", ".hdf5", ".h5", ".parquet")},
    "minari": lambda root, spec: minari_set(root, spec, spaces=True),
    "minari without spaces": lambda root, spec: minari_set(root, spec, spaces=False),
}
SHORT = "--steps 2 --evaluations 1 --episodes 1 --last-episodes 1 --set hidden=[4] batch_size=4"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", SOURCES)
def test_training_never_runs_what_the_data_names(
    fired: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, kind: str
) -> None:
    data = SOURCES[source](tmp_path, EVIL[kind])
    words = ["train", "offline", "--data", data, "--out", str(tmp_path / "run"), *SHORT.split()]
    line = complaint(capsys, *words)
    assert named_in(line), line
    assert "--env" in line and "--env none" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("source", SOURCES)
def test_every_other_command_reads_such_data(fired: Path, tmp_path: Path, source: str) -> None:
    data = SOURCES[source](tmp_path, EVIL["entry point"])
    main(["data", "info", data])
    main(["data", "check", data])
    main(["data", "convert", data, str(tmp_path / "copy.npz")])
    assert xql.open_dataset(str(tmp_path / "copy.npz")).environment == EVIL["entry point"]
    out = ["--out", str(tmp_path / "run")]
    main(["train", "offline", "--data", data, "--env", "none", *out, *SHORT.split()])
    config = RunConfig.load(tmp_path / "run")
    assert config.environment is None and not xql.Run.open(tmp_path / "run").evaluations


def columns() -> dict[str, np.ndarray]:
    return {
        "observations": np.zeros((4, 2), np.float32),
        "actions": np.zeros((4, 1), np.float32),
        "rewards": np.arange(4, dtype=np.float32),
        "terminals": np.array([0, 0, 0, 1], bool),
    }


def test_benchmark_files_name_no_environment(fired: Path, tmp_path: Path) -> None:
    described = json.dumps({"environment": EVIL["entry point"]})
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        for name, values in columns().items():
            file[name] = values
        file.attrs["xql"] = described
    np.savez(tmp_path / "og.npz", xql=np.array(described), **columns())  # type: ignore[arg-type]
    for kind, name in (("d4rl", "d4rl.hdf5"), ("ogbench", "og.npz")):
        assert xql.open_dataset(f"{kind}:{tmp_path / name}").environment is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An offline and an online run, whose config.yaml the tests rewrite."""
    home = tmp_path_factory.mktemp("runs")
    few: dict[str, Any] = {
        "evaluations": 1,
        "last_episodes": 1,
        "progress": False,
        "options": {"hidden": [4], "batch_size": 4},
    }
    line = register_line()
    xql.train_offline(line_data(), env=line, steps=2, out=home / "offline", **few)
    loop = OnlineLoop(warmup=5)
    xql.train_online(line, agent="sac", steps=10, loop=loop, out=home / "online", **few)
    return {name: home / name for name in ("offline", "online")}


def renamed(run: Path, folder: Path, environment: str) -> Path:
    """A copy of a run whose config.yaml names another environment."""
    shutil.copytree(run, folder)
    path = folder / "config.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(values | {"environment": environment}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_no_command_runs_what_a_run_folder_names(
    fired: Path,
    tmp_path: Path,
    trained: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    run, online = (
        str(renamed(trained[name], tmp_path / name, EVIL[kind])) for name in ("offline", "online")
    )
    film = str(tmp_path / "film.mp4")
    commands = [
        ["evaluate", run, "--episodes", "1"],
        ["evaluate", run, "--episodes", "1", "--video"],
        ["evaluate", online, "--episodes", "1", "--video-out", film],
        ["paper", "videos", "--left", run, "--right", online, "--out", film],
        ["gumbel", "errors", online],
    ]
    if sys.modules.get("minari") or importlib.util.find_spec("minari"):
        commands.append(["data", "make", "mujoco", "--kind", "random", "--run", online])
    for words in commands:
        line = complaint(capsys, *words)
        assert named_in(line), (words, line)
        assert run in line or online in line or kind == "entry point under a known id"
    main(["compare", run])
    with pytest.raises(InputError, match="`env`"):
        evaluate_run(run, episodes=1)
    assert not Path(film).exists()
    # The user's own word counts for more than the folder's.
    assert evaluate_run(run, episodes=1, env=register_line())


def test_the_command_line_trusts_what_it_is_told_to(
    tmp_path: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(trained["offline"])
    line = complaint(capsys, "evaluate", run, "--episodes", "1")
    assert line == (
        f"xql: {run}: the environment 'XQLTestLine-v0' is of the package worlds, which is not "
        "trusted; allow it with --trust-environment worlds, or give another with --env"
    )
    for allowed in ("worlds", "XQLTestLine-v0"):
        main(["evaluate", run, "--episodes", "1", "--trust-environment", allowed])
    line = complaint(capsys, "evaluate", run, "--trust-environment", "no_such_package")
    assert "--trust-environment: there is no package 'no_such_package', and no environment" in line
    data = line_data(episodes=2, environment="XQLTestLine-v0")
    few: dict[str, Any] = {"steps": 2, "evaluations": 1, "last_episodes": 1, "progress": False}
    options = {"hidden": [4], "batch_size": 4}
    with pytest.raises(InputError, match=r"or train without evaluation: `env='none'`$"):
        xql.train_offline(data, out=tmp_path / "a", options=options, **few)
    done = xql.train_offline(data, out=tmp_path / "b", options=options, trust=["worlds"], **few)
    assert len(done.evaluations) == 1
    assert "trust" not in yaml.safe_load((done.path / "config.yaml").read_text(encoding="utf-8"))


def test_a_trusted_package_is_imported_so_that_it_registers_its_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xql_test_plugin.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import PendulumEnv\n"
        "class Swing(PendulumEnv): pass\n"
        "if 'XQLTestSwing-v0' not in gymnasium.registry:\n"
        "    gymnasium.register('XQLTestSwing-v0', entry_point='xql_test_plugin:Swing')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    text = spec_text(id="XQLTestSwing-v0", entry_point="canary:make", kwargs={"g": 3.0})
    with pytest.raises(InputError, match=r"no trusted package registers the environment 'XQLTest"):
        trusted_environment(text, where="data")
    allowed = trusted_environment(text, ["xql_test_plugin"], where="data")
    env: Any = make_environment(allowed)
    assert type(env.unwrapped).__name__ == "Swing"
    assert (env.unwrapped.g, env.spec.max_episode_steps) == (3.0, 200)
    # A user may name a module to import.
    assert make_environment("xql_test_plugin:XQLTestSwing-v0").observation_space.shape == (3,)


def test_what_is_made_is_what_is_registered() -> None:
    text = spec_text(
        kwargs={"g": 2.0, "render_mode": "human"},
        max_episode_steps=7,
        additional_wrappers=[
            {"name": "FlattenObservation", "entry_point": "gymnasium.wrappers:F", "kwargs": {}},
            {"name": "DataCollector", "entry_point": "minari.data_collector:D", "kwargs": None},
        ],
        autoreset=False,  # of Gymnasium before 1.0
    )
    allowed = trusted_environment(text, where="data")
    assert json.loads(allowed) == {
        "id": "Pendulum-v1",
        "kwargs": {"g": 2.0},
        "max_episode_steps": 7,
    }
    env: Any = make_environment(allowed)
    assert (env.unwrapped.g, env.spec.max_episode_steps) == (2.0, 7)
    assert gymnasium.spec("Pendulum-v1").kwargs == {}
    assert gymnasium.spec("Pendulum-v1").max_episode_steps == 200


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"id": 3}, r"data: no environment can be read \(there is no id\); give another"),
        ({"max_episode_steps": "7"}, r"'Pendulum-v1' has a time limit of \"7\""),
        ({"max_episode_steps": True}, r"'Pendulum-v1' has a time limit of true"),
        ({"max_episode_steps": 0}, r"'Pendulum-v1' has a time limit of 0"),
        ({"kwargs": [1]}, r"the arguments of 'Pendulum-v1' are no object"),
        ({"kwargs": {"file": "/etc/passwd"}}, r"the argument file of .*'Pendulum-v1' names a file"),
        ({"kwargs": {"a": [{"b": "../x"}]}}, r"the argument a of .*'Pendulum-v1' names a file"),
        ({"additional_wrappers": "x"}, r"the wrappers of 'Pendulum-v1' are no list"),
        ({"additional_wrappers": [3]}, r"a wrapper of 'Pendulum-v1' has no name"),
        (
            {
                "additional_wrappers": [
                    {"name": "RescaleAction", "entry_point": "gymnasium.wrappers:R", "kwargs": {}}
                ]
            },
            r"'Pendulum-v1' was recorded through the wrapper RescaleAction, which may change",
        ),
        ({"id": "Evil\n\x1b-v0"}, r"registers the environment 'Evil\?\?-v0'"),
        ({"id": "\ud800-v0"}, r"no environment can be read \(it holds half of a surrogate pair"),
        ({"id": "x" * 1_000_000}, r"registers the environment 'x{80}'"),
        ({"id": ["Pendulum-v1"]}, r"no environment can be read \(there is no id\)"),
        ({"max_episode_steps": -1}, r"'Pendulum-v1' has a time limit of -1\)"),
        ({"max_episode_steps": "200"}, r"'Pendulum-v1' has a time limit of \"200\"\)"),
        ({"max_episode_steps": 10**300}, r"'Pendulum-v1' has a time limit of 1000"),
        ({"kwargs": {"frame_skip": 10**9}}, r"has a frame_skip of 1000000000\)"),
        ({"kwargs": {"frame_skip": -1}}, r"has a frame_skip of -1\)"),
        ({"kwargs": json.loads("[" * 100 + "]" * 100)}, r"read \(it is nested too deeply\)"),
    ],
)
def test_what_a_file_may_not_say(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line) as error:
        trusted_environment(spec_text(**changes), where="data")
    assert "\n" not in str(error.value) and "`env`" in str(error.value)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Pendulum-v1", {"colour": 1}),
        ("Pendulum-v1", {"self": 1}),
        ("Pendulum-v1", {"render_fps": 1}),
        ("Pendulum-v1", {"": 1}),
        ("FrankaKitchen-v1", {"tasks_to_complete": 3}),
        ("dm_control/hopper-hop", {"domain": "canary"}),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(name: str, kwargs: dict[str, Any]) -> None:
    pytest.importorskip("gymnasium_robotics")
    if name.startswith("dm"):
        pytest.importorskip("dm_control")
    allowed = trusted_environment(spec_text(id=name, kwargs=kwargs), where="data")
    with pytest.raises(InputError, match=rf"^{name}.*: ") as error:
        make_environment(allowed)
    assert "\n" not in str(error.value) and "`env`" in str(error.value)


def test_a_missing_simulator_says_how_to_go_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xql.envs.make.register_robotics", _missing)
    for name in [one for one in gymnasium.registry if one.startswith("AdroitHand")]:
        monkeypatch.delitem(gymnasium.registry, name)
    data: Dataset = line_data(environment=spec_text(id="AdroitHandDoor-v1"))
    with pytest.raises(
        ImportError, match=r"'extreme-q-learning\[mujoco\]'; or train without .*: `env='none'`$"
    ):
        xql.train_offline(data, steps=2, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    options = {"hidden": [4], "batch_size": 4}
    run = xql.train_offline(
        data, steps=2, evaluations=1, env="none", out=tmp_path / "run", options=options
    )
    assert run.evaluations == []


def _missing() -> None:
    from xql.errors import MissingExtra

    raise MissingExtra(
        "gymnasium_robotics is not installed; run: pip install 'extreme-q-learning[mujoco]'"
    )


@pytest.mark.parametrize(
    "name",
    ["AdroitHandDoor-v1", "PointMaze_UMaze-v3", "AntMaze_Medium-v4", "FrankaKitchen-v1"],
)
def test_the_environments_of_real_data_are_made(name: str) -> None:
    robotics = pytest.importorskip("gymnasium_robotics")
    gymnasium.register_envs(robotics)
    described = json.loads(gymnasium.spec(name).to_json())
    if "Maze" in name:
        plain = described["kwargs"]["maze_map"]
        described["kwargs"] |= {"maze_map": plain, "continuing_task": False, "reset_target": True}
    if "Kitchen" in name:
        described["kwargs"] |= {"tasks_to_complete": ["microwave", "light switch"]}
    described["max_episode_steps"] = 11
    env: Any = make_environment(trusted_environment(json.dumps(described), where="data"))
    env.reset(seed=0)
    assert env.spec.max_episode_steps == 11
    assert described["kwargs"].items() <= env.spec.kwargs.items()
    env.close()


@pytest.mark.parametrize(
    "name",
    [
        "xql/AntMaze_UMaze-v0",
        "xql/GoalAnt-v0",
        "xql/DMSD-v0",
        "xql/SafetyHalfCheetah-v0",
        "dm_control/lqr-2-1",
    ],
)
def test_our_own_environments_are_made_by_id(name: str) -> None:
    pytest.importorskip("gymnasium_robotics")
    if name.startswith("dm"):
        pytest.importorskip("dm_control")
        name = "dm_control/hopper-hop"
    env: Any = make_environment(trusted_environment(name, where="data"))
    again: Any = make_environment(trusted_environment(env.env.spec.to_json(), where="data"))
    first, second = (one.reset(seed=4)[0] for one in (env, again))
    assert np.array_equal(first, second)
    assert dataclasses.asdict(env.spec)["kwargs"] == dataclasses.asdict(again.spec)["kwargs"]
    env.close()
    again.close()


@pytest.mark.parametrize(
    "maze",
    [3, "abc", [], [[]], [3], [[1, 1], [1]], [[1, 1], [1, 1]], [[0, 1]], [["g", 1]], [["c", 1]]],
)
def test_a_maze_without_a_start_or_a_goal_is_never_played(maze: Any) -> None:
    """Gymnasium-Robotics would draw a start for ever."""
    text = json.dumps({"id": "PointMaze_UMaze-v3", "kwargs": {"maze_map": maze}})
    pytest.importorskip("gymnasium_robotics")
    with pytest.raises(InputError, match="has a maze_map with no way from start to goal"):
        trusted_environment(text, where="data")


@pytest.mark.parametrize("maze", [[[0, 0]], [["g", "r"]], [["g", 0]], [["c", "c"]], [["r", 1, 0]]])
def test_a_maze_with_both_is(maze: Any) -> None:
    pytest.importorskip("gymnasium_robotics")
    text = json.dumps({"id": "PointMaze_UMaze-v3", "kwargs": {"maze_map": maze}})
    assert json.loads(trusted_environment(text, where="data"))["kwargs"] == {"maze_map": maze}


@pytest.mark.parametrize(
    "changes",
    [
        {"entry_point": 3},
        {"kwargs": [1]},
        {"kwargs": {"": 1}},
        {"kwargs": {"self": 1}},
        {"kwargs": {"render_mode": 3}},
        {"max_episode_steps": "200"},
        {"max_episode_steps": 0},
        {"max_episode_steps": 10**300},
        {"additional_wrappers": 3},
        {"additional_wrappers": [3]},
        {"additional_wrappers": [{"name": "a", "entry_point": "b", "kwargs": 3}]},
        {"order_enforce": "yes"},
        {"id": None},
        {"kwargs": json.loads("[" * 100 + "]" * 100)},
    ],
)
def test_what_a_user_types_is_one_line_too(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        make_environment(spec_text(**changes))
    assert str(error.value).isprintable() and len(str(error.value)) < 700
