"""The notebooks of docs/notebooks run, and their committed outputs are what they print.

Words have to be the same. Numbers may differ by one in the last digit that is shown, since
processors round differently; in a cell with the tag `trained`, whose numbers come of thousands of
updates, only their count is compared. Of a figure it is compared that there is one.
"""

import base64
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
LONG = {"compare-methods.ipynb"}
"""These train in a simulator for a minute."""
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")
MOST_BYTES = 150_000


def read(name: str) -> Any:
    return nbformat.read(FOLDER / name, as_version=4)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(cell: Any) -> list[str]:
    """What each output says, and of which kinds it is."""
    found = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        kinds = [output.output_type, output.get("name", ""), *sorted(data)]
        said = output.get("text", "") + data.get("text/plain", "") + data.get("text/markdown", "")
        found.append(f"{' '.join(kinds)}: {said}")
    return found


def difference(one: str, other: str, *, any_number: bool) -> str:
    """What differs between two texts, as far as that counts; empty where nothing does."""
    if (first := NUMBER.sub("#", one).split()) != (second := NUMBER.sub("#", other).split()):
        return f"{first}\n{second}"
    for a, b in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True):
        decimals = len(a.partition(".")[2])
        off = 1.01 * 10.0**-decimals if decimals else 0.0
        if not any_number and abs(float(a.replace(",", "")) - float(b.replace(",", ""))) > off:
            return f"{a} {b}"
    return ""


def test_what_counts_as_a_difference() -> None:
    assert not difference("β = 0.25:  1.64", "β = 0.25: 1.65", any_number=False)
    assert difference("β = 0.25: 1.64", "β = 0.25: 1.66", any_number=False)
    assert difference("1,000 rows", "1,001 rows", any_number=False)
    assert not difference("5.6 [2.3, 8.8]", "-15.1 [-2.0, 9]", any_number=True)
    assert difference("is better", "is worse", any_number=True)
    assert difference("5.6 [2.3, 8.8]", "5.6 [nan, nan]", any_number=True)


def test_there_are_three() -> None:
    assert len(NAMES) == 3 and set(NAMES) > LONG


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.nightly if one in LONG else ()) for one in NAMES]
)
def test_a_fresh_execution_prints_the_same(name: str, script: ModuleType, tmp_path: Path) -> None:
    kept, fresh = read(name), script.executed(FOLDER / name, tmp_path)
    for number, (one, other) in enumerate(zip(kept.cells, fresh.cells, strict=True), 1):
        trained = "trained" in one.metadata.get("tags", ())
        before, after = texts(one), texts(other)
        assert len(before) == len(after), f"cell {number}: {before}\n{after}"
        for a, b in zip(before, after, strict=True):
            assert not (found := difference(a, b, any_number=trained)), f"cell {number}: {found}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_tidy(name: str, script: ModuleType) -> None:
    kept = read(name)
    text = (FOLDER / name).read_text("utf-8")
    assert text == nbformat.writes(script.tidy(read(name))) + "\n", "run make notebooks"
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", output
    assert not re.search(r"/(home|root|tmp|Users|work)/|\bpython3\.\d", text)
    assert len(text) < MOST_BYTES
    # A PNG's text chunks would name the version that drew it.
    pictures = re.findall(r'"image/png": "([^"]+)"', text)
    assert not any(b"tEXt" in base64.b64decode(json.loads(f'"{one}"')) for one in pictures)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    prose = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    assert targets
    for target in targets:
        if not re.match(r"[a-z]+:", target):
            assert (FOLDER / target.partition("#")[0]).is_file(), target


def test_every_notebook_is_linked() -> None:
    for page in (FOLDER.parents[1] / "README.md", FOLDER.parent / "index.md"):
        text = page.read_text("utf-8")
        for name in NAMES:
            assert f"notebooks/{name.removesuffix('.ipynb')}" in text, (page.name, name)
