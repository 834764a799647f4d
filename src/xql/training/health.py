"""Whether training looks healthy: metrics that say in numbers what nobody would notice.

A run with weights that are all 0, or with a V that one sample of each batch decides, ends without
an error and with a policy that learned nothing. The thresholds are those of docs/xql.md; a member
is reported once for each check, when two stretches of updates in a row fail it.

What helps depends on the check and on the member: a temperature that tunes itself ("auto") is not
set, but the KL that it is tuned to.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xql.agents import Agent
from xql.agents.temperature import BOUNDS
from xql.training.divergence import RewardRange
from xql.training.units import POWERS

PATIENCE = 2
"""Stretches in a row: the first updates of a sound run look wild too."""

EARLIEST = 2_000
"""Updates before which a run without a finding says nothing: `PATIENCE` stretches."""

SETTLED = 10_000
"""Updates by which values that begin near 0 change less than actions differ."""

LOWER_RATE = "a smaller learning rate"

POLICY_TEMPERATURES = ("inverse_temperature", "temperature")


class Check(NamedTuple):
    """One way in which training goes wrong without an error."""

    metric: str
    fails: Callable[[float, Any], bool]
    """From the metric's mean over an interval, and the member's configuration."""
    says: str
    """With the metric's value as {value} and the mean advantage as {advantage}."""
    of: tuple[str, ...] = ("beta", *POLICY_TEMPERATURES)
    """The hyperparameters that help."""
    after: int = 0
    """The step up to which it is not looked at."""
    unless: tuple[str, str] | None = None
    """Another metric, in units of return, and its upper bound, a hyperparameter: at which it is as
    it should be."""


def _short_of(temperature: str, bound: str) -> Callable[[float, Any], bool]:
    """Whether weights are far from the KL that their temperature is tuned to."""

    def fails(kl: float, config: Any) -> bool:
        return bool(
            getattr(config, temperature, None) == "auto" and kl < 0.5 * getattr(config, bound)
        )

    return fails


CHECKS = (
    Check(
        "weight",
        lambda value, config: value < 1e-3,
        "the policy's weights are all 0, or nearly (mean {value:.1e}): the advantages (mean "
        "{advantage:.3g}) are too large for their temperature, so that almost no action counts",
    ),
    Check(
        "weight",
        lambda value, config: value > 0.9 * getattr(config, "weight_cap", np.inf),
        "the policy's weights are nearly all at their cap (mean {value:.3g}): every action counts "
        "the same, as in behaviour cloning",
        POLICY_TEMPERATURES,
    ),
    Check(
        "clip_fraction",
        lambda value, config: value > 0.5,
        "{value:.0%} of the residuals lie beyond the clip of the Gumbel loss: it sets the value, "
        "not the data",
        ("beta",),
    ),
    Check(
        "effective_sample_size",
        lambda value, config: value < 0.02,
        "{value:.1%} of each batch decides the value (effective sample size)",
        ("beta",),
    ),
    Check(
        "policy_effective_sample_size",
        lambda value, config: value < 0.02,
        "{value:.1%} of each batch decides the policy (effective sample size)",
        POLICY_TEMPERATURES,
    ),
    Check(
        "kl",
        _short_of("beta", "beta_kl"),
        "beta=auto does not reach its KL (mean {value:.2g} nats): the actions in the data hardly "
        "differ in value, and beta stands at its floor",
        ("beta",),
        SETTLED,
        ("optimism", "beta_optimism"),
    ),
    Check(
        "policy_kl",
        _short_of("inverse_temperature", "policy_kl"),
        "inverse_temperature=auto does not reach its KL (mean {value:.2g} nats): the actions in "
        "the data hardly differ in value, and all count about the same",
        ("inverse_temperature",),
        SETTLED,
    ),
)
# Not mean_exp: its mean over a stretch is that of a few outliers, and above 1e3 in runs that solve
# their task in every episode (results/peers, results/pointmaze).


