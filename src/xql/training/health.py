"""Whether training looks healthy: metrics that say in numbers what nobody would notice.

A run with weights that are all 0, or with a V that one sample of each batch decides, ends without
an error and with a policy that learned nothing. The thresholds are those of docs/xql.md; a member
is reported once for each check, when two stretches of updates in a row fail it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xql.agents import Agent

PATIENCE = 2
"""Stretches in a row: the first updates of a sound run look wild too."""


class Check(NamedTuple):
    """One way in which training goes wrong without an error."""

    metric: str
    fails: Callable[[float, Any], bool]
    """From the metric's mean over an interval, and the member's configuration."""
    says: str
    """With the metric's value as {value} and the mean advantage as {advantage}."""


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
    ),
    Check(
        "clip_fraction",
        lambda value, config: value > 0.5,
        "{value:.0%} of the residuals lie beyond the clip of the Gumbel loss: it sets the value, "
        "not the data",
    ),
    Check(
        "effective_sample_size",
        lambda value, config: value < 0.02,
        "{value:.1%} of each batch decides the value (effective sample size)",
    ),
)
# Not mean_exp: its mean over a stretch is that of a few outliers, and above 1e3 in runs that solve
# their task in every episode (results/peers, results/pointmaze).


class HealthMonitor:
    """Looks at every stretch of updates, and remembers what it found."""

    def __init__(self, agent: Agent, configs: Sequence[Any], *, scalable: bool) -> None:
        """Start without a finding.

        Args:
            agent: what is trained; it says what helps.
            configs: each member's configuration.
            scalable: whether the rewards can be scaled, as those of a log can.
        """
        self._agent, self._configs, self._scalable = agent, configs, scalable
        self._failing = np.zeros((len(CHECKS), len(configs)), np.int64)
        self.problems: list[str] = []

    def check(self, step: int, metrics: Mapping[str, np.ndarray]) -> list[str]:
        """What has come to light in a stretch of updates, a line each; mostly nothing.

        Args:
            step: the run's, at the stretch's end.
            metrics: per name one number for each member, the mean over the stretch.
        """
        lines = []
        for row, check in enumerate(CHECKS):
            if check.metric not in metrics:
                continue
            values = np.atleast_1d(metrics[check.metric]).astype(float)
            fails = [
                bool(np.isfinite(value)) and check.fails(value, config)
                for value, config in zip(values, self._configs, strict=True)
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
            lines.append(f"{who} by step {step:,}: {said}; {self.remedy(first)}")
            self.problems.append(said.split(" (")[0].split(":")[0])
        return lines

    def remedy(self, member: int) -> str:
        """What to try, with the member's values of it."""
        config, hint = self._configs[member], self._agent.scale_hint
        now = "".join(f"{name} is {getattr(config, name):g}, " for name in hint.names)
        return f"{now}try {hint.advice}" + self._scalable * ", or the option rewards=return_range"
