"""Fitted Q evaluation beside the truth: what results/ope/NAME.csv holds, summed up in its table.

The policies of DMSD and PointMaze are those of sweeps whose checkpoints are not published, so that
these files are kept, and only the numbers that follow from them are computed here.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.stats import spearmanr

from xql.experiments.command import as_command
from xql.files import write_text
from xql.training.ope import MOST_FAR

Policies = Float64[np.ndarray, " policies"]

HEAD = "## The numbers"
DOMAINS = ("icu-sepsis", "dmsd", "pointmaze-medium")


class Evaluated(NamedTuple):
    """One policy: what it is worth, and what FQE says."""

    policy: str
    truth: float
    """Its discounted return without a time limit."""
    truth_error: float
    """The standard error of that: 0 where it is exact."""
    estimate: float
    low: float
    high: float
    difference: float
    """To the behaviour policy, estimated."""
    difference_low: float
    difference_high: float
    far: float
    """The share of its actions that lie far from the logged ones; nan where nobody looked."""


class Summary(NamedTuple):
    """How well FQE does on the policies of one domain."""

    policies: int
    rank_correlation: float
    regret: float
    """The best true value minus that of the policy with the highest estimate."""
    random_regret: float
    """The same for a policy chosen at random, on average."""
    error: float
    """The mean absolute error."""
    spread: float
    """The standard deviation of the true values: what an error of this size would hide."""
    coverage: float
    """The share of intervals that hold the truth."""
    right: int
    wrong: int
    """Verdicts on the difference to the behaviour policy; the rest cannot be said."""
    supported: int
    """The policies of which `xql ope` does not warn that too many of their actions are far."""
    supported_correlation: float
    supported_regret: float
    """Among these alone."""


def read(path: Path) -> tuple[list[Evaluated], float]:
    """The policies of a file, and the true value of the behaviour policy."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            Evaluated(row["policy"], *(float(row[key] or "nan") for key in Evaluated._fields[1:]))
            for row in csv.DictReader(file)
        ]
    behaviour = next(row for row in rows if row.policy == "behaviour")
    return [row for row in rows if row is not behaviour], behaviour.truth


def summarise(rows: list[Evaluated], behaviour: float) -> Summary:
    """The numbers of a domain."""
    truths = np.array([row.truth for row in rows])
    estimates = np.array([row.estimate for row in rows])
    near = np.array([not row.far > MOST_FAR for row in rows])
    inside = [row.low <= row.truth <= row.high for row in rows]
    said = [(row.difference_low > 0) - (row.difference_high < 0) for row in rows]
    true = np.sign(truths - behaviour)
    agree = [one == other for one, other in zip(said, true, strict=True) if one]
    return Summary(
        policies=len(rows),
        rank_correlation=_correlation(truths, estimates),
        regret=_regret(truths, estimates),
        random_regret=float(truths.max() - truths.mean()),
        error=float(np.abs(estimates - truths).mean()),
        spread=float(truths.std()),
        coverage=float(np.mean(inside)),
        right=int(sum(agree)),
        wrong=len(agree) - int(sum(agree)),
        supported=int(near.sum()),
        supported_correlation=_correlation(truths[near], estimates[near]),
        supported_regret=_regret(truths[near], estimates[near]),
    )


def _correlation(truths: Policies, estimates: Policies) -> float:
    return float(spearmanr(truths, estimates).statistic) if len(truths) > 2 else float("nan")


def _regret(truths: Policies, estimates: Policies) -> float:
    return float(truths.max() - truths[estimates.argmax()]) if len(truths) else float("nan")


def markdown(home: Path) -> str:
    """The tables of every domain that has a file."""
    found = {
        name: read(home / f"{name}.csv") for name in DOMAINS if (home / f"{name}.csv").exists()
    }
    summaries = {name: summarise(*one) for name, one in found.items()}
    labels = {
        "policies": "policies",
        "rank_correlation": "rank correlation (Spearman)",
        "regret": "regret@1",
        "random_regret": "regret of a policy chosen at random, on average",
        "error": "mean absolute error",
        "spread": "standard deviation of the true values",
        "coverage": "intervals that hold the truth",
        "right": "verdicts beside the behaviour policy that are right",
        "wrong": "verdicts that are wrong",
        "supported": "policies whose actions have support",
        "supported_correlation": "rank correlation among these",
        "supported_regret": "regret@1 among these",
    }
    lines = [f"| | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for key, label in labels.items():
        cells = [_cell(key, getattr(one, key)) for one in summaries.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for name, (rows, behaviour) in found.items():
        lines += [
            "",
            f"### {name}",
            "",
            f"The behaviour policy is worth {_number(behaviour)}.",
            "",
            "| policy | truth | FQE | 95 % interval | difference to the behaviour policy, 95 % "
            "| far |",
            "|---|---|---|---|---|---|",
        ]
        for row in sorted(rows, key=lambda row: -row.estimate):
            truth = _number(row.truth)
            if row.truth_error:
                truth += f" ± {_number(row.truth_error)}"
            lines.append(
                f"| {row.policy} | {truth} | {_number(row.estimate)} | "
                f"{_pair(row.low, row.high)} | {_pair(row.difference_low, row.difference_high)} | "
                f"{'' if np.isnan(row.far) else f'{row.far:.0%}'} |"
            )
    return "\n".join([*lines, ""])


def _cell(key: str, value: float | int) -> str:
    if key in ("policies", "right", "wrong", "supported"):
        return str(value)
    if key == "coverage":
        return f"{value:.0%}"
    return f"{value:.2f}" if key.endswith("correlation") else _number(value)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _pair(low: float, high: float) -> str:
    return f"[{_number(low)}, {_number(high)}]"


def main(out: Path = Path("results/ope")) -> None:
    """Write the numbers of OUT/table.md anew from the other files in OUT; its text stays."""
    path = out / "table.md"
    text = path.read_text(encoding="utf-8").partition(HEAD)[0]
    write_text(path, f"{text}{HEAD}\n\n{markdown(out)}", "table")


if __name__ == "__main__":
    as_command(main, "ope_results")
