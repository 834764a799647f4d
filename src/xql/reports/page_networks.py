"""What trained networks make of their data, as figures of the HTML page."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xql.data.actions import Box
from xql.gumbel.errors import ErrorFits, fit_errors
from xql.reports import page_samples as figures
from xql.reports.page_figures import Figure, Key
from xql.reports.page_samples import Histogram, Sample
from xql.reports.page_series import Series
from xql.runs.folder import RunFolder
from xql.training.diagnostics import Diagnostics

VALUES_NOTE = (
    "Points are logged states. Above the dashed line the networks expect more than what followed "
    "in the log, as they should where another action is better, or where the log was cut."
)
REPLAY_VALUES_NOTE = (
    "Points are the last transitions in the replay buffer, beside the return that followed there "
    "while the policy explored. Away from the dashed line the critic expects another return than "
    "that, as it should where the buffer ends before the episode does."
)
ONLINE_NOTES = {
    "z = (Q − V) / β": "Of the last states in the replay buffer and actions of this policy",
    "z = (y − Q) / β": "Of the last transitions in the replay buffer, y the target of Q",
}


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
    drawn: list[Figure] = []
    pooled, apart = _samples(shown, found, True), _samples(shown, found, False)
    critics = [one for one in pooled if np.isfinite(one[1].differences[one[2]]).any()]
    for kind in dict.fromkeys(own.difference for _, own, _ in critics):
        same = [one for one in critics if one[1].difference == kind]
        name = f"differences{len(drawn) or ''}"
        drawn.append(_differences(same, keys, name, named=len(shown) > 1))
    valued = _finite(
        [
            Sample(key.key, _returns(own, place).ravel(), own.values[place].ravel())
            for key, own, place in apart
            if own.values.size
        ]
    )
    if valued:
        unit = " or ".join(dict.fromkeys(one[1].unit for one in apart))
        online = [own.source == "replay" for _, own, _ in apart]
        note = VALUES_NOTE
        if all(online):
            note = REPLAY_VALUES_NOTE
            if any(one.run.config.make_agent().values_include_entropy for one in shown):
                note += " The values of this agent include entropy, which no return has."
        drawn.append(
            figures.values_against_returns(
                valued,
                keys,
                note=note,
                unit=unit,
                value="V(s)" if not any(online) else "Q(s, a)" if all(online) else "V or Q",
            )
        )
    samples = _finite([Sample(key.key, own.distances[place].ravel()) for key, own, place in apart])
    if samples:
        logs = list({id(own): own for _, own, _ in apart if own.source == "log"}.values())
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
        recorded = _recorded(apart)
        samples = [Sample(key.key, own.chosen[place].mean(0)) for key, own, place in discrete]
        samples.append(Sample(recorded.key, discrete[0][1].taken))
        listed = [*keys, recorded]
        agreed = ", ".join(f"{own.agreement[place].mean():.0%}" for _, own, place in discrete[:6])
        drawn.append(
            figures.action_shares(
                samples,
                [key for key in listed if any(key.key == one.key for one in samples)],
                _names(shown, len(discrete[0][1].taken)),
                note="How often each action is taken; grey is how often it was recorded. The "
                "policy does what was recorded in "
                f"{agreed} of the states.",
            )
        )
    return drawn


def actions_of(
    shown: Sequence[Series], keys: Sequence[Key], found: dict[Path, Diagnostics]
) -> list[Figure]:
    """Of each number of an action, how the policy's are distributed beside the recorded ones."""
    parts = [one for one in _samples(shown, found, False) if one[1].recorded.size]
    if not parts or len({one.recorded.shape for _, one, _ in parts}) > 1:
        return []
    recorded = _recorded(parts)
    listed = [one for one in keys if any(one.key == key.key for key, _, _ in parts)]
    names = _names(shown, next(iter(shown)).run.config.data.actions.size)
    return [
        figures.action_histograms(
            f"action{place}",
            names[place],
            [
                Histogram(key.key, own.edges[place], own.acted[rows, place].mean(0))
                for key, own, rows in parts
            ],
            Histogram(recorded.key, parts[0][1].edges[place], parts[0][1].recorded[place]),
            listed,
            recorded,
        )
        for place in range(len(parts[0][1].recorded))
    ]


def _returns(own: Diagnostics, place: list[int]) -> np.ndarray:
    """A row of returns for each of these members."""
    return own.returns[place] if len(own.returns) > 1 else np.tile(own.returns, (len(place), 1))


def _recorded(parts: Sequence[tuple[Key, Diagnostics, list[int]]]) -> Key:
    """What the policies' actions are compared with."""
    online = all(own.source == "replay" for _, own, _ in parts)
    return figures.LOGGED._replace(label="replay buffer") if online else figures.LOGGED


def _names(shown: Sequence[Series], count: int) -> list[str]:
    """Of the numbers of an action, or of discrete actions: those of the table's columns."""
    columns = shown[0].run.config.data.columns
    if columns is None:
        discrete = not isinstance(shown[0].run.config.data.actions, Box)
        return [str(place) if discrete else f"action {place}" for place in range(count)]
    if len(columns.action) == 1 and columns.action[0].categories:
        return list(columns.action[0].categories)
    return columns.names("action")


def returns_of(run: RunFolder, own: Diagnostics) -> Figure:
    """The figure of the returns of a run's data."""
    extent = run.config.data.extent
    mean = float(own.episode_returns.mean()) if extent is None else extent.mean_return
    note = "What the behaviour policy reached, not discounted; the dashed line is the mean."
    return figures.episode_returns(own.episode_returns, mean, note=note)


def _differences(
    critics: list[tuple[Key, Diagnostics, list[int]]], keys: Sequence[Key], name: str, named: bool
) -> Figure:
    divided = all(len(own.beta) for _, own, _ in critics)
    x = critics[0][1].difference
    online = critics[0][1].source == "replay"
    whole = ONLINE_NOTES.get(x, "") if online else "Of logged transitions"
    samples = [Sample(key.key, own.differences[place].ravel()) for key, own, place in critics]
    samples = _finite(samples)
    fits = None
    if divided and len(samples) == 1:
        fits = _fits(samples[0].x)
    if fits is None:
        return figures.differences(
            samples,
            keys,
            None,
            title=f"Distribution of {x}",
            note=f"{whole}.",
            x=x,
            name=name,
        )
    mean_exp = float(np.exp(np.minimum(samples[0].x, 50.0)).mean())
    whose = f"{critics[0][0].label}: " * named
    note = (
        f"{whose}{whole}, with four families fitted by likelihood; "
        f"{fits.best.name} is the nearest. The mean of e^z is {mean_exp:.3g}: 1 where "
        + ("Q is the soft maximum of y" if "y" in x else "V is the soft maximum of Q")
        + ", whatever the distribution."
    )
    title = f"Distribution of {x}"
    return figures.differences(samples, keys, fits, title=title, note=note, x=x, name=name)


def _fits(values: np.ndarray) -> ErrorFits | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of scipy's searches
            return fit_errors(values[:10_000])
    except ValueError:
        return None
