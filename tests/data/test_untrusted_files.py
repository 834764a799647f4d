"""Files that try to run code, to read other files, or to write outside of their place."""

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from worlds import line_data
from xql.data.files import save_dataset
from xql.data.sources import open_dataset
from xql.errors import InputError
from xql.runs.config import RunConfig
from xql.runs.folder import free_folder

NUMBERS = np.zeros((4, 2), np.float32)


class Bomb:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def fired(tmp_path: Path) -> Path:
    return tmp_path / "fired"


def columns(**changes: Any) -> dict[str, Any]:
    flags = np.array([0, 0, 0, 1], bool)
    return {
        "observations": NUMBERS,
        "actions": NUMBERS[:, :1],
        "rewards": NUMBERS[:, 0],
        "terminated": flags,
        "truncated": ~flags & flags,
    } | changes


@pytest.mark.parametrize("name", ["observations", "rewards", "episode", "xql"])
def test_a_pickle_in_an_npz_is_never_opened(tmp_path: Path, fired: Path, name: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **columns(**{name: np.array([Bomb(fired)] * 4, object)}))
    with pytest.raises(InputError) as error:
        open_dataset(str(path))
    assert str(error.value) == (
        f"{path}: '{name}' holds Python objects (a pickle), which are never opened; store it as an "
        "array of numbers"
    )
    assert not fired.exists()


def test_a_pickle_under_the_name_of_an_npz_is_never_opened(tmp_path: Path, fired: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Bomb(fired)))
    for source in (str(path), f"ogbench:{path}"):
        with pytest.raises(InputError, match=r"a\.npz: truncated, or not what its name says: nump"):
            open_dataset(source)
    assert not fired.exists()


def test_members_of_an_npz_are_names_and_not_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    path = tmp_path / "inner" / "a.npz"
    np.savez(path, **columns())
    with zipfile.ZipFile(path) as archive:
        array = archive.read("rewards.npy")
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../outside.npy", "/tmp/outside.npy", "observations/../../x.npy"):
            archive.writestr(name, array)
    with pytest.raises(InputError):  # an observation is one column, or several, but not both
        open_dataset(f"{path}?keys=..")
    assert open_dataset(str(path)).transitions == 4
    assert {file.name for file in tmp_path.rglob("*")} == {"inner", "a.npz"}


@pytest.mark.parametrize("tag", ["python/object/apply:os.mkdir", "python/name:os.mkdir"])
def test_a_yaml_tag_makes_no_object(tmp_path: Path, fired: Path, tag: str) -> None:
    arguments = f" [{fired}]" if "apply" in tag else ""
    (tmp_path / "config.yaml").write_text(f"version: 2\nagent: !!{tag}{arguments}\n")
    with pytest.raises(InputError, match=r"config\.yaml: this is not YAML: .*; restore") as error:
        RunConfig.load(tmp_path)
    assert "\n" not in str(error.value)
    assert not fired.exists()


def test_settings_on_the_command_line_are_plain_yaml(fired: Path) -> None:
    from xql.cli.train import parse_settings

    with pytest.raises(InputError, match=r"the value cannot be read \(.*\); write it as in YAML"):
        parse_settings([[f"hidden=!!python/object/apply:os.mkdir [{fired}]"]])
    assert not fired.exists()


def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.hdf5"
    with h5py.File(path, "w") as file:
        file["values"] = NUMBERS
    return path


def external_link(file: Any, key: str, tmp_path: Path) -> None:
    file[key] = h5py.ExternalLink(str(secret(tmp_path)), "/values")


def external_group(file: Any, key: str, tmp_path: Path) -> None:
    file[key] = h5py.ExternalLink(str(secret(tmp_path)), "/")


