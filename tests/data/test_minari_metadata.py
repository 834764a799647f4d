"""The typed loader of Minari's metadata.json; the corpus of bad ones is in tests/soak."""

import json
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces

from xql.data.minari_metadata import read_metadata
from xql.errors import InputError

BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-9, -1e400], "high": [9, 1e400]}
METADATA: dict[str, Any] = {
    "data_format": "hdf5",
    "total_episodes": 2,
    "total_steps": 6,
    "observation_space": json.dumps(BOX),
}


def read(folder: Path, **changes: Any) -> Any:
    (folder / "metadata.json").write_text(json.dumps(METADATA | changes))
    return read_metadata("a-v0", folder)


def test_what_is_stated_is_read(tmp_path: Path) -> None:
    pair = {"type": "Tuple", "subspaces": [BOX, BOX]}
    nested = {"type": "Dict", "subspaces": {"a": BOX, "b": pair}}
    found = read(
        tmp_path,
        action_space=nested,
        env_spec={"id": "Pendulum-v1"},
        eval_env_spec=None,
        ref_min_score=None,
        ref_max_score=3,
        author=["a"],
        observation_layout=3,
    )
    assert (found.data_format, found.total_episodes, found.total_steps) == ("hdf5", 2, 6)
    box = found.observation_space
    assert isinstance(box, spaces.Box) and box.shape == (2,) and box.high[1] == float("inf")
    assert found.action_space == spaces.Dict(a=box, b=spaces.Tuple([box, box]))
    assert json.loads(found.environment) == {"id": "Pendulum-v1"}
    assert found.evaluation_environment is None and found.jpeg_encoding
    # Not what this package writes of what it opened, whatever a file says.
    assert found.others == {"ref_max_score": 3, "author": ["a"]}
    assert read(tmp_path).action_space is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"total_steps": -1},
            "'total_steps' in its metadata.json is -1; it must be a whole",
        ),
        ({"total_steps": True}, "'total_steps' in its metadata.json is true"),
        ({"total_episodes": "2"}, "'total_episodes' in its metadata.json is \"2\""),
        ({"total_episodes": None}, "'total_episodes' in its metadata.json is null"),
        (
            {"data_format": "os"},
            "'data_format' in its metadata.json is \"os\"; it must be hdf",
        ),
        (
            {"env_spec": 3},
            "'env_spec' in its metadata.json is 3; it must be the JSON",
        ),
        ({"ref_min_score": 10**400}, "'ref_min_score' in its metadata.json is 1000"),
        (
            {"observation_space": 3},
            "'observation_space' in its metadata.json is no space (it is ",
        ),
        ({"action_space": "["}, "'action_space' in its metadata.json is no space (Expecting"),
        (
            {"action_space": "[" * 10**5},
            "'action_space' in its metadata.json is no space (it i",
        ),
        (
            {"action_space": BOX | {"shape": [10**12]}},
            "a Box of shape (1000000000000,) with",
        ),
        ({"action_space": BOX | {"dtype": "O"}}, "a Box of object"),
        ({"action_space": {"type": "Dict", "subspaces": {}}}, "a Dict without subspaces"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_key(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, **changes)
    assert str(caught.value).startswith("minari:a-v0: ") and line in str(caught.value)
