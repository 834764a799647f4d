"""What the package says of itself is the same wherever it says it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from xql.errors import DISTRIBUTION, missing_extra
from xql.version import __version__

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def text_files() -> list[Path]:
    found = [path for path in ROOT.glob("*") if path.suffix in (".md", ".toml", ".cff")]
    for folder, kinds in {"src": ["py"], ".github": ["py", "yml"], "docs": ["md", "py"]}.items():
        for kind in kinds:
            found += [
                path
                for path in (ROOT / folder).rglob(f"*.{kind}")
                if "repository" not in path.parts
            ]
    return found


def test_name_and_version() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert PROJECT["version"] == __version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert str(citation["version"]) == __version__
    assert citation["title"].startswith(DISTRIBUTION)


def test_the_hint_of_a_missing_package() -> None:
    said = str(missing_extra("pyarrow is not installed", "parquet"))
    assert said == "pyarrow is not installed; run: pip install 'extreme-q-learning[parquet]'"


def test_no_page_installs_the_other_project_of_the_same_name() -> None:
    stranger = re.compile(r"""pip install[^\n`]*?[ \t]['"]?xql\b|["']xql\[""")
    assert stranger.search("pip install -U xql")
    assert stranger.search("pip install 'xql[report]'")
    found = [path for path in text_files() if stranger.search(path.read_text("utf-8"))]
    assert found == []


def test_every_extra_that_is_named_exists() -> None:
    named = set()
    for path in text_files():
        text = path.read_text("utf-8")
        for extras in re.findall(rf"{DISTRIBUTION}\[([\w,]+)\]", text):
            named |= set(extras.split(","))
        named |= set(re.findall(r"""require\(f?"[\w.{}]+", "(\w+)"\)""", text))
        named |= set(re.findall(r"""missing_extra\([^()]+, "(\w+)"\)""", text))
    assert {"mujoco", "minari", "report", "regression"} <= named <= set(EXTRAS)


def test_all_holds_every_extra_for_users() -> None:
    (everything,) = EXTRAS["all"]
    inside = set(re.fullmatch(rf"{DISTRIBUTION}\[(.*)\]", everything)[1].split(","))  # type: ignore[index]
    assert inside == set(EXTRAS) - {"all", "cluster", "cuda", "wandb", "mlflow", "docs", "dev"}


def test_classifiers_name_what_the_workflow_tests() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))["jobs"]
    tested = jobs["test"]["strategy"]["matrix"]["python"]
    classifiers = PROJECT["classifiers"]
    prefix = "Programming Language :: Python :: 3."
    named = [f"3.{one.removeprefix(prefix)}" for one in classifiers if one.startswith(prefix)]
    assert named == tested
    systems = [one for one in classifiers if one.startswith("Operating System")]
    assert {job["runs-on"] for job in jobs.values()} == {"ubuntu-latest"}
    assert systems == ["Operating System :: POSIX :: Linux"]