def virtual(file: Any, key: str, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((4, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(secret(tmp_path)), "values", (4, 2))
    file.create_virtual_dataset(key, layout)


def missing_virtual(file: Any, key: str, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((4, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "nowhere.hdf5"), "values", (4, 2))
    file.create_virtual_dataset(key, layout)


def external_storage(file: Any, key: str, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(32))
    storage = [(str(tmp_path / "raw"), 0, 32)]
    file.create_dataset(key, (4, 2), np.float32, external=storage)


ELSEWHERE = [external_link, external_group, virtual, missing_virtual, external_storage]


@pytest.mark.parametrize("write", ELSEWHERE)
@pytest.mark.parametrize("kind", ["", "d4rl:"])
def test_hdf5_values_of_another_file_are_refused(tmp_path: Path, write: Any, kind: str) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in columns(terminals=np.array([0, 0, 0, 1], bool)).items():
            if name != "observations":
                file[name] = values
        write(file, "observations", tmp_path)
    with pytest.raises(InputError) as error:
        open_dataset(f"{kind}{path}")
    assert str(error.value).startswith(f"{path}: 'observations' ")
    assert str(error.value).endswith(
        " another file, which is not opened; store its values in this file"
    )


def soft_link(file: Any, key: str, tmp_path: Path) -> None:
    file["aside"] = h5py.ExternalLink(str(secret(tmp_path)), "/")
    file[key] = h5py.SoftLink("/aside/values")


@pytest.mark.parametrize("write", [*ELSEWHERE, soft_link])
@pytest.mark.parametrize("key", ["episode_0/observations", "episode_1/actions", "episode_1"])
@pytest.mark.parametrize("spaces", [True, False])
def test_minari_values_of_another_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, key: str, spaces: bool
) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    folder = tmp_path / "minari" / "toy" / "line-v0" / "data"
    folder.mkdir(parents=True)
    box = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-9, -9], "high": [9, 9]}
    stated = {name: json.dumps(box) for name in ("observation_space", "action_space")}
    metadata = {"data_format": "hdf5", "total_episodes": 2, "total_steps": 6}
    (folder / "metadata.json").write_text(json.dumps(metadata | (stated if spaces else {})))
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        for index in range(2):
            group = file.create_group(f"episode_{index}")
            group["observations"], group["actions"] = NUMBERS, NUMBERS[:3]
            group["rewards"] = NUMBERS[:3, 0]
            group["terminations"] = group["truncations"] = np.zeros(3, bool)
    opened = open_dataset("minari:toy/line-v0")
    assert (opened.transitions, opened.observation_size, opened.action_size) == (6, 2, 2)
    assert (opened.action_low is None) is not spaces
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file[key]
        write(file, key, tmp_path)
    with pytest.raises(InputError) as error:
        open_dataset("minari:toy/line-v0")
    if key == "episode_1" and write not in (external_link, external_group, soft_link):
        return  # a dataset in the place of a group: it cannot be read, whatever it holds
    assert str(error.value).startswith(f"minari:toy/line-v0: '{key}' ")
    assert "another file, which is not opened" in str(error.value)


@pytest.mark.parametrize(
    "name", ["../x-v0", "/etc/x-v0", "toy/../../x-v0", "toy//x-v0", "x-v0/", "~/x-v0", "x-v0\n"]
)
def test_a_minari_name_stays_among_minari_s_datasets(name: str) -> None:
    with pytest.raises(InputError, match=r"this is no Minari name; a name looks like"):
        open_dataset(f"minari:{name}", download=False)


@pytest.mark.parametrize(
    "value",
    ["{", '{"data_format": "os", "total_episodes": 1}', '{"data_format": "hdf5"}', "[]", '"x"'],
)
def test_damaged_metadata_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (tmp_path / "x-v0" / "data").mkdir(parents=True)
    (tmp_path / "x-v0" / "data" / "metadata.json").write_text(value)
    with pytest.raises(InputError, match=r"^minari:x-v0: "):
        open_dataset("minari:x-v0", download=False)


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", ".hidden", "a\0b", "a\nb", "x" * 300, "\\\\host\\x", "-rf"]
)
def test_a_run_s_folder_stays_in_runs_whatever_the_data_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_dataset(line_data(episodes=2, name=name), tmp_path / "a.npz")
    folder = free_folder(f"{open_dataset(str(path)).name}-xql")
    assert folder.parent == Path("runs")
    assert folder.name[0] not in ".-" and len(folder.name) < 120
    assert [one.parent.name for one in tmp_path.rglob("*") if one.is_dir() and one != folder] == [
        tmp_path.name,
        "runs",
    ]


SOURCES = Path(__file__).parents[2] / "src"
BETWEEN_PROCESSES = {"evaluation_worker.py", "executors.py"}
"""They pickle what they themselves send to a process that they have started, and read no file."""


def test_no_file_is_read_by_what_could_run_code() -> None:
    sources = {path: path.read_text("utf-8") for path in SOURCES.rglob("*.py")}
    text = "\n".join(sources.values())
    # The two loaders of our own are built on the safe one.
    text = text.replace("yaml.load(text, kind)", "")
    assert "kind = _HandLoader if by_hand else _Loader\n" in text
    assert "class _HandLoader(_Loader):" in text
    assert 'class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader))' in text
    for word in ("yaml.load(", "unsafe_load", "full_load", "allow_pickle=True"):
        assert word not in text
    assert {path.name for path, one in sources.items() if "import pickle" in one} == (
        BETWEEN_PROCESSES
    )
    for path in sources:
        assert "pickle.load(" not in sources[path], path
