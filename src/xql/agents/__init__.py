"""The algorithms: pure functions, one file each. Start with `xql.py`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from xql.agents.agent import Act, Agent, Batch, Metrics, Spec, Trainable, TrainState, member
from xql.agents.bc import BCConfig, bc
from xql.agents.xql import XQLConfig, xql


class Algorithm(NamedTuple):
    """How an agent is made."""

    config: type
    """Its settings, a frozen dataclass."""
    make: Callable[[Any, int], Agent]
    """The constructor: `(settings, total_steps) -> Agent`."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """What makes it a variant: settings whose defaults differ from the dataclass's own."""


OFFLINE = {"xql": Algorithm(XQLConfig, xql), "bc": Algorithm(BCConfig, bc)}
"""The agents that learn from logged data alone."""

ONLINE: dict[str, Algorithm] = {}
"""The agents that learn from a simulator, each from a replay buffer."""

AGENTS = OFFLINE | ONLINE

__all__ = [
    "AGENTS",
    "OFFLINE",
    "ONLINE",
    "Act",
    "Agent",
    "Algorithm",
    "BCConfig",
    "Batch",
    "Metrics",
    "Spec",
    "TrainState",
    "Trainable",
    "XQLConfig",
    "bc",
    "member",
    "xql",
]
