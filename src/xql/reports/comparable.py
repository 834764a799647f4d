"""When the scores of two runs mean the same: what they must share, and where they differ."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from xql.data.scaling import Scaling
from xql.errors import InputError
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.summary import Quantity


def task_of(folder: RunFolder) -> str:
    """The data's name; the environment's where the run learned online."""
    name = _environment(folder.config.data.name)
    return str(name["id"] if isinstance(name, dict) and "id" in name else name)


def _environment(text: str | None) -> Any:
    """An id, or the parsed specification."""
    if text is not None and text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def whole_evaluations(folder: RunFolder) -> list[Evaluation]:
    """A run's evaluations, if it is finished and every member played as many episodes.

    Raises:
        InputError: it was not evaluated, is unfinished, or its members played different numbers of
            episodes.
    """
    rows = _as_frozen(folder, folder.read_evaluations(whole=True))
    where = str(folder.path)
    if not rows:
        hint = "leave it out, or train it with `env`; xql select ranks policies by logged data"
        raise InputError("this run has no evaluations", where=where, hint=hint)
    last, steps = max(row.step for row in rows), folder.config.steps
    if last != steps:
        raise InputError(
            f"its last evaluation is at step {last} of {steps}: it is unfinished",
            where=where,
            hint="leave it out, or train it to the end",
        )
    members = range(len(folder.config.members))
    counts: dict[int, dict[int, int]] = {}
    for row in rows:
        of_step = counts.setdefault(row.step, dict.fromkeys(members, 0))
        of_step[row.member] = of_step.get(row.member, 0) + 1
    for step, of_step in counts.items():
        if len(set(of_step.values())) > 1:
            raise InputError(
                f"at step {step} its members played different numbers of episodes",
                where=where,
                hint="leave this run out: its evaluations are damaged",
            )
    return rows


def _as_frozen(folder: RunFolder, rows: list[Evaluation]) -> list[Evaluation]:
    """The rows that a run left out when it ended early, since every member had diverged.

    The policies stay as they were, and every evaluation starts from the same states: the episodes
    of the last one are those of all the others too.
    """
    config = folder.config
    if not rows or len(folder.read_frozen()) < len(config.members):
        return rows
    last, played = max(row.step for row in rows), {row.step for row in rows}
    return rows + [
        row._replace(step=step)
        for step in config.evaluation_steps
        if step not in played
        for row in rows
        if row.step == last and row.episode < config.evaluation.episodes
    ]


def conditions_of(
    folder: RunFolder, rows: Sequence[Evaluation], quantity: Quantity
) -> dict[str, Any]:
    """All that two runs of one task must share for their scores to mean the same, by field.

    Args:
        folder: the run.
        rows: its evaluations, as `whole_evaluations` gives them.
        quantity: what is compared; returns also need the same rewards to have been learned from,
            scores the same references.
    """
    config = folder.config
    data = config.data
    kind = data.source.partition(":")[0]
    # Learning from a subset of the episodes is a method; the data is the same.
    whole = data.whole or data.extent
    members = len(config.members)
    schedule: dict[int, int] = defaultdict(int)
    for row in rows:
        schedule[row.step] += 1
    conditions: dict[str, Any] = {
        "environment": _environment(config.environment),
        "data.source": kind if kind in ("minari", "d4rl", "ogbench", "neorl2") else "a file",
        "data.transitions": None if whole is None else whole.transitions,
        "data.episodes": None if whole is None else whole.episodes,
        # Sums of the same numbers may differ in their last bits from one machine to the next.
        "data.mean_return": None if whole is None else _rounded(whole.mean_return),
        "data.observation_keys": data.observation_keys,
        "steps": config.steps,
        "evaluation": dataclasses.asdict(config.evaluation),
        "episodes at step": {step: count // members for step, count in schedule.items()},
    }
    if quantity == "score":
        reference = data.reference
        conditions["data.reference"] = {
            end: None if reference is None else getattr(reference, end)
            for end in ("minimum", "maximum")
        }
    if quantity == "return":
        conditions["scaling.rewards"] = _rewards(config.scaling)
    return conditions


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _rewards(scaling: Scaling) -> str:
    """The rewards that were learned from, as a formula in those of the data.

    With "auto" they are the data's own: only their unit is another, and the data's choice.
    """
    if scaling.rewards == "auto":
        return "raw (1 r +0)"
    return f"{scaling.rewards} ({scaling.reward_scale:g} r {scaling.reward_shift:+g})"


def require_same(
    first: RunFolder, second: RunFolder, one: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    """Check that two runs of a task share all of `conditions_of`.

    Raises:
        InputError: they do not; the line names both and the first field that differs.
    """
    difference = _difference(one, other)
    if difference is None:
        return
    field, mine, theirs = difference
    raise InputError(
        f"{field} is {mine} here and {theirs} in {second.path}",
        where=str(first.path),
        hint=f"these runs of {task_of(first)} cannot be compared: leave one out, or make it again",
    )


def _difference(one: Any, other: Any, path: str = "") -> tuple[str, str, str] | None:
    """The first place in which two nested values differ: its path and both values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in dict.fromkeys([*one, *other]):
            inner = f"{path}.{key}" if path else str(key)
            found = _difference(one.get(key), other.get(key), inner)
            if found is not None:
                return found
        return None
    return None if one == other else (path, _short(one), _short(other))


def _short(value: Any) -> str:
    """A value for one line; of a specification its id."""
    if isinstance(value, Mapping) and "id" in value:
        return f"the specification of {value['id']}"
    text = "not stated" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
