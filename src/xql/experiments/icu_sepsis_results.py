"""Offline agents on ICU-Sepsis: what their policies are worth, exactly.

The log is of the clinicians' policy, made by `xql.collect.icu_sepsis`. No episode is played: the
tables of the benchmark are known, so that a linear system has the value of any policy.
"""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from xql.agents import OfflineName
from xql.collect.icu_sepsis import EPISODES, collect
from xql.envs.icu_sepsis import Tables, exact_worth, one_hot, optimal_policy, sepsis_tables
from xql.evaluation.statistics import format_interval, mean, stratified_bootstrap
from xql.experiments.command import as_command
from xql.experiments.offline_tables import UNBOUNDED
from xql.files import write_texts
from xql.runs.policy import Policy, load_policy, scale
from xql.training.offline import train_offline

STEPS, SEEDS, DISCOUNT = 4_000, 4, 0.99
_RATES = dict.fromkeys(("critic_learning_rate", "policy_learning_rate"), 1e-3)
AGENTS: dict[str, tuple[OfflineName, dict[str, Any]]] = {
    "xql-exact": (
        "xql",
        {"soft_maximum": "exact", "value_learning_rate": 1e-3, **_RATES, **UNBOUNDED},
    ),
    "xql": ("xql", {"value_learning_rate": 1e-3, **_RATES, **UNBOUNDED}),
    "iql": ("iql", {"value_learning_rate": 1e-3, **_RATES}),
    "cql": ("cql", {"critic_hidden": [64, 64], **_RATES}),
    "awac": ("awac", _RATES),
    "bc": ("bc", {"policy_learning_rate": 1e-3}),
}
"""The rows of the table, and what each changes of its agent's preset; all have 64-64 networks."""


ABOUT = (
    "Policies learned from a log of the clinicians' policy in the benchmark ICU-Sepsis:",
    f"{EPISODES:,} episodes, 46,288 transitions; 78.2 % survive. {SEEDS} seeds × {STEPS:,}",
    "updates, 64-64 networks, learning rates 0.001, batches of 256, γ = 0.99, else the preset",
    "`default` of each agent; the last step. Every number is exact, from the benchmark's tables:",
    "no episode was played. *Survival* is the benchmark's undiscounted return, in per cent, from",
    "where episodes start: the mean over seeds and its 95 % interval. A policy acts by its",
    "*likeliest* action, as `load_policy` does, or *drawn* by its probabilities. It is a simulator",
    "that was estimated from records, and no number here says anything about treating anybody.",
)


class Value(NamedTuple):
    """One row of values.csv."""

    policy: str
    seed: str
    acts: str
    """How it chooses: its most likely action, or drawn by its probabilities."""
    survival: float
    value: float
    steps: float


def probabilities(policy: Policy, tables: Tables) -> Float64[np.ndarray, "states actions"]:
    """π(a|s) of a policy of discrete actions, in every state."""
    observations = scale(one_hot(np.arange(tables.states), tables.states), policy.scaling)
    logs = policy.actor.log_probabilities(jnp.asarray(observations))
    found = np.exp(np.asarray(logs, np.float64))
    chances: np.ndarray = found / found.sum(axis=1, keepdims=True)
    return chances


def greedy(policy: Policy, tables: Tables) -> Float64[np.ndarray, "states actions"]:
    """The same policy when it takes its most likely action."""
    return np.asarray(policy.flat(one_hot(np.arange(tables.states), tables.states)), np.float64)


def values_of(run: Path, name: str, tables: Tables, seeds: int = SEEDS) -> list[Value]:
    """What the policies of a run are worth at its last step."""
    rows = []
    for index in range(seeds):
        policy = load_policy(run, index)
        for acts, table in (("likeliest", greedy), ("drawn", probabilities)):
            worth = exact_worth(tables, table(policy, tables), DISCOUNT)
            rows.append(Value(name, str(index), acts, worth.survival, worth.value, worth.steps))
    return rows


