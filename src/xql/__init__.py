"""Offline and online reinforcement learning in JAX: Extreme Q-Learning and its baselines.

For example:

    import xql

    data = xql.open_dataset("minari:pointmaze/medium-play-v0")
    run = xql.train_offline(data, steps=40_000, seeds=2)
    print(run.describe())
    action = run.policy(observation)
"""

import importlib
from typing import TYPE_CHECKING, Any

from xql.version import __version__ as __version__

if TYPE_CHECKING:
    from xql.agents.hyperparameters import options
    from xql.data.check import check_dataset
    from xql.data.convert import open_table
    from xql.data.dataset import Dataset
    from xql.data.sources import open_dataset
    from xql.deploy.exporting import export
    from xql.errors import EnvironmentFault, InputError, MissingExtra
    from xql.reports.compare import compare
    from xql.runs.policy import load_policy
    from xql.runs.run import Run
    from xql.training.finetune import train_finetune
    from xql.training.offline import train_offline
    from xql.training.online import train_online
    from xql.training.ope import ope, select
    from xql.training.reproduce import reproduce
    from xql.training.resume import resume

# Loaded on first use: `import xql` alone takes milliseconds, jax takes a second.
_HOMES = {
    "Dataset": "xql.data.dataset",
    "EnvironmentFault": "xql.errors",
    "InputError": "xql.errors",
    "MissingExtra": "xql.errors",
    "Run": "xql.runs.run",
    "check_dataset": "xql.data.check",
    "compare": "xql.reports.compare",
    "export": "xql.deploy.exporting",
    "load_policy": "xql.runs.policy",
    "ope": "xql.training.ope",
    "open_dataset": "xql.data.sources",
    "open_table": "xql.data.convert",
    "options": "xql.agents.hyperparameters",
    "reproduce": "xql.training.reproduce",
    "resume": "xql.training.resume",
    "select": "xql.training.ope",
    "train_finetune": "xql.training.finetune",
    "train_offline": "xql.training.offline",
    "train_online": "xql.training.online",
}

__all__ = [
    "Dataset",
    "EnvironmentFault",
    "InputError",
    "MissingExtra",
    "Run",
    "check_dataset",
    "compare",
    "export",
    "load_policy",
    "ope",
    "open_dataset",
    "open_table",
    "options",
    "reproduce",
    "resume",
    "select",
    "train_finetune",
    "train_offline",
    "train_online",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xql' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
