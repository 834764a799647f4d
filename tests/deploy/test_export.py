"""A run's policy as a file: what is written, that it acts as the run does, what is refused."""

import dataclasses
import functools
import hashlib
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import xql
from worlds import line_data
from xql.agents import OFFLINE, Algorithm
from xql.agents.bc import BCConfig, make_bc
from xql.cli import main
from xql.data.actions import require_box
from xql.data.columns import Column, TableColumns
from xql.data.dataset import Dataset
from xql.data.files import save_dataset
from xql.deploy import exporting
from xql.deploy.about import _familiar
from xql.errors import InputError, MissingExtra
from xql.runs import numpy_policy
from xql.runs.run import Run

ROWS = 40


def table() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "batch": np.repeat(["b1", "b2"], ROWS // 2),
        "east": 388096.5 + 0.001 * random.normal(size=ROWS),
        "grade": random.choice(["1", "B"], ROWS),
        "valve_hot": random.uniform(10.0, 90.0, ROWS),
        "valve_cold": random.uniform(0.0, 1.0, ROWS),
        "gain": random.normal(size=ROWS),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Of a table, two seeds."""
    home = tmp_path_factory.mktemp("plant")
    data = xql.open_table(
        table(),
        observation="east",
        action="valve_*",
        reward="gain",
        episode="batch",
        categorical="grade",
    )
    return xql.train_offline(
        save_dataset(data, home / "plant.npz"),
        agent="bc",
        steps=2,
        seeds=2,
        options={"hidden": [4], "batch_size": 4, "observations": "standardised"},
        out=home / "run",
        progress=False,
    )


@pytest.fixture
def rows(run: Run) -> np.ndarray:
    return xql.open_dataset(run.config.data.source).observations


def call(path: Path, observations: np.ndarray) -> np.ndarray:
    exported: Any = jax.export.deserialize(bytearray(path.read_bytes()))
    return np.asarray(exported.call(observations))


def row(place: int = 3) -> dict[str, Any]:
    return {name: values[place] for name, values in table().items()}


def test_numpy_alone_acts_on_a_row(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "controller.npz"
    assert xql.export(run.path, out, member=1) == out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "controller.card.md",
        "controller.json",
        "controller.npz",
        "policy.py",
    ]
    program = """
import json, sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {"numpy", "policy", *sys.stdlib_module_names}:
            raise ImportError(f"{name} is not the standard library's")
sys.meta_path.insert(0, Only())
from policy import Policy
policy = Policy("controller.npz")
row = json.loads(sys.argv[1])
try:
    policy([float("nan"), 0.0, 1.0])
except ValueError as error:
    refused = str(error)
batch = policy([[0.0, 1.0, 0.0], [0.001, 0.0, 1.0]]).tolist()
print(json.dumps([policy.act(row), batch, refused, policy.about["seed"]]))
"""
    plain = {key: str(value) for key, value in row().items()} | {"grade": 1.0}
    plain["east"] = float(row()["east"])
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(plain)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    named, batch, refused, seed = json.loads(done.stdout)
    policy = xql.load_policy(run.path, 1)
    expected = policy.act(row() | {"grade": "1"})
    assert list(named) == ["valve_hot", "valve_cold"]
    for name, value in expected.items():
        assert named[name] == pytest.approx(value, abs=1e-6 * 80)
    observations = np.array([[0.0, 1.0, 0.0], [0.001, 0.0, 1.0]])
    np.testing.assert_allclose(batch, policy.flat(observations), atol=1e-6 * 80, rtol=0)
    assert "finite" in refused
    assert seed == 1


class Encoding(numpy_policy.Policy):
    """Says what the loader makes of a row."""

    def __init__(self, columns: TableColumns) -> None:
        observation = {
            "columns": [dataclasses.asdict(one) for one in columns.observation],
            "missing_values": list(columns.missing_values),
        }
        action = {"kind": "box", "columns": [dataclasses.asdict(one) for one in columns.action]}
        self.about = {"observation": observation, "action": action}

    def __call__(self, observation: Any) -> Any:
        self.seen = np.asarray(observation, np.float32)
        return [0.0]


@pytest.mark.parametrize(
    "row",
    [
        {"flow": 1.5, "open": True, "grade": "B"},
        {"flow": np.float32(0.25), "open": "False", "grade": 1.0},
        {"flow": -1, "open": False, "grade": "?"},
        {"flow": -1.0, "open": False, "grade": "B"},
        {"flow": "-999.0", "open": False, "grade": "B"},
        {"flow": -9, "open": False, "grade": "-1"},
    ],
    ids=str,
)
def test_the_loader_encodes_a_row_as_the_policy_does(row: dict[str, Any]) -> None:
    columns = TableColumns(
        (
            Column("flow", offset=1.0),
            Column("open", ("false", "true")),
            Column("grade", ("1", "B")),
        ),
        (Column("valve"),),
        "gain",
        missing_values=("-999", "flow=-1", "?"),
    )
    loader = Encoding(columns)
    try:
        expected = columns.encode(row)
    except InputError:
        with pytest.raises(ValueError, match=r"is missing|the table never had"):
            loader.act(row)
    else:
        loader.act(row)
        np.testing.assert_array_equal(loader.seen, expected)


def test_the_loader_is_short() -> None:
    text = Path(inspect.getfile(numpy_policy)).read_text("utf-8")
    assert len(text.splitlines()) <= 125


def test_what_the_data_did_not_have_is_named(run: Run, tmp_path: Path) -> None:
    policy = numpy_policy.Policy(xql.export(run.path, tmp_path / "a.npz"))
    assert policy.unfamiliar(row()) == []
    (said,) = policy.unfamiliar(row() | {"east": 388097.0})
    assert said.startswith("east is 388097; familiar are 388096.")
    # An observation is asked about in the same way; its numbers are less the offset.
    observation = policy.encode(row())
    assert policy.unfamiliar(observation) == []
    offset = policy.about["observation"]["columns"][0]["offset"]
    assert policy.unfamiliar([388097.0 - offset, *observation[1:]]) == [said]
    assert len(policy.unfamiliar([np.nan, 0.0, 2.0])) == 2
    east = table()["east"]
    for beyond, expected in ((0.04, 0), (0.06, 1)):  # of the range, a twentieth is forgiven
        moved = east.max() + beyond * np.ptp(east)
        assert len(policy.unfamiliar(row() | {"east": moved})) == expected
    # A policy whose data was not there says that it cannot say.
    policy.about["observation"]["familiar"] = None
    with pytest.raises(ValueError, match="export the policy with its data"):
        policy.unfamiliar(row())


def test_a_rare_category_is_not_familiar() -> None:
    grades = np.repeat([[1.0, 0.0], [0.0, 1.0]], [50, 4], axis=0)
    columns = TableColumns((Column("grade", ("A", "B")),), (Column("valve"),), "gain")
    zeros = np.zeros(54, np.float32)
    data = Dataset.from_arrays(grades, zeros[:, None], zeros, zeros, np.ones(54), grades)
    familiar = {"familiar": _familiar(data, columns)}
    assert numpy_policy.unfamiliar([1.0, 0.0], familiar) == []
    assert numpy_policy.unfamiliar([0.0, 1.0], familiar) == ["grade=B is 1; familiar are 0 to 0"]


@pytest.mark.parametrize("format", ["onnx", "stablehlo"])
def test_the_command_writes_every_other_format(
    run: Run, rows: np.ndarray, format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if format == "onnx":
        pytest.importorskip("onnx", reason="onnx is not installed")
    out = tmp_path / "new" / f"policy.{format}"
    main(["export", str(run.path), "--format", format, "--out", str(out)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("member 0 (seed 0) of 2; --member N takes another; step 2; sha256")
    files = [out, out.with_suffix(".json"), out.with_suffix(".card.md")]
    assert printed[1:] == [str(one) for one in files]
    assert sorted(out.parent.iterdir()) == sorted(files)
    expected = run.policies[0].flat(rows)
    if format == "onnx":
        runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
        found = session.run(None, {"observation": rows})[0]
        about = json.loads(session.get_modelmeta().custom_metadata_map["xql"])
        assert about == json.loads(files[1].read_text("utf-8"))
    else:
        found = call(out, rows)
    actions = require_box(run.config.data.actions)
    ranges = np.subtract(actions.high, actions.low)
    assert (np.abs(found - expected) / ranges).max() < 1e-6


def test_what_it_says_of_itself(run: Run, rows: np.ndarray, tmp_path: Path) -> None:
    done = exporting.export_policy(run.path, tmp_path / "policy.npz", member=1)
    about = done.about
    assert json.loads((tmp_path / "policy.json").read_text("utf-8")) == about
    assert json.loads(np.load(done.path)["xql"].tobytes()) == about
    assert (about["format"], about["member"], about["seed"], about["step"]) == (1, 1, 1, 2)
    assert about["observation"]["names"] == ["east", "grade=1", "grade=B"]
    assert [one["categories"] for one in about["observation"]["columns"]] == [[], ["1", "B"]]
    assert about["observation"]["columns"][0]["offset"] == pytest.approx(388096.5, abs=1.0)
    np.testing.assert_array_equal(about["observation"]["seen"]["low"], rows.min(0))
    np.testing.assert_array_equal(about["observation"]["seen"]["high"], rows.max(0))
    assert about["action"]["kind"] == "box"
    assert about["action"]["names"] == ["valve_hot", "valve_cold"]
    assert about["data"]["source"] == "plant.npz"
    assert about["data"]["fingerprint"] == run.config.data.fingerprint
    assert (about["scores"], about["ope"]) == (None, None)
    with np.load(done.path) as file:
        digest = hashlib.sha256()
        for name in sorted(set(file.files) - {"xql", "program"}):
            digest.update(f"{name} {file[name].dtype.str} {file[name].shape}\n".encode())
            digest.update(file[name].tobytes())
    assert about["sha256"] == digest.hexdigest()
    card = (tmp_path / "policy.card.md").read_text("utf-8")
    for part in (
        "member 1 of 2, seed 1",
        "not evaluated",
        "| grade=B | 0 |",
        "licence",
        "| east | 38",
    ):
        assert part in card
    assert str(run.path.parent) not in card + json.dumps(about)


def test_the_ranges_are_unknown_where_the_data_is_gone(run: Run, tmp_path: Path) -> None:
    home = Path(run.config.data.source)
    moved = home.rename(tmp_path / "plant.npz")
    try:
        about = exporting.export_policy(run.path, tmp_path / "a.npz").about
        given = exporting.export_policy(run.path, tmp_path / "b.npz", data=moved).about
        with pytest.raises(InputError, match="what the run learned from"):
            xql.export(run.path, tmp_path / "c.npz", data=line_data())
    finally:
        moved.rename(home)
    assert about["observation"]["seen"] is None
    assert "cannot be opened any more" in about["data"]["not_seen"]
    assert "are not known (its data cannot be" in (tmp_path / "a.card.md").read_text("utf-8")
    assert given["observation"]["seen"] is not None


def test_the_ranges_are_unknown_where_no_reader_is_installed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> None:
        raise MissingExtra("pyarrow is not installed")

    monkeypatch.setattr("xql.deploy.about.reopen", missing)
    about = exporting.export_policy(run.path, tmp_path / "a.npz").about
    assert about["data"]["not_seen"] == "pyarrow is not installed"


def test_an_environment_of_ones_own_is_named(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    text = config.read_text("utf-8")
    assert "\nenvironment: null\n" in text
    stated = """environment: '{"python": "Tank", "max_episode_steps": 5}'"""
    config.write_text(text.replace("environment: null", stated), "utf-8")
    about = exporting.export_policy(tmp_path / "run", tmp_path / "a.npz").about
    assert about["environment"] == "Tank"


def test_a_verdict_stands_in_the_card(run: Run, tmp_path: Path) -> None:
    estimate = {"estimate": 2.0, "low": 1.0, "high": None}
    verdict = {
        "verdict": "cannot be said",
        "member": 1,
        "step": 2,
        "discount": 0.99,
        "data": {"name": "plant", "source": "/home/someone/plant.npz"},
        "policy": estimate,
        "warnings": ["few rows"],
    }
    place = run.path / "ope.json"
    try:
        place.write_text(json.dumps(verdict), "utf-8")
        about = exporting.export_policy(run.path, tmp_path / "a.npz").about
        xql.export(run.path, tmp_path / "b.npz", member=1)
        place.write_text("[]", "utf-8")
        with pytest.raises(InputError, match=r"ope.json: this file is damaged \(it holds no obj"):
            xql.export(run.path, tmp_path / "c.npz")
    finally:
        place.unlink()
    assert about["ope"]["data"]["source"] == "plant.npz"
    other, own = ((tmp_path / f"{name}.card.md").read_text("utf-8") for name in "ab")
    assert "**cannot be said**" in own
    assert "| policy | 2 [1, not finite] |" in own
    assert "- few rows" in own
    assert "another policy than this" in other
    assert "another policy than this" not in own
    assert not (tmp_path / "c.npz").exists()


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    first = tmp_path / "policy.npz"
    xql.export(run.path, first)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"policy\.npz: the file exists; give another name"):
        xql.export(run.path, first, member=1)
    # Of another member, the metadata is another too.
    with pytest.raises(InputError, match=r"policy\.json: the file exists"):
        xql.export(run.path, tmp_path / "policy.stablehlo", format="stablehlo", member=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "policy.py").write_text("mine")
    with pytest.raises(InputError, match=r"policy\.py: another file has the name .*another folder"):
        xql.export(run.path, tmp_path / "other.npz")
    (tmp_path / "policy.py").write_bytes(before[tmp_path / "policy.py"])
    # Of the same one it is the same, and the loader is that of every policy.
    xql.export(run.path, tmp_path / "policy.stablehlo", format="stablehlo")
    xql.export(run.path, tmp_path / "other.npz", member=1)
    assert len(list(tmp_path.iterdir())) == 8


def test_without_a_name_it_lies_in_the_run(run: Run) -> None:
    assert xql.export(run.path, format="numpy") == run.path / "export" / "policy-0.npz"


def refused(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(["export", *words])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_bad_input_is_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = str(run.path)
    say: Callable[..., str] = functools.partial(refused, capsys=capsys)
    out = ["--out", str(tmp_path / "policy.npz")]
    assert "there is no such run folder" in say(str(tmp_path / "none"), *out)
    assert "there is no member 2; choose 0 to 1" in say(here, "--member", "2", *out)
    assert "there is no checkpoint 7" in say(here, "--step", "7", *out)
    assert "a file of format onnx ends in .onnx; name it policy.onnx" in say(
        here, "--format", "onnx", *out
    )
    assert "--format" in say(here, "--format", "torch", *out)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"onnx is not installed; run: pip install .*\[export\]"):
        xql.export(run.path, tmp_path / "policy.onnx", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_agent_of_ones_own_goes_to_stablehlo_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(config: Any, steps: int) -> Any:
        agent = make_bc(config, steps)
        halve = lambda state: jax.tree_util.Partial(_halved, agent.actor(state))  # type: ignore[no-untyped-call]  # noqa: E731
        return agent._replace(actor=halve)

    observations = np.array([[0.0, 1.0, 0.0], [0.001, 0.0, 1.0]], np.float32)
    expected = xql.load_policy(run.path).flat(observations) / 2
    monkeypatch.setitem(OFFLINE, "bc", Algorithm(BCConfig, make))
    with pytest.raises(InputError, match="acts by a policy that only stablehlo can hold; take `fo"):
        xql.export(run.path, tmp_path / "policy.npz")
    path = xql.export(run.path, tmp_path / "policy.stablehlo", format="stablehlo")
    found = call(path, observations)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    halved = xql.load_policy(run.path)
    np.testing.assert_allclose(halved(observations[0]), expected[0], rtol=1e-6)
    assert json.loads(path.with_suffix(".json").read_text("utf-8"))["network"] is None


def _halved(actor: Any, observations: Any, key: Any = None) -> Any:
    return actor(observations, key) / 2
