"""FrankaKitchen-v1 as D4RL evaluates it, from the specification that a dataset was recorded with.

Minari's `D4RL/kitchen/*` were recorded in a kitchen that never terminates and that gives the reward
of a task at every step after its completion, so a return there grows with time. D4RL gives each
task's reward once, terminates the episode when all are completed, and has a time limit of 280
steps: a return from 0 to 4.
"""

import json

from xql.data.reading import parse_json

KITCHEN = "FrankaKitchen-v1"
STEPS = 280
"""D4RL's time limit; the recordings' own is longer."""


def as_evaluated(spec: str) -> str:
    """The specification of the environment to evaluate policies in, where `spec` recorded the data.

    Args:
        spec: an id, or the JSON of an `EnvSpec`.

    Returns:
        For the kitchen's JSON, the same kitchen and tasks as D4RL evaluates them; else `spec`.
    """
    try:
        described = parse_json(spec)
    except ValueError:
        return spec
    if not isinstance(described, dict) or described.get("id") != KITCHEN:
        return spec
    if not isinstance(described.get("kwargs"), dict | None):
        return spec
    once = {"remove_task_when_completed": True, "terminate_on_tasks_completed": True}
    described["kwargs"] = {**(described.get("kwargs") or {}), **once}
    described["max_episode_steps"] = STEPS
    return json.dumps(described)
