import json
import socket
import warnings
from pathlib import Path
from typing import Any, Never

import gymnasium as gym
import numpy as np
import pytest

from xql.data import minari as source
from xql.data.actions import Discrete
from xql.data.check import check_dataset
from xql.data.dataset import Dataset
from xql.data.files import save_dataset
from xql.data.local import local_names
from xql.data.sources import open_dataset
from xql.errors import InputError

pytest.importorskip("minari")
BOX = gym.spaces.Box(-9, 9, (2,))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    return tmp_path


def make(
    name: str,
    observe: Any,
    space: Any,
    actions: np.ndarray | None = None,
    action_space: Any = None,
    **describe: Any,
) -> None:
    """Four episodes of 3, 1, 2 and 3 steps: terminated, cut, both unmarked, terminated inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # minari asks for authors, and its readers leak a file
        import minari
        from minari.data_collector import EpisodeBuffer

        buffers = []
        flags = [([0, 0, 1], [0, 0, 0]), ([0], [1]), ([0, 0], [0, 0]), ([1, 0, 0], [0, 0, 1])]
        for index, (terminations, truncations) in enumerate(flags):
            steps = len(terminations)
            acted = np.full((steps, 2), 0.5, np.float32) if actions is None else actions[:steps]
            buffers.append(
                EpisodeBuffer(
                    id=index,
                    observations=observe(np.arange(steps + 1) + 10 * index),
                    actions=acted,
                    rewards=(np.arange(steps) + 10.0 * index),
                    terminations=np.array(terminations, bool),
                    truncations=np.array(truncations, bool),
                )
            )
        if action_space is None:
            plain = gym.spaces.Box(-1, 2, (2,))
            action_space = plain if actions is None else gym.spaces.Discrete(3)
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=space, action_space=action_space, **describe
        )


def flat(ticks: Any) -> Any:
    return np.stack([ticks, -ticks], axis=1).astype(np.float32)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_masks_and_layout(root: Path, data_format: str) -> None:
    make("toy/flat-v0", flat, BOX, data_format=data_format)
    data = open_dataset("minari:toy/flat-v0", download=False)
    # The fourth episode's first step is a termination in its middle: cut there, its mask is 0.
    assert data.lengths.tolist() == [3, 1, 2, 1, 2]
    assert data.terminated.tolist() == [True, False, False, True, False]
    assert data.truncated.tolist() == [False, True, False, False, True]
    assert data.rewards[data.masks == 0].tolist() == [2.0, 30.0]
    assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 10, 11, 20, 21, 22, 30, 31, 31, 32, 33]
    assert (data.name, data.source) == ("toy/flat-v0", "minari:toy/flat-v0")
    assert data.action_low is not None and data.action_high is not None
    assert data.action_low.tolist() == [-1, -1]
    assert data.action_high.tolist() == [2, 2]
    assert data.environment is None
    assert local_names() == ["toy/flat-v0"]


def nested(ticks: Any) -> Any:
    rows = flat(ticks)
    return {"observation": rows, "goal": {"b": rows * 2, "a": rows[:, :1] * 3}}


NESTED = gym.spaces.Dict(
    observation=BOX, goal=gym.spaces.Dict(b=BOX, a=gym.spaces.Box(-9, 9, (1,)))
)


GOALS = gym.spaces.Dict(observation=BOX, desired_goal=BOX)


def test_a_goal_that_moves_cannot_be_left_out(root: Path) -> None:
    make("toy/moving-v0", lambda t: {"observation": flat(t), "desired_goal": flat(t // 10)}, GOALS)
    message = (
        r"^minari:toy/moving-v0: the keys leave out 'desired_goal', a goal that is not always the "
        r"same; keep it: \?keys=desired_goal,observation$"
    )
    with pytest.raises(InputError, match=message):
        open_dataset("minari:toy/moving-v0?keys=observation")
    kept = open_dataset("minari:toy/moving-v0?keys=observation,desired_goal")
    assert kept.observation_size == 4


def test_a_goal_that_stays_can_be_left_out(root: Path) -> None:
    make("toy/still-v0", lambda t: {"observation": flat(t), "desired_goal": flat(t * 0)}, GOALS)
    assert open_dataset("minari:toy/still-v0?keys=observation").observation_size == 2


def test_nested_observations_and_selection(root: Path) -> None:
    make("kitchen-v1", nested, NESTED)
    data = open_dataset("minari:kitchen-v1")
    assert data.observations[1].tolist() == [3, 2, -2, 1, -1]
    assert data.metadata["observation_layout"] == [["goal/a", 1], ["goal/b", 2], ["observation", 2]]
    some = open_dataset("minari:kitchen-v1?keys=observation")
    assert isinstance(some, Dataset)
    assert some.metadata["observation_keys"] == ["observation"]
    assert some.source == "minari:kitchen-v1?keys=observation"
    np.testing.assert_array_equal(some.observations, data.observations[:, 3:])
    with pytest.raises(InputError, match=r"^minari:kitchen-v1: the observation has no key 'gol';"):
        open_dataset("minari:kitchen-v1?keys=gol")


def test_the_environment_specification_comes_along(root: Path) -> None:
    scores: dict[str, Any] = {"ref_min_score": 1.0, "ref_max_score": 5.0}
    make("spec-v0", flat, BOX, env="Pendulum-v1", eval_env="Pendulum-v1", **scores)
    data = open_dataset("minari:spec-v0")
    assert scores.items() <= data.metadata.items()
    assert data.environment is not None and data.evaluation_environment is not None
    assert gym.envs.registration.EnvSpec.from_json(data.evaluation_environment).id == "Pendulum-v1"
    assert gym.envs.registration.EnvSpec.from_json(data.environment).id == "Pendulum-v1"


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_discrete_actions_are_one_hot(root: Path, data_format: str) -> None:
    make("discrete-v0", flat, BOX, actions=np.array([0, 1, 2]), data_format=data_format)
    data = open_dataset("minari:discrete-v0")
    assert data.action_spec == Discrete(3) and data.action_low is None
    # Episodes of 3, 1, 2 and, cut after its first step, 1 and 2 steps.
    expected = [0, 1, 2, 0, 0, 1, 0, 1, 2]
    np.testing.assert_array_equal(data.actions[data.starts], np.eye(3)[expected])


@pytest.mark.parametrize("suffix", [".npz", ".hdf5", ".parquet"])
def test_many_discrete_actions_are_saved_and_opened_again(root: Path, suffix: str) -> None:
    space = gym.spaces.Discrete(10_000)
    make("many-v0", flat, BOX, actions=np.array([0, 9_999, 5]), action_space=space)
    data = open_dataset("minari:many-v0")
    assert data.action_spec == Discrete(10_000)
    again = open_dataset(save_dataset(data, root / f"many{suffix}"))
    assert again.action_spec == data.action_spec
    assert again.fingerprint() == data.fingerprint()


def test_too_many_discrete_actions_are_refused(root: Path) -> None:
    space = gym.spaces.Discrete(10_001)
    make("many-v0", flat, BOX, actions=np.array([0, 1, 2]), action_space=space)
    line = r"^many-v0: there are 10,001 discrete actions; at most 10,000 are supported$"
    with pytest.raises(InputError, match=line):
        open_dataset("minari:many-v0")


def test_other_spaces_of_actions_are_refused(root: Path) -> None:
    space = gym.spaces.MultiDiscrete([3, 2])
    make("multi-v0", flat, BOX, actions=np.ones((3, 2), int), action_space=space)
    with pytest.raises(InputError, match=r"^minari:multi-v0: the actions are MultiDiscrete"):
        open_dataset("minari:multi-v0")


def test_damaged_and_nan(root: Path) -> None:
    make("toy/flat-v0", flat, BOX)
    file = root / "toy/flat-v0/data/main_data.hdf5"
    whole = file.read_bytes()
    import h5py

    with h5py.File(file, "a") as opened:
        opened["episode_1/observations"][1, 0] = np.nan
    with pytest.raises(InputError, match=r": NaN in observations, row \(as laid out\) 5, column 0"):
        open_dataset("minari:toy/flat-v0")
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"^minari:toy/flat-v0: it cannot be read \(.*; remove .*"):
        open_dataset("minari:toy/flat-v0")


def test_no_network_says_at_once_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("toy/flat-v0", flat, BOX)
    asked = []

    def refuse(address: Any, timeout: Any) -> Never:
        asked.append((address, timeout))
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("HF_ENDPOINT", "https://remote.invalid")
    with pytest.raises(InputError) as caught:
        open_dataset("minari:D4RL/door/human-v2")
    assert str(caught.value) == (
        "minari:D4RL/door/human-v2: the dataset is not on this machine and remote.invalid cannot "
        "be reached; run 'minari download D4RL/door/human-v2' on a machine with a network and copy "
        f"its folder to {root}/D4RL/door/human-v2, or set MINARI_DATASETS_PATH to where it is"
    )
    assert asked == [(("remote.invalid", 443), source.PROBE_SECONDS)]
    with pytest.raises(InputError, match=r"; did you mean 'toy/flat-v0'\? Otherwise run 'minari"):
        open_dataset("minari:toy/flt-v0")
    with pytest.raises(InputError, match=r"^minari:D4RL/.*: the dataset is not on this machine;"):
        open_dataset("minari:D4RL/kitchen/mixed-v2", download=False)
    assert len(asked) == 2


def test_a_resolver_that_hangs_is_not_waited_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(source, "PROBE_SECONDS", 0.05)

    def hang(address: Any, timeout: Any) -> Never:
        release.wait(30)
        raise OSError("too late")

    monkeypatch.setattr(socket, "create_connection", hang)
    assert not source.reachable("remote.invalid", 443)
    release.set()


def test_a_failed_download_is_told_in_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    def fail(name: str) -> Never:
        raise RuntimeError(f"404 for {name}\nand a long trace")

    monkeypatch.setattr(source, "reachable", lambda host, port: True)
    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(InputError, match=r"^minari:a-v0: the download failed \(404 for a-v0\);"):
        open_dataset("minari:a-v0")


def test_bad_names(root: Path) -> None:
    with pytest.raises(InputError, match=r"^minari:\.\./x: this is no Minari name; a name looks"):
        open_dataset("minari:../x")


def hdf5(root: Path) -> Any:
    import h5py

    return h5py.File(root / "toy/flat-v0/data/main_data.hdf5", "a")


def put(group: Any, key: Any, values: Any) -> None:
    del group[key]
    group[key] = values


@pytest.mark.parametrize(
    ("key", "values", "line"),
    [
        ("rewards", np.zeros(0), r"episode 2: it has no step; leave it out of the dataset"),
        (
            "rewards",
            np.zeros((2, 2)),
            r"episode 2: its rewards are float64 of shape \(2, 2\); 2 ",
        ),
        (
            "actions",
            np.zeros((2, 3)),
            r"episode 2: its actions are float64 of shape \(2, 3\); 2 ",
        ),
        ("actions", np.zeros((1, 4)), r"episode 2: its actions are .*; 2 steps need 2 x 2 numbers"),
        (
            "terminations",
            np.zeros(1, bool),
            r"episode 2: its terminations are bool of shape \(1,",
        ),
        ("truncations", np.bool_(0), r"episode 2: its truncations are bool of shape \(\); 2 steps"),
        ("observations", np.zeros((4, 2)), r"episode 2 has 2 steps and 4 of ''; an episode needs"),
        ("observations", np.zeros((3, 5)), r"'' of episode 2 is float64 of shape \(3, 5\); its sp"),
        (
            "observations",
            np.array([b"a"] * 3),
            r"'' of episode 2 is \|S1 of shape \(3,\); its",
        ),
    ],
)
def test_an_episode_of_the_wrong_shape_is_named(
    root: Path, key: str, values: Any, line: str
) -> None:
    make("toy/flat-v0", flat, BOX)
    with hdf5(root) as file:
        put(file["episode_2"], key, values)
    with pytest.raises(InputError, match=rf"^minari:toy/flat-v0: {line}"):
        open_dataset("minari:toy/flat-v0")


def test_all_that_is_not_finite_can_be_named(root: Path) -> None:
    make("toy/flat-v0", flat, BOX)
    with hdf5(root) as file:
        file["episode_0/observations"][1, 0] = np.nan
        file["episode_2/observations"][2, 1] = np.nan
    found = check_dataset(open_dataset("minari:toy/flat-v0", finite=False))
    assert [finding.where for finding in found] == [
        "row 1; the final observation of episode 2; columns 0, 1"
    ]


def test_a_folder_that_may_not_be_read_is_not_to_be_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("toy/flat-v0", flat, BOX)

    def barred(*_: Any, **__: Any) -> Never:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr(source, "_from_hdf5", barred)
    with pytest.raises(InputError) as caught:
        open_dataset("minari:toy/flat-v0")
    assert "it cannot be read (Permission denied); see to its permissions" in str(caught.value)
    assert "remove" not in str(caught.value)


def test_columns_of_one_number_and_a_missing_file(root: Path) -> None:
    make("toy/flat-v0", flat, BOX)
    before = open_dataset("minari:toy/flat-v0")
    with hdf5(root) as file:
        for key in ("rewards", "terminations", "truncations"):
            put(file["episode_3"], key, file[f"episode_3/{key}"][()][:, None])
    again = open_dataset("minari:toy/flat-v0")
    np.testing.assert_array_equal(again.rewards, before.rewards)
    np.testing.assert_array_equal(again.masks, before.masks)
    (root / "toy/flat-v0/data/metadata.json").unlink()
    with pytest.raises(InputError, match=r"it cannot be read \(.*\); remove .* and fetch it again"):
        open_dataset("minari:toy/flat-v0")


def test_an_unbounded_action_space_states_no_bounds(root: Path) -> None:
    space = gym.spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32))
    make("toy/flat-v0", flat, BOX, action_space=space)
    data = open_dataset("minari:toy/flat-v0")
    assert data.action_low is None
    assert data.action_high is None


TEXT = gym.spaces.Text(40, charset="abcdefghijklmnopqrstuvwxyz ")
PICTURE = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)


def other(space: Any, value: Any) -> Any:
    """Observations with the two numbers under "state" and another space under "more"."""
    spaces = gym.spaces.Dict(state=BOX, more=space)
    return lambda ticks: {"state": flat(ticks), "more": [value] * len(ticks)}, spaces


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("space", "value", "shown"),
    [
        (TEXT, "lift the cube", r"Text\(1, 40, "),
        (gym.spaces.Discrete(20_000), 2, r"Discrete\(20000\): 20,000 numbers as one-hot rows"),
        (PICTURE, np.zeros((64, 64, 3), np.uint8), r"Box\(0, 255, .*, uint8\), an image"),
    ],
)
def test_what_is_no_vector_can_be_left_out(
    root: Path, data_format: str, space: Any, value: Any, shown: str
) -> None:
    observe, spaces = other(space, value)
    make("arm/other-v0", observe, spaces, data_format=data_format)
    message = rf"^minari:arm/other-v0: the observation 'more' is {shown}.*; \?keys=state leaves it"
    with pytest.raises(InputError, match=message) as caught:
        open_dataset("minari:arm/other-v0")
    assert "\n" not in str(caught.value)
    data = open_dataset("minari:arm/other-v0?keys=state")
    assert data.observation_size == 2
    with pytest.raises(InputError, match=r"the observation 'more' is .*; \?keys=state leaves it"):
        open_dataset("minari:arm/other-v0?keys=more,state")


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("space", "value", "row"),
    [
        (gym.spaces.Discrete(3, start=5), 6, [0, 1, 0]),
        (gym.spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (gym.spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
    ],
)
def test_choices_are_one_hot_rows(
    root: Path, data_format: str, space: Any, value: Any, row: list[int]
) -> None:
    observe, spaces = other(space, value)
    make("arm/other-v0", observe, spaces, data_format=data_format)
    data = open_dataset("minari:arm/other-v0")
    assert data.metadata["observation_layout"] == [["more", len(row)], ["state", 2]]
    np.testing.assert_array_equal(data.observations[:, :-2], np.tile(row, (len(data.rewards), 1)))


def test_a_choice_that_its_space_does_not_have(root: Path) -> None:
    make("arm/grid-v0", lambda ticks: [4] * len(ticks), gym.spaces.Discrete(9))
    assert open_dataset("minari:arm/grid-v0").observation_size == 9
    path = root / "arm/grid-v0/data/metadata.json"
    described = json.loads(path.read_text())
    space = json.loads(described["observation_space"])
    described["observation_space"] = json.dumps(space | {"n": 3})
    path.write_text(json.dumps(described))
    line = r"^minari:arm/grid-v0: episode 0: its observation: it is 4, not one of 0 to 2; check"
    with pytest.raises(InputError, match=line):
        open_dataset("minari:arm/grid-v0")


def test_nothing_but_text(root: Path) -> None:
    make("arm/words-v0", lambda ticks: ["a"] * len(ticks), TEXT)
    with pytest.raises(InputError, match=r"words-v0: the observation is Text\(.*; only vectors of"):
        open_dataset("minari:arm/words-v0")


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_a_tuple_is_flattened_in_order(root: Path, data_format: str) -> None:
    pair = gym.spaces.Tuple((gym.spaces.Box(-9, 9, (1,)), BOX))
    make("arm/pair-v0", lambda t: (flat(t)[:, :1] * 3, flat(t)), pair, data_format=data_format)
    data = open_dataset("minari:arm/pair-v0")
    assert data.observations[1].tolist() == [3, 1, -1]
    assert data.metadata["observation_layout"] == [["0", 1], ["1", 2]]
    inside = gym.spaces.Dict(state=BOX, pair=pair)
    observe = lambda t: {"state": flat(t), "pair": (flat(t)[:, :1] * 3, flat(t))}  # noqa: E731
    make("arm/inside-v0", observe, inside, data_format=data_format)
    data = open_dataset("minari:arm/inside-v0?keys=pair")
    assert data.observations[1].tolist() == [3, 1, -1]