def references(tables: Tables) -> list[Value]:
    """Policies that nothing has to be learned for, or that take the tables to know."""
    admissible = tables.admissible / tables.admissible.sum(axis=1, keepdims=True)
    policies = {
        "optimal": optimal_policy(tables),
        f"optimal at γ = {DISCOUNT:g}": optimal_policy(tables, DISCOUNT),
        "clinicians (the log's)": tables.clinicians,
        "uniform over all actions": np.full_like(tables.clinicians, 1 / tables.actions),
        "uniform over admissible actions": admissible,
    }
    worths = {name: exact_worth(tables, policy, DISCOUNT) for name, policy in policies.items()}
    return [
        Value(name, "", "", worth.survival, worth.value, worth.steps)
        for name, worth in worths.items()
    ]


def markdown(rows: list[Value]) -> str:
    """The table, and what it says."""
    lines = [
        "# icu-sepsis",
        "",
        "`python -m xql.experiments.icu_sepsis_results`",
        "",
        *ABOUT,
        "",
        "| policy | acts | survival, % | each seed | value, γ = 0.99 | steps of an episode |",
        "|---|---|---|---|---|---|",
    ]
    for name, acts in dict.fromkeys((row.policy, row.acts) for row in rows):
        own = [row for row in rows if (row.policy, row.acts) == (name, acts)]
        survivals = [100 * row.survival for row in own]
        text, each = f"{survivals[0]:.2f}", ""
        if len(own) > 1:
            scores = np.array(survivals)[:, None]
            text = format_interval(stratified_bootstrap(scores, mean), 2)
            each = " ".join(f"{one:.2f}" for one in survivals)
        value, steps = (np.mean([getattr(row, key) for row in own]) for key in ("value", "steps"))
        lines.append(f"| {name} | {acts} | {text} | {each} | {value:.4f} | {steps:.2f} |")
    missing = [name for name in AGENTS if name not in {row.policy for row in rows}]
    if missing:
        lines += ["", f"Not trained yet: {', '.join(missing)}."]
    return "\n".join([*lines, ""])


def read(home: Path) -> list[Value]:
    """The rows of a values.csv."""
    with (home / "values.csv").open(encoding="utf-8", newline="") as file:
        return [
            Value(
                row["policy"],
                row["seed"],
                row["acts"],
                *(float(row[key]) for key in ("survival", "value", "steps")),
            )
            for row in csv.DictReader(file)
        ]


def write(home: Path, rows: list[Value]) -> None:
    """Write values.csv and the table that it gives."""
    text = io.StringIO()
    writer: Any = csv.writer(text, lineterminator="\n")
    writer.writerow(Value._fields)
    for row in rows:
        writer.writerow([*row[:3], *(f"{number:.6f}" for number in row[3:])])
    write_texts(home, {"values.csv": text.getvalue(), "table.md": markdown(rows)})


def main(
    runs: Path = Path("runs/icu-sepsis"), train: bool = True, out: Path = Path("results")
) -> None:
    """Train what is missing, and write what every policy is worth.

    Args:
        runs: a folder with a run for each agent, by its name in the table.
        train: train what is missing; without, only write what is there.
        out: the table goes to icu-sepsis in there.
    """
    tables = sepsis_tables()
    rows = references(tables)
    for name, (agent, options) in AGENTS.items():
        if train and not (runs / name).exists():
            train_offline(
                collect(EPISODES),
                agent=agent,
                steps=STEPS,
                seeds=SEEDS,
                env="none",
                out=runs / name,
                options={"hidden": [64, 64]} | options,
            )
        if (runs / name / "checkpoints" / str(STEPS)).is_dir():
            rows += values_of(runs / name, name, tables)
    write(out / "icu-sepsis", rows)


if __name__ == "__main__":
    as_command(main, "icu_sepsis_results")
