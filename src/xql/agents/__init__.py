"""The algorithms: pure functions, one file each. Start with `xql.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xql.agents.agent import Act, Agent, Batch, Metrics, Spec, Trainable, TrainState, member
from xql.agents.bc import BCConfig, bc
from xql.agents.xql import XQLConfig, xql


class Algorithm(NamedTuple):
    """How an agent is made: its configuration, and the constructor that takes one."""

    config: type
    make: Callable[[Any, int], Agent]


AGENTS = {"xql": Algorithm(XQLConfig, xql), "bc": Algorithm(BCConfig, bc)}

__all__ = [
    "AGENTS",
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
