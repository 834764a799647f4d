"""The algorithms: pure functions, one file each. Start with `xql.py`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from xql.agents.awac import AWACConfig, awac
from xql.agents.bc import BCConfig, bc
from xql.agents.cql import CQLConfig, cql
from xql.agents.iql import IQLConfig, iql
from xql.agents.rebrac import ReBRACConfig, rebrac
from xql.agents.sac import SACConfig, sac
from xql.agents.td3 import TD3Config, td3
from xql.agents.td3_bc import TD3BCConfig, td3_bc
from xql.agents.types import Act, Agent, Batch, Metrics, Spec, Trainable, TrainState, member
from xql.agents.xql import XQLConfig, xql


class Algorithm(NamedTuple):
    """How an agent is made."""

    config: type
    """Its settings, a frozen dataclass."""
    make: Callable[[Any, int], Agent]
    """The constructor: `(settings, total_steps) -> Agent`."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """What makes it a variant: settings whose defaults differ from the dataclass's own."""


OFFLINE = {
    "xql": Algorithm(XQLConfig, xql),
    "iql": Algorithm(IQLConfig, iql),
    "cql": Algorithm(CQLConfig, cql),
    "td3-bc": Algorithm(TD3BCConfig, td3_bc),
    "awac": Algorithm(AWACConfig, awac),
    "rebrac": Algorithm(ReBRACConfig, rebrac),
    "bc": Algorithm(BCConfig, bc),
}
"""The agents that learn from logged data alone."""

ONLINE = {
    "sac": Algorithm(SACConfig, sac),
    "x-sac": Algorithm(SACConfig, sac, {"value": "gumbel"}),
    "td3": Algorithm(TD3Config, td3),
    "x-td3": Algorithm(TD3Config, td3, {"loss": "linear"}),
    "ddpg": Algorithm(TD3Config, td3, {"critics": 1, "policy_delay": 1, "target_noise": 0.0}),
}
"""The agents that learn from a simulator, each from a replay buffer."""

AGENTS = OFFLINE | ONLINE


def beta_of(config: Any) -> float | None:
    """The temperature in an agent's settings; None where it has no Gumbel loss to use one."""
    beta: float | None = getattr(config, "beta", None) if getattr(config, "gumbel", True) else None
    return beta


__all__ = [
    "AGENTS",
    "OFFLINE",
    "ONLINE",
    "AWACConfig",
    "Act",
    "Agent",
    "Algorithm",
    "BCConfig",
    "Batch",
    "CQLConfig",
    "IQLConfig",
    "Metrics",
    "ReBRACConfig",
    "SACConfig",
    "Spec",
    "TD3BCConfig",
    "TD3Config",
    "TrainState",
    "Trainable",
    "XQLConfig",
    "awac",
    "bc",
    "beta_of",
    "cql",
    "iql",
    "member",
    "rebrac",
    "sac",
    "td3",
    "td3_bc",
    "xql",
]