class HealthMonitor:
    """Looks at every stretch of updates, and remembers what it found."""

    def __init__(
        self, agent: Agent, configs: Sequence[Any], *, scalable: bool, unit: float = 1.0
    ) -> None:
        """Start without a finding.

        Args:
            agent: what is trained; it says what helps.
            configs: each member's configuration.
            scalable: whether scaling the rewards can help, as it can those of a log.
            unit: how many of the data's own rewards a scaled one is; see `units.reward_unit`.
        """
        self._agent, self._configs = agent, configs
        self._scalable, self._unit = scalable, unit
        self._failing = np.zeros((len(CHECKS), len(configs)), np.int64)
        self._beyond: dict[str, set[int]] = {"above": set(), "below": set()}
        self._problems: list[str] = []

    @property
    def problems(self) -> list[str]:
        """What was found so far, in a few words each."""
        return self._problems + [
            f"values {side} all possible returns" for side in self._beyond if self._beyond[side]
        ]

    def check(self, step: int, metrics: Mapping[str, np.ndarray]) -> list[str]:
        """What has come to light in a stretch of updates, a line each; mostly nothing.

        Args:
            step: the run's, at the stretch's end.
            metrics: per name one number for each member, the mean over the stretch, in the data's
                own unit.
        """
        lines = []
        for row, check in enumerate(CHECKS):
            if check.metric not in metrics or step <= check.after:
                continue
            values = np.atleast_1d(metrics[check.metric]).astype(float)
            fails = [
                bool(np.isfinite(value)) and check.fails(value, config) and not at
                for value, config, at in zip(
                    values, self._configs, self._bounded(check, metrics), strict=True
                )
            ]
            before = self._failing[row].copy()
            self._failing[row] = np.where(
                before >= PATIENCE, before, np.where(fails, before + 1, 0)
            )
            newly = np.flatnonzero((before < PATIENCE) & (self._failing[row] >= PATIENCE))
            if len(newly) == 0:
                continue
            first = int(newly[0])
            advantages = metrics.get("advantage", np.full(len(values), np.nan))
            said = check.says.format(
                value=values[first], advantage=float(np.atleast_1d(advantages)[first])
            )
            which = ", ".join(map(str, newly))
            who = f"member{'s' if len(newly) > 1 else ''} {which}"
            lines.append(f"{who} by step {step:,}: {said}; {self.remedy(first, check.of)}")
            self._problems.append(said.split(" (")[0].split(":")[0])
        return lines

    def _bounded(self, check: Check, metrics: Mapping[str, np.ndarray]) -> list[bool]:
        """Whether another bound keeps a check's metric from where it is looked for."""
        if check.unless is None or check.unless[0] not in metrics:
            return [False] * len(self._configs)
        values, bound = np.atleast_1d(metrics[check.unless[0]]), check.unless[1]
        return [
            bool(value > 0.9 * self._unit * getattr(config, bound))
            for value, config in zip(values, self._configs, strict=True)
        ]

    def check_values(
        self, step: int, metrics: Mapping[str, np.ndarray], rewards: RewardRange
    ) -> list[str]:
        """A line for each member, once a side, whose values are beyond all possible returns.

        Args:
            step: the run's, at a stretch's end.
            metrics: per name one number for each member, in the unit that is learned in.
            rewards: of what was learned from, in that unit.
        """
        # A critic with entropy in its values has no such bound.
        if self._agent.values_include_entropy:
            return []
        lines = []
        for name, called in (("q", "critic"), ("v", "V")):
            values = np.atleast_1d(metrics.get(name, np.empty(0))).astype(float)
            for member, value in enumerate(values.tolist()):
                discount = getattr(self._configs[member], "discount", 1.0)
                if rewards.overestimated(value, discount):
                    side, bound = "above", rewards.highest_return(discount)
                    advice = self.advice(member)
                # Not the critic: CQL's is to be too low.
                elif called == "V" and rewards.underestimated(value, discount):
                    side, bound, advice = "below", rewards.lowest_return(discount), LOWER_RATE
                else:
                    continue
                if member in self._beyond[side]:
                    continue
                self._beyond[side].add(member)
                lines.append(
                    f"member {member}'s {called} stands at {_shown(value * self._unit)} by step "
                    f"{step:,}, but no return can be {side} {_shown(bound * self._unit)} here: do "
                    f"not trust its policy; try {advice}"
                )
        return lines

    def notes(self) -> dict[str, Any]:
        """What it remembers, in plain values."""
        beyond = {side: sorted(members) for side, members in self._beyond.items()}
        return {
            "failing": self._failing.tolist(),
            "problems": self._problems,
            "beyond": beyond,
        }

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Remember what another one had noted; of other checks than these, nothing."""
        failing = np.asarray(notes.get("failing", []), np.int64)
        if failing.shape == self._failing.shape:
            self._failing, self._problems = failing, list(notes["problems"])
        for side, members in notes.get("beyond", {}).items():
            self._beyond[side] = set(members)

    def remedy(self, member: int, of: Sequence[str] = CHECKS[0].of) -> str:
        """What to try, with the member's values of it.

        Args:
            member: which.
            of: the hyperparameters that help; those that the agent does not have are left out.
        """
        names = self._helping(of)
        now = "".join(f"{self._now(member, name)}, " for name in names)
        # A temperature that tunes itself fits rewards in any unit.
        fits = bool(names) and all(self._bound(member, name) for name in names)
        scaling = ", or the option rewards=auto" * (self._scalable and not fits)
        return f"{now}try {self.advice(member, of)}{scaling}"

    def advice(self, member: int, of: Sequence[str] = CHECKS[0].of) -> str:
        """What to try, in a few words."""
        ways = []
        for name in self._helping(of):
            bound = self._bound(member, name)
            smaller = bound is not None or POWERS[name] < 0
            ways.append(f"a {'smaller' if smaller else 'larger'} {bound or name}")
        return " and ".join(ways) or self._agent.scale_hint.advice

    def _helping(self, of: Sequence[str]) -> list[str]:
        return [name for name in self._agent.scale_hint.names if name in of]

    def _bound(self, member: int, name: str) -> str | None:
        """The KL that a temperature is tuned to; None where it is a number."""
        auto = getattr(self._configs[member], name) == "auto"
        return BOUNDS[name] if auto else None

    def _now(self, member: int, name: str) -> str:
        """What a hyperparameter is; the other unit stands beside what the user would set."""
        config, bound = self._configs[member], self._bound(member, name)
        if bound is not None:
            return f"{bound} is {getattr(config, bound):g}"
        value = getattr(config, name)
        own = f" ({value * self._unit ** POWERS[name]:g} in the data's unit)"
        return f"{name} is {value:g}" + own * (self._unit != 1.0)


def _shown(value: float) -> str:
    """Whole, or three digits where it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
