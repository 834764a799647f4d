"""Build the sdist and the wheel, and try the wheel in empty environments: alone, then each extra.

    make package-check
    python .github/scripts/check_package.py --only core --only parquet

It needs `build` and a package index. The wheel is tried where the checkout cannot be imported.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

SDIST_HOLDS = {"src", "tests", "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff"}
SDIST_HOLDS |= {"pyproject.toml", "PKG-INFO", ".gitignore"}
LARGEST_SDIST = 2 << 20  # bytes
WHEEL_HOLDS = (
    "xql/py.typed",
    "xql/presets/xql.yaml",
    "xql/evaluation/reference_scores.csv",
    "xql/experiments/published/table1.csv",
    "xql/collect/goal_ant.npz",
)

# Each module imports without its extra, or names the extra that it needs.
IMPORTS = """
import importlib, pkgutil, xql
for module in pkgutil.walk_packages(xql.__path__, "xql."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        assert "pip install 'extreme-q-learning[" in str(error), (module.name, error)
"""

HELP = """
import contextlib, io
from xql.cli import COMMANDS, main
def walk(commands, path=()):
    for name, command in commands.items():
        yield (*path, name)
        if isinstance(command, dict):
            yield from walk(command, (*path, name))
for path in walk(COMMANDS):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            main([*path, "--help"])
        except SystemExit as end:
            assert end.code in (0, None), path
    assert text.getvalue().strip(), path
"""

TRAIN = """
import numpy as np, xql
rng = np.random.default_rng(0)
rows = 400
columns = {
    "observations": rng.normal(size=(rows, 3)).astype(np.float32),
    "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
    "rewards": rng.normal(size=rows).astype(np.float32),
    "terminated": np.arange(rows) % 100 == 99,
    "truncated": np.zeros(rows, bool),
}
run = xql.train_offline(columns, agent="xql", steps=50, out="run", progress=False)
action = xql.load_policy(run.path)(columns["observations"][0])
assert action.shape == (2,) and np.isfinite(action).all(), action
"""

# What each extra is for, in a few lines. Without the extra these lines must name it.
EXTRAS = {
    "regression": """
from xql.gumbel import GumbelRegressor
assert abs(GumbelRegressor().fit([[0.0], [1.0]], [0.0, 1.0]).coef_[0] - 1.0) < 1e-3
""",
    "mujoco": """
import sys
from xql.envs.make import make_environment
for name in ("HalfCheetah-v5", "PointMaze_UMaze-v3", "dm_control/cartpole-swingup"):
    try:
        env = make_environment(name)
    except ImportError as error:
        if sys.version_info < (3, 13) or not name.startswith("dm_control"):
            raise
        assert "labmaze" in str(error) and "use Python" in str(error), error
        continue
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()
""",
    "minari": """
import gymnasium, numpy as np, xql
from xql.errors import require
minari = require("minari", "minari")
from minari.data_collector import EpisodeBuffer
episode = EpisodeBuffer(
    id=0,
    observations=np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2),
    actions=np.float32([[-1], [0], [1]]),
    rewards=np.arange(3.0),
    terminations=np.array([False, False, True]),
    truncations=np.zeros(3, bool),
)
box = gymnasium.spaces.Box
minari.create_dataset_from_buffers(
    "check/hdf5-v0",
    [episode],
    observation_space=box(-1, 1, (2,)),
    action_space=box(-1, 1, (1,)),
    data_format="hdf5",
)
assert xql.open_dataset("minari:check/hdf5-v0").lengths.sum() == 3
""",
    "parquet": """
import xql
from xql.errors import require
arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
columns = {"observations": [[0.0]] * 4, "actions": [[0.5]] * 4, "rewards": [1.0] * 4}
flags = {"terminated": [False, False, False, True], "truncated": [False] * 4}
parquet.write_table(arrow.table(columns | flags), "log.parquet")
assert xql.open_dataset("log.parquet").rewards.sum() == 4
""",
    "report": """
import numpy as np
from pathlib import Path
from xql.errors import require
from xql.gumbel import fit_errors, plot_fits
require("tensorboardX", "report").SummaryWriter("events").close()
errors = np.random.default_rng(0).gumbel(size=100)
assert plot_fits(errors, fit_errors(errors), Path("errors.png")).stat().st_size > 1000
""",
    "video": """
