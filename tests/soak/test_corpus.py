"""Every bad input: a tenth of them always, all of them in `make soak`."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from soak.frame import Case, run_case

CASES: list[Case] = [
    case
    for path in sorted(Path(__file__).parent.glob("*_cases.py"))
    for case in importlib.import_module(f"soak.{path.stem}").CASES
]


def _all() -> list[Any]:
    found = []
    for i, case in enumerate(CASES):
        # Those of a whole run compile its networks, which takes seconds.
        later = i % 10 > 0 or case.kind == "run"
        marks = [pytest.mark.soak] * later
        found.append(pytest.param(case, id=f"{case.kind}-{case.name}", marks=marks))
    return found


@pytest.mark.parametrize("case", _all())
def test_bad_input(case: Case, tmp_path: Path) -> None:
    faults = run_case(case, tmp_path).faults
    assert not faults, "\n".join(faults)


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES[5::20], ids=lambda case: f"{case.kind}-{case.name}")
def test_bad_input_to_a_process(case: Case, tmp_path: Path) -> None:
    faults = run_case(case, tmp_path, alone=True).faults
    assert not faults, "\n".join(faults)


def test_names_differ() -> None:
    names = [(case.kind, case.name) for case in CASES]
    assert len(set(names)) == len(names)
