"""Print pip constraints that pin every direct dependency to its lower bound in pyproject.toml.

python .github/scripts/oldest.py > constraints-oldest.txt
pip install -c constraints-oldest.txt -e '.[dev]'
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
    for requirement in requirements:
        bound = re.match(r"([\w.-]+)(?:\[.*?\])?\s*>=\s*([\w.]+)", requirement)
        if bound:
            print(f"{bound[1]}=={bound[2]}")