import numpy as np
from fractions import Fraction
from pathlib import Path
from xql.evaluation.video import captioned, mp4
with mp4(Path("film.mp4"), Fraction(25)) as add:
    for _ in range(5):
        add(captioned(np.zeros((64, 96, 3), np.uint8), "step"))
assert Path("film.mp4").stat().st_size > 100
""",
    "greenhouse": """
from xql.envs.make import make_environment
env = make_environment("xql/Greenhouse-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
env.close()
""",
}

# What each extra adds to the command line, after its lines above.
COMMANDS: dict[str, list[str]] = {
    "mujoco": [
        "xql data make pointmaze-umaze --transitions 1000",
        "xql train offline --data minari:pointmaze/umaze-play-v0 --steps 20 --evaluations 1 "
        "--last-episodes 1 --no-plot",
    ],
    "minari": [
        "xql data list",
        "xql data check minari:check/hdf5-v0",
        "xql train offline --data minari:check/hdf5-v0 --env none --steps 20",
    ],
    "greenhouse": ["xql data make greenhouse --out log.csv --episodes 1"],
    "report": ["xql paper figure2"],
}


def build(folder: Path) -> Path:
    """Build both distributions from the checkout, check what they hold, and return the wheel."""
    subprocess.run([sys.executable, "-m", "build", "-o", folder], cwd=ROOT, check=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    strangers = {name.split("/")[1] for name in names if "/" in name} - SDIST_HOLDS
    assert not strangers, f"the sdist also holds {sorted(strangers)}"
    assert sdist.stat().st_size < LARGEST_SDIST, f"the sdist has {sdist.stat().st_size} bytes"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    missing = set(WHEEL_HOLDS) - set(names)
    assert not missing, f"the wheel lacks {sorted(missing)}"
    source = {
        f"xql/{path.relative_to(ROOT / 'src/xql').as_posix()}"
        for path in (ROOT / "src/xql").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == source, f"the wheel and src/xql differ by {sorted(inside ^ source)}"
    for path in (sdist, wheel):
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
    return wheel


class Empty:
    """An environment with the wheel, one extra or none, and an empty working directory."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        self.folder, self.work, self.datasets = folder, folder / "work", folder / "datasets"
        venv.create(folder, with_pip=True)
        self.work.mkdir()
        self.datasets.mkdir()
        requirement = f"{wheel}[{extra}]" if extra else str(wheel)
        self.run("python", "-m", "pip", "install", "-q", requirement, cwd=ROOT)

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """Run a program of the environment, and return what it printed."""
        own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        done = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=cwd or self.work,
            env={name: value for name, value in os.environ.items() if name not in own}
            | {"MINARI_DATASETS_PATH": str(self.datasets)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments}:\n{done.stdout}{done.stderr}"
        return done.stdout


def check_core(empty: Empty) -> None:
    """Check what works without any extra, and that each extra is named where it is needed."""
    assert empty.run("xql", "--version") == f"xql {PROJECT['version']}\n"
    assert "train" in empty.run("xql", "--help")
    assert "log-partition 7.75193" in empty.run("xql", "gumbel", "demo")
    for code in (IMPORTS, HELP, TRAIN):
        empty.run("python", "-c", code)
    for extra, code in EXTRAS.items():
        lines = "\n".join(f"    {line}" for line in code.strip().splitlines())
        named = f"{PROJECT['name']}[{extra}]"
        caught = f"except ImportError as error:\n    assert '{named}' in str(error), error"
        empty.run("python", "-c", f"try:\n{lines}\n{caught}\nelse:\n    assert False, 'no error'")
    # The command that the errors name does what it says, though no index knows the project yet.
    empty.run("python", "-m", "pip", "install", "-q", f"{PROJECT['name']}[parquet]")
    empty.run("python", "-c", EXTRAS["parquet"])


def main() -> None:
    """Check everything, or what `--only` names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=["core", *EXTRAS])
    chosen = parser.parse_args().only or ["core", *EXTRAS]
    tools = {"all", "dev", "docs", "cuda"}
    unknown = set(PROJECT["optional-dependencies"]) - tools - set(EXTRAS)
    assert not unknown, f"no check of {sorted(unknown)}"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        wheel = build(home / "dist")
        for name in chosen:
            empty = Empty(home / name, wheel, "" if name == "core" else name)
            if name == "core":
                check_core(empty)
            else:
                empty.run("python", "-c", EXTRAS[name])
                for command in COMMANDS.get(name, []):
                    empty.run(*command.split())
            print(f"{name}: works", flush=True)


if __name__ == "__main__":
    main()
