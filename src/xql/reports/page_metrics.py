"""The curves of the HTML page: the metrics of training over steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xql.reports.page_curves import POINTS, Line, curves, thinned
from xql.reports.page_figures import Figure, Key
from xql.reports.page_series import FAINT, Series
from xql.runs.folder import RunFolder


class Metric(NamedTuple):
    """How a metric is shown."""

    group: str
    title: str
    note: str
    y: str
    log: bool = False
    bound: str = ""
    """The hyperparameter that it is held at."""


def _metric_list(unit: str) -> dict[str, Metric]:
    """The metrics of `metrics.jsonl` that have a place of their own, in order."""
    of = f"in units of {unit}"
    first, second, rest = "temperature", "value", "loss"
    return {
        "beta": Metric(first, "Temperature β", "Of the soft maximum.", f"β, {of}", log=True),
        "kl": Metric(
            first,
            "KL from the data",
            "Of the soft maximum's weights; β is solved for it.",
            "KL (nats)",
            bound="beta_kl",
        ),
        "optimism": Metric(
            first,
            "Optimism",
            "What the soft maximum adds over all steps to come.",
            f"optimism, {of}",
        ),
        "effective_sample_size": Metric(
            first,
            "Effective sample size",
            "Of a batch under the weights of the Gumbel loss; 1 is every transition alike.",
            "share of the batch",
        ),
        "inverse_temperature": Metric(
            first, "Inverse temperature κ", "Of the policy's weights.", "κ", log=True
        ),
        "policy_kl": Metric(
            first,
            "KL of the policy's weights",
            "From equal weights; κ is solved for it.",
            "KL (nats)",
            bound="policy_kl",
        ),
        "policy_effective_sample_size": Metric(
            first,
            "Effective sample size of the policy",
            "Of a batch under the weights of the policy's loss.",
            "share of the batch",
        ),
        "temperature": Metric(first, "Temperature α", "Of SAC's entropy.", "α", log=True),
        "entropy": Metric(first, "Entropy", "Of the policy.", "nats"),
        "training_return": Metric(
            second, "Return while training", "Last ten exploration episodes.", "return"
        ),
        "v": Metric(second, "Value V(s)", "Mean over the batch.", unit),
        "q": Metric(second, "Value Q(s, a)", "Mean over the batch.", unit),
        "bellman_error": Metric(second, "Bellman error", "Mean of |Q − target|.", unit, log=True),
        "advantage": Metric(second, "Advantage", "Mean of Q − V.", unit),
        "mean_exp": Metric(
            second, "Mean of e^z", "Of the Gumbel loss; 1 at its soft maximum.", "mean of e^z"
        ),
        "log_prob": Metric(
            second, "Likelihood of the data", "Mean log π(a|s) of logged actions.", "nats"
        ),
        "value_loss": Metric(rest, "Loss of V", "", "loss", log=True),
        "critic_loss": Metric(rest, "Loss of Q", "", "loss", log=True),
        "policy_loss": Metric(rest, "Loss of the policy", "", "loss"),
        "flow_loss": Metric(rest, "Loss of the flow", "", "loss", log=True),
        "policy_q": Metric(rest, "Q of the policy's actions", "", unit),
        "bc_distance": Metric(rest, "Squared distance from logged actions", "", "distance²"),
        "weight": Metric(rest, "Weights of the policy's loss", "Their mean.", "weight"),
        "clip_fraction": Metric(rest, "Beyond the clip", "Share of the batch.", "share"),
    }


NOT_DRAWN = ("seconds", "breakdowns")


def metrics_of(shown: Sequence[Series], keys: Sequence[Key]) -> dict[str, list[Figure]]:
    """Figures of the metrics, by the part of the page that they stand in."""
    runs = {one.run.path: one.run for one in shown}
    tables = {path: _matrices(run) for path, run in runs.items()}
    scaled = any(run.config.scaling.rewards not in ("raw", "auto") for run in runs.values())
    listed = _metric_list("scaled return" if scaled else "return")
    there = {name: None for table in tables.values() for name in table[1]}
    for name in there:
        if name not in listed and name not in NOT_DRAWN:
            listed[name] = Metric("loss", name.replace("_", " "), "", name.replace("_", " "))
    online = any(run.config.online for run in runs.values())
    groups: dict[str, list[Figure]] = {"temperature": [], "value": [], "loss": []}
    for name, metric in listed.items():
        if name not in there:
            continue
        lines, seeds = [], []
        for one in shown:
            steps, values = tables[one.run.path]
            if name not in values:
                continue
            own = values[name][one.members] if len(values[name]) > 1 else values[name]
            at, thin = thinned(steps, own, POINTS if len(shown) <= 8 else 60)
            finite = np.isfinite(thin).any(0)
            mean = np.full(len(at), np.nan)
            mean[finite] = np.nanmean(thin[:, finite], axis=0)
            lines.append(Line(one.key.key, at, mean))
            if len(thin) > 1:
                seeds += [
                    Line(one.key_of(place).key, at, line, faint=True)
                    for place, line in zip(one.members, thin, strict=True)
                    if not one.seeds or place in one.seeds
                ]
        if not any(np.isfinite(line.values).any() for line in lines):
            continue
        bounds = {
            _bound(one.run.config.member_config(place), metric.bound)
            for one in shown
            for place in one.members
        }
        level = None
        if metric.bound and len(bounds) == 1 and (bound := bounds.pop()) is not None:
            level = (bound, f"{metric.bound} = {bound:g}")
        groups[metric.group].append(
            curves(
                f"metric-{len(groups[metric.group])}-{metric.group}",
                metric.title,
                metric.note,
                lines + (seeds if len(seeds) <= FAINT else []),
                keys,
                x="Environment steps" if online else "Gradient updates",
                y=metric.y,
                level=level,
                log=metric.log,
            )
        )
    return groups


def _bound(config: Any, name: str) -> float | None:
    value = getattr(config, name, None) if name else None
    return float(value) if isinstance(value, int | float) else None


def _matrices(run: RunFolder) -> tuple[list[int], dict[str, np.ndarray]]:
    """The steps, and of each metric a line for each member; nan where it was not logged."""
    rows = run.read_metrics()
    steps = [row.step for row in rows]
    names = {name: len(values) for row in rows for name, values in row.values.items()}
    found = {name: np.full((count, len(steps)), np.nan) for name, count in names.items()}
    for column, row in enumerate(rows):
        for name, values in row.values.items():
            if len(values) == len(found[name]):
                found[name][:, column] = [np.nan if one is None else one for one in values]
    return steps, found
