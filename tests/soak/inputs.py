"""What the cases are made of: a run, a dataset, and an alias bomb."""

import copy
import functools
import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import yaml

import worlds
from soak.frame import Place
from xql.data.files import save_dataset
from xql.runs.config import RunConfig

OLD_RUN = Path(__file__).parent.parent / "fixtures" / "run-0.1"
NAN, INF = math.nan, math.inf
GIANT = 10**12


def bomb(levels: int = 9) -> str:
    """A list of ten lists of ten lists …, by aliases."""
    names = [f"a{level}" for level in range(levels)]
    lines = [f"- &{names[0]} [1, 1]"]
    lines += [
        f"- &{after} [{', '.join([f'*{before}'] * 10)}]"
        for before, after in itertools.pairwise(names)
    ]
    return "\n".join(lines) + "\n"


@functools.cache
def original() -> dict[str, Any]:
    """The plain values of a run's configuration, to look at."""
    return RunConfig.load(OLD_RUN).to_dict()


def plain_config() -> dict[str, Any]:
    """The plain values of a run's configuration."""
    return copy.deepcopy(original())


def run_folder(place: Place, text: str | bytes | None = None, name: str = "run") -> Path:
    """A finished run; its configuration where `text` is None."""
    folder = place.inputs / name
    shutil.copytree(OLD_RUN, folder)
    if text is None:
        text = yaml.safe_dump(plain_config(), sort_keys=False)
    (folder / "config.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def data_file(place: Place, name: str = "line.npz") -> Path:
    """A small dataset."""
    path = place.inputs / name
    save_dataset(worlds.line_data(5), path)
    return path


def brief_name(text: str) -> str:
    """A name for a case: short, and different for different texts."""
    return text if len(text) < 40 else f"{text[:30]}…{len(text)}"
