"""Every agent's parameters after 200 updates are those of version 0.1.

parameters.json was recorded with 0.1 before its code was rearranged. On the processor and the XLA
release that it was recorded on, every bit is the same; elsewhere, the norm of every part agrees.
Offline, a member of a population now has the bits of 0.1's run of its seed alone, but for the
agents in `ROUNDED`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xql.agents import AGENTS, ONLINE

HOME = Path(__file__).parent
ROUNDED = ("awac", "rebrac")
"""XLA rounds their updates otherwise where members of a population take turns."""
ALWAYS = ("xql/3", "x-td3/1")
CELLS = [f"{agent}/{population}" for agent in AGENTS for population in (1, 3)]


@pytest.mark.parametrize(
    "cell",
    [cell if cell in ALWAYS else pytest.param(cell, marks=pytest.mark.nightly) for cell in CELLS],
)
def test_the_parameters_are_those_of_version_0_1(cell: str) -> None:
    recorded = json.loads((HOME / "parameters.json").read_text())
    command = [sys.executable, str(HOME / "record_parameters.py"), cell]
    # Optimized as users have it, and without the tests' cache of compiled programs, which may hold
    # one compiled for other cores.
    environment = {
        key: value
        for key, value in os.environ.items()
        if "COMPILATION_CACHE" not in key and key != "XLA_FLAGS"
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout.splitlines()[-1])
    assert len(ours["cells"]) == 2
    for name, found in ours["cells"].items():
        expected = recorded["cells"][name]
        if ours["machine"] == recorded["machine"]:
            agent, population = cell.split("/")
            if agent not in ONLINE and population == "3":
                alone = recorded["cells"][name.replace("/3/", "/1/")]["sha256"]
                assert (found["sha256"] == alone) == (agent not in ROUNDED), name
            else:
                assert found["sha256"] == expected["sha256"], name
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-3), name
