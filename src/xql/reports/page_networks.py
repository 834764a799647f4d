"""What trained networks make of their data, as figures of the HTML page."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xql.gumbel.errors import ErrorFits, fit_errors
from xql.reports import page_figures as figures
from xql.reports.page_figures import Figure, Key, Sample
from xql.reports.page_series import Series
from xql.runs.folder import RunFolder
from xql.training.diagnostics import Diagnostics


def _samples(
    shown: Sequence[Series], found: dict[Path, Diagnostics], pooled: bool
) -> list[tuple[Key, Diagnostics, list[int]]]:
    """What to draw of the diagnostics: each series, or of a single one each seed."""
    parts = []
    for one in shown:
        if (own := found.get(one.run.path)) is None:
            continue
        kept = [place for place in one.members if place < len(own.differences)]
        if one.seeds and not pooled:
            parts += [(one.seeds[place], own, [place]) for place in kept if place in one.seeds]
        elif kept:
            parts.append((one.key, own, kept))
    return parts


def _finite(samples: Sequence[Sample]) -> list[Sample]:
    """Without the numbers of networks that diverged; a series that has no other is left out."""
    kept = []
    for one in samples:
        finite = np.isfinite(one.x) & (True if one.y is None else np.isfinite(one.y))
        if finite.any():
            kept.append(Sample(one.key, one.x[finite], None if one.y is None else one.y[finite]))
    return kept


def networks_of(
    shown: Sequence[Series], keys: Sequence[Key], found: dict[Path, Diagnostics]
) -> list[Figure]:
    """What the trained networks make of the data."""
    drawn = []
    pooled, apart = _samples(shown, found, True), _samples(shown, found, False)
    critics = [one for one in pooled if np.isfinite(one[1].differences[one[2]]).any()]
    if critics:
        drawn.append(_differences(critics, keys, named=len(shown) > 1))
    valued = _finite(
        [
            Sample(key.key, np.tile(own.returns, len(place)), own.values[place].ravel())
            for key, own, place in apart
            if own.values.size
        ]
    )
    if valued:
        unit = " or ".join(dict.fromkeys(one[1].unit for one in apart))
        drawn.append(
            figures.values_against_returns(
                valued,
                keys,
                note="Points are logged states. Above the dashed line the networks expect more "
                "than what followed in the log, as they should where another action is better, "
                "or where the log was cut.",
                unit=unit,
            )
        )
    samples = _finite([Sample(key.key, own.distances[place].ravel()) for key, own, place in apart])
    if samples:
        logs = list({id(own): own for _, own, _ in apart}.values())
        listed = [*keys]
        if len(logs) == 1:
            samples.append(Sample(figures.LOGGED.key, logs[0].logged))
            listed.append(figures.LOGGED)
        drawn.append(
            figures.action_distances(
                samples,
                [key for key in listed if any(key.key == one.key for one in samples)],
                note="How far the policy's action is from the nearest one that was logged in a "
                "similar state of another episode. Logged actions themselves are the dashed line: "
                "far to its right, values are extrapolated.",
            )
        )
    discrete = [one for one in apart if one[1].chosen.size]
    if discrete and len({len(own.taken) for _, own, _ in discrete}) == 1:
        samples = [Sample(key.key, own.chosen[place].mean(0)) for key, own, place in discrete]
        samples.append(Sample(figures.LOGGED.key, discrete[0][1].taken))
        listed = [*keys, figures.LOGGED]
        same = ", ".join(f"{own.agreement[place].mean():.0%}" for _, own, place in discrete[:6])
        drawn.append(
            figures.action_shares(
                samples,
                [key for key in listed if any(key.key == one.key for one in samples)],
                [str(number) for number in range(len(discrete[0][1].taken))],
                note=f"How often each action is taken. The policy does what was logged in {same} "
                "of the states.",
            )
        )
    return drawn


def returns_of(run: RunFolder, own: Diagnostics) -> Figure:
    """The figure of the returns of a run's data."""
    extent = run.config.data.extent
    mean = float(own.episode_returns.mean()) if extent is None else extent.mean_return
    note = "What the behaviour policy reached, not discounted; the dashed line is the mean."
    return figures.episode_returns(own.episode_returns, mean, note=note)


def _differences(
    critics: list[tuple[Key, Diagnostics, list[int]]], keys: Sequence[Key], named: bool
) -> Figure:
    divided = all(len(own.beta) for _, own, _ in critics)
    samples = [Sample(key.key, own.differences[place].ravel()) for key, own, place in critics]
    samples = _finite(samples)
    fits = None
    if divided and len(samples) == 1:
        fits = _fits(samples[0].x)
    x = "z = (Q − V) / β" if divided else "Q − V"
    if fits is None:
        return figures.differences(
            samples,
            keys,
            None,
            title=f"Distribution of {x}",
            note="Of logged transitions.",
            x=x,
        )
    mean_exp = float(np.exp(np.minimum(samples[0].x, 50.0)).mean())
    whose = f"{critics[0][0].label}: " * named
    note = (
        f"{whose}Of logged transitions, with four families fitted by likelihood; "
        f"{fits.best.name} is the nearest. The mean of e^z is {mean_exp:.3g}: 1 where V is the "
        "soft maximum of Q, whatever the distribution."
    )
    return figures.differences(samples, keys, fits, title=f"Distribution of {x}", note=note, x=x)


def _fits(values: np.ndarray) -> ErrorFits | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of scipy's searches
            return fit_errors(values[:10_000])
    except ValueError:
        return None
