"""The algorithms: pure functions, one file each. Start with `xql.py`."""

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NewType

from xql.agents.awac import AWACConfig, make_awac
from xql.agents.bc import BCConfig, make_bc
from xql.agents.cql import CQLConfig, make_cql
from xql.agents.hyperparameters import from_dict, options
from xql.agents.iql import IQLConfig, make_iql
from xql.agents.rebrac import ReBRACConfig, make_rebrac
from xql.agents.sac import SACConfig, make_sac
from xql.agents.td3 import TD3Config, make_td3
from xql.agents.td3_bc import TD3BCConfig, make_td3_bc
from xql.agents.types import Actor, Agent, Batch, EnvironmentSpec, Metrics, Trainable, TrainState
from xql.agents.types import member as member
from xql.agents.xql import Extraction, XQLConfig, make_xql, suited_to
from xql.data.actions import ActionSpec
from xql.errors import InputError

OfflineName = Literal["xql", "iql", "cql", "td3-bc", "awac", "rebrac", "bc"]
OnlineName = Literal["sac", "x-sac", "td3", "x-td3", "ddpg"]

Unchecked = NewType("Unchecked", str)
"""A name that no type checker can know, such as that of an agent that was added to `OFFLINE`."""


def _nothing(config: Any, actions: ActionSpec) -> Mapping[str, Any]:
    return {}


class Algorithm(NamedTuple):
    """How an agent is made."""

    config: type
    """Its configuration's class."""
    make: Callable[[Any, int], Agent]
    """The constructor: `(config, total_steps) -> Agent`."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """What makes it a variant: fields whose defaults differ from the class's own."""
    suited_to: Callable[[Any, ActionSpec], Mapping[str, Any]] = _nothing
    """`(config, actions) -> values` that follow from the actions, for fields that neither the user
    nor a preset gives."""


OFFLINE = {
    "xql": Algorithm(XQLConfig, make_xql, suited_to=suited_to),
    "iql": Algorithm(IQLConfig, make_iql),
    "cql": Algorithm(CQLConfig, make_cql),
    "td3-bc": Algorithm(TD3BCConfig, make_td3_bc),
    "awac": Algorithm(AWACConfig, make_awac),
    "rebrac": Algorithm(ReBRACConfig, make_rebrac),
    "bc": Algorithm(BCConfig, make_bc),
}
"""The agents that learn from logged data alone."""

ONLINE = {
    "sac": Algorithm(SACConfig, make_sac),
    "x-sac": Algorithm(SACConfig, make_sac, {"value": "gumbel"}),
    "td3": Algorithm(TD3Config, make_td3),
    "x-td3": Algorithm(TD3Config, make_td3, {"loss": "linear"}),
    "ddpg": Algorithm(TD3Config, make_td3, {"critics": 1, "policy_delay": 1, "target_noise": 0.0}),
}
"""The agents that learn from a simulator, each from a replay buffer."""

AGENTS: Mapping[str, Algorithm] = ChainMap(ONLINE, OFFLINE)
"""Both; an agent that is added to one of them is here too."""


def configure(agent: str, values: Mapping[str, Any], others: Iterable[str] = ()) -> Any:
    """An agent's configuration with some fields given.

    Args:
        agent: a name in `AGENTS`.
        values: by field name.
        others: names that are known elsewhere, to suggest where a name is unknown.

    Raises:
        InputError: an unknown field, a value of the wrong type, or a number out of range.
    """
    kind = AGENTS[agent]
    return from_dict(kind.config, values, f"agent {agent}", defaults=kind.defaults, others=others)


def require_actions(
    made: Agent, name: str, actions: ActionSpec, where: str, among: Mapping[str, Algorithm]
) -> None:
    """Refuse actions that an agent does not learn.

    Args:
        made: the agent, as it is configured.
        name: its name.
        actions: of the data or the environment.
        where: that one's name, for the message.
        among: the agents that could be taken instead.

    Raises:
        InputError: it does not.
    """
    kind = type(actions)
    if kind in made.takes:
        return
    wanted = " or ".join(one.kind for one in made.takes)
    chosen = f" with {made.takes_by}" * bool(made.takes_by)
    others = [
        other for other, of in among.items() if kind in of.make(of.config(**of.defaults), 1).takes
    ]
    hint = f"choose from {', '.join(others)}" if others else "choose another environment"
    raise InputError(
        f"agent {name}{chosen} needs {wanted} actions, and these are {actions}",
        where=where,
        hint=f"leave {made.takes_by} out, or {hint}" if made.takes_by else hint,
    )


__all__ = [
    "AGENTS",
    "OFFLINE",
    "ONLINE",
    "AWACConfig",
    "Actor",
    "Agent",
    "Algorithm",
    "BCConfig",
    "Batch",
    "CQLConfig",
    "EnvironmentSpec",
    "Extraction",
    "IQLConfig",
    "Metrics",
    "OfflineName",
    "OnlineName",
    "ReBRACConfig",
    "SACConfig",
    "TD3BCConfig",
    "TD3Config",
    "TrainState",
    "Trainable",
    "Unchecked",
    "XQLConfig",
    "configure",
    "make_awac",
    "make_bc",
    "make_cql",
    "make_iql",
    "make_rebrac",
    "make_sac",
    "make_td3",
    "make_td3_bc",
    "make_xql",
    "member",
    "options",
    "require_actions",
]
