"""Runs' policies on logged data: are they better than what acted there, and which is best?"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64

from xql.agents import Agent, Batch
from xql.agents import member as one_member
from xql.data.columns import TableColumns
from xql.data.dataset import Dataset
from xql.data.scaling import DEFAULT_DISCOUNT, apply_scaling, returns_to_go
from xql.data.sources import open_dataset
from xql.display import html_table
from xql.errors import InputError, brief
from xql.evaluation.bellman import bellman_errors
from xql.evaluation.ope import (
    DEFAULT,
    FQE,
    Estimate,
    OffPolicy,
    Verdict,
    actions_at,
    interval,
    return_bounds,
    spread_out,
    verdict,
)
from xql.evaluation.support import Support, support
from xql.files import write_text
from xql.jax_config import standard_jax
from xql.runs.checkpoints import latest_step
from xql.runs.config import DataConfig, RunConfig, require_at_least
from xql.runs.folder import RunFolder, run_folders
from xql.runs.policy import Policy, load_actors, load_population
from xql.training.progress import ProgressBar
from xql.training.reopen import Source, reopen, reopen_held_out
from xql.version import __version__

FILE = "ope.json"
"""What `xql ope` leaves in a run's folder."""
RETURNS = "discounted returns [95 % interval over episodes]"
"""What the estimates are, above them."""
TRANSITIONS = 5_000
"""Of the data, on which a run's critic is checked."""
MOST_FAR = 0.25
"""The share of actions far from the logged ones above which the data says little of a policy."""
LEAST_EFFECTIVE = 0.05
"""The effective sample size, as a share of the transitions, below which it does."""
BEYOND = 0.05
"""How far beyond the range of possible returns, in parts of it, a value is not yet impossible."""
MOST_IMPOSSIBLE = 0.01
OVERFITTED = 1.5
"""How many times as large as on its own data a critic's error on other data may be."""


class CriticCheck(NamedTuple):
    """The critic that a run trained, on transitions of the data."""

    value: float
    """The mean of Q₁(s, a)."""
    returns: float
    """The mean discounted return from each step to where its log ends."""
    impossible: float
    """The share of Q₁ beyond every return that the rewards allow."""
    error: float
    """The root mean square of the temporal-difference error."""
    trained_error: float | None
    """Likewise on the data that the run learned from, where that is other data and still there."""
    unit: str
    """Of all but the share: the data's own, or that of the run's rewards where they are shifted."""

    @property
    def warnings(self) -> list[str]:
        """What is wrong with it, one line for each reason."""
        lines = []
        if self.impossible > MOST_IMPOSSIBLE:
            lines.append(
                f"{self.impossible:.0%} of its critic's values lie beyond every return that the "
                "rewards allow"
            )
        if self.trained_error is not None and self.error > OVERFITTED * self.trained_error:
            times = self.error / max(self.trained_error, 1e-12)
            lines.append(
                f"its critic's error is {times:.1f} times as large here as on the data that it "
                "learned from"
            )
        return lines


@dataclass(frozen=True)
class PolicyValue:
    """What logged data says of one policy. Values are discounted returns in the data's own unit."""

    run: Path
    member: int
    step: int
    replicates: Float64[np.ndarray, " replicates"]
    difference: Estimate
    """To the behaviour policy's value, paired."""
    support: Support | None

    @property
    def value(self) -> Estimate:
        """What the policy is worth."""
        return interval(self.replicates)

    def behind(self, other: "PolicyValue") -> Estimate:
        """How much more another policy is worth, paired."""
        return interval(other.replicates - self.replicates)

    @property
    def warnings(self) -> list[str]:
        """Why the data says little of it, one line for each reason."""
        found = self.support
        if found is None:
            return ["there is one episode: no interval, and no other to compare its actions with"]
        lines = []
        if found.far > MOST_FAR:
            lines.append(
                f"in {found.far:.0%} of the states its action is unlike those logged in similar "
                "states: its value there is extrapolated"
            )
        if found.effective < LEAST_EFFECTIVE:
            lines.append(
                f"only {found.effective:.1%} of the transitions show what its actions lead to "
                "(effective sample size)"
            )
        return lines


class Ranking(NamedTuple):
    """Policies on one dataset."""

    data: OffPolicy
    policies: list[PolicyValue]
    """The best first."""

    def __repr__(self) -> str:
        first = self.policies[0]
        where = f"run={str(first.run)!r}, member={first.member}, step={first.step}"
        return f"Ranking(policies={len(self.policies)}, first=({where}, value={first.value}))"


@standard_jax()
def select(
    runs: Path | str | Sequence[Path | str],
    data: Source | None = None,
    *,
    member: int | None = None,
    step: int | None = None,
    discount: float | None = None,
    sample: bool = False,
    updates: int | None = None,
    replicates: int = DEFAULT.replicates,
    hidden: Sequence[int] = DEFAULT.hidden,
    seed: int = 0,
    progress: bool = True,
) -> Ranking:
    """Rank the policies of runs by fitted Q evaluation, all by the same resamples of the same data.

    Args:
        runs: a run folder, or several; a folder of run folders, or of a sweep, is all of them.
        data: what to evaluate on; where None, the episodes that the runs held out, or else the data
            that they learned from.
        member: whose policies; every one's where None.
        step: of the checkpoint or the kept policy; all that the runs have where None.
        discount, sample, updates, replicates, hidden, seed, progress: as `ope` takes them; all
            the runs have one discount.

    Raises:
        InputError: no run, no policy, or data that does not fit all the runs; or the runs have
            learned from different data or have different discounts, and none is given.
    """
    settings = _settings(updates, replicates, hidden)
    folders = [RunFolder.open(run) for run in run_folders(runs)]
    found = [one for folder in folders for one in _candidates(folder, member, step)]
    discount = _discount(folders) if discount is None else discount
    done = 0

    def advance(updates: int) -> None:
        nonlocal done
        done += updates
        bar.advance(done)

    off_policy = OffPolicy(_data(folders, data), discount, settings, seed, advance)
    updates, replicates = off_policy.settings.updates, off_policy.settings.replicates
    assert updates is not None
    policies: list[PolicyValue] = []
    left_out: list[str] = []
    count = sum(len(members) for _, _, members in found)
    with ProgressBar((count + 1) * updates, replicates, enabled=progress) as bar:
        each = "the policy" if count == 1 else f"each of {count} policies"
        critics = "1 critic" if replicates == 1 else f"{replicates} critics"
        bar.say(
            f"{critics} of {updates:,} updates for {each}, and as many for the behaviour policy"
        )
        bar.compiling()
        for folder, at, members in found:
            actors = load_actors(folder, at)
            for which in members:
                config, where = folder.config, f"{folder.path}, member {which}, step {at}"
                if count > 1:
                    number = len(policies) + len(left_out) + 1
                    bar.say(f"policy {number} of {count}: {where}")
                policy = Policy(one_member(actors, which), config.scaling, config.data.actions)
                try:
                    actions = _actions(policy, off_policy.dataset, seed if sample else None, where)
                except InputError as error:
                    if count == 1:
                        raise
                    left_out.append(str(error))
                    advance(updates)
                    continue
                values = off_policy.value(actions)
                near = support(
                    off_policy.dataset,
                    off_policy.observations,
                    off_policy.actions,
                    off_policy.scaled(actions),
                )
                difference = interval(values - off_policy.behaviour)
                policies.append(PolicyValue(folder.path, which, at, values, difference, near))
    for line in left_out:
        warnings.warn(f"left out: {line}", UserWarning, stacklevel=2)
    if not policies:
        raise InputError("no policy's actions are finite", hint="train again, or name other runs")
    return Ranking(off_policy, sorted(policies, key=lambda one: -one.value.estimate))


@dataclass(frozen=True)
class OpeResult:
    """Whether a run's policy is better than the one that acted in the log.

    Attributes:
        data: what it was evaluated on.
        policy: what was found; its `value` and its `difference` to the behaviour policy.
        critic: likewise of the run's own critic, where it has one that was kept.
        sample, seed: as `ope` took them.
    """

    data: OffPolicy
    policy: PolicyValue
    critic: CriticCheck | None
    sample: bool = False
    seed: int = 0

    @property
    def verdict(self) -> Verdict:
        """Whether the 95 % interval of the difference lies above 0, below, or neither."""
        return verdict(self.policy.difference)

    @property
    def behaviour(self) -> Estimate:
        """What the policy that acted in the log is worth."""
        return interval(self.data.behaviour)

    @property
    def warnings(self) -> list[str]:
        """Why the data says little of the policy, one line for each reason."""
        return [*self.policy.warnings, *(self.critic.warnings if self.critic is not None else [])]

    def describe(self) -> str:
        """All of it in words, one line each; returns are in the data's own unit."""
        policy, critic, near = self.policy, self.critic, self.policy.support
        lines = [f"{policy.run}, member {policy.member}, step {policy.step:,}, on {self._about()}"]
        lines.append(f"{RETURNS}:")
        width = max(map(len, (names := self._estimates())))
        lines += [f"{name:{width}}  {estimate}" for name, estimate in names.items()]
        if near is not None:
            lines.append(
                f"its actions: {near.distance:.2f} × as far from the usual one in similar states "
                f"as logged actions; {near.far:.0%} unlike all of them; effective sample size "
                f"{near.effective:.0%} of the transitions"
            )
        if critic is not None:
            trained = critic.trained_error
            beside = "" if trained is None else f" ({trained:.4g} on what it learned from)"
            lines.append(
                f"its critic, in {critic.unit}: mean Q {critic.value:.4g} beside returns-to-go of "
                f"{critic.returns:.4g} in the log; temporal-difference error "
                f"{critic.error:.4g}{beside}"
            )
        lines += [f"warning: {text}" for text in self.warnings]
        than = "the policy that acted in the log"
        reason = "there is one episode"
        if np.isfinite(self.policy.difference.low):
            reason = "the interval of the difference contains 0"
        lines.append(
            f"it cannot be said whether the policy is better than {than}: {reason}"
            if self.verdict == "cannot be said"
            else f"the policy is {self.verdict} than {than}"
            + ", as far as the warnings allow" * bool(self.warnings)
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's values, as in ope.json; docs/run-folder.md has the keys."""
        config = RunConfig.load(self.policy.run)
        dataset, settings = self.data.dataset, self.data.settings
        fingerprint = self.data.fingerprint
        support = self.policy.support
        plain: dict[str, Any] = _finite(
            {
                "format": 1,
                "xql": __version__,
                "agent": config.agent,
                "member": self.policy.member,
                "step": self.policy.step,
                "data": {
                    "name": dataset.name,
                    "source": dataset.source,
                    "fingerprint": fingerprint,
                    "transitions": int(dataset.transitions),
                    "episodes": len(dataset),
                    "learned_from": fingerprint == config.data.fingerprint,
                    "held_out": fingerprint == config.data.held_out,
                },
                "discount": self.data.discount,
                "sample": self.sample,
                "replicates": settings.replicates,
                "updates": settings.updates,
                "seed": self.seed,
                "policy": self.policy.value._asdict(),
                "behaviour": self.behaviour._asdict(),
                "difference": self.policy.difference._asdict(),
                "logged_return": self.data.logged_return()._asdict(),
                "support": None if support is None else support._asdict(),
                "critic": None if self.critic is None else self.critic._asdict(),
                "warnings": self.warnings,
                "verdict": self.verdict,
            }
        )
        return plain

    def write(self) -> Path:
        """Leave it in the run's folder, as `ope.json`; one that is there is replaced.

        Raises:
            InputError: it cannot be written.
        """
        path = self.policy.run / FILE
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_text(path, text + "\n", "verdict")
        return path

    def __repr__(self) -> str:
        policy = self.policy
        where = f"run={str(policy.run)!r}, member={policy.member}, step={policy.step}"
        return f"OpeResult({where}, difference={policy.difference}, verdict={self.verdict!r})"

    def _repr_html_(self) -> str:
        shown: dict[str, object] = {"run": self.policy.run, "on": self._about()}
        shown |= self._estimates() | {"verdict": self.verdict}
        shown |= {f"warning {number}": text for number, text in enumerate(self.warnings, 1)}
        return html_table(f"Off-policy evaluation: {RETURNS}", shown)

    def _about(self) -> str:
        return about_data(self.data, RunConfig.load(self.policy.run).data)

    def _estimates(self) -> dict[str, Estimate]:
        """By what they are of."""
        return {
            "policy": self.policy.value,
            "behaviour policy": self.behaviour,
            "difference": self.policy.difference,
            "episodes, as far as the log goes": self.data.logged_return(),
        }


@standard_jax()
def ope(
    run: Path | str,
    data: Source | None = None,
    *,
    member: int = 0,
    step: int | None = None,
    discount: float | None = None,
    sample: bool = False,
    updates: int | None = None,
    replicates: int = DEFAULT.replicates,
    hidden: Sequence[int] = DEFAULT.hidden,
    seed: int = 0,
    progress: bool = True,
) -> OpeResult:
    """Say from logged data whether a run's policy is better than what acted in the log.

    Args:
        run: the run's folder.
        data: what to evaluate on, best data that the run has not learned from; where None, the
            episodes that it held out, or else the data that it learned from.
        member: whose policy.
        step: of the checkpoint or the kept policy; the latest where None.
        discount: of the returns that are estimated; the run's where None.
        sample: whether the policy's actions are drawn, or else the most likely ones.
        updates: of each critic; as many as the discount needs where None.
        replicates: resamples of the episodes, with a critic each.
        hidden: sizes of the critics' hidden layers.
        seed: of the resamples, the critics, the batches and the actions that are drawn.
        progress: show a progress bar on standard error.

    Raises:
        InputError: no run, no such policy, or data that does not fit it.
    """
    folder = RunFolder.open(Path(run))  # `select` takes a folder of runs too, and every member
    member = folder.config.require_member(member, str(run))
    found, (policy,) = select(
        folder.path,
        data,
        member=member,
        step=_newest(folder) if step is None else step,
        discount=discount,
        sample=sample,
        updates=updates,
        replicates=replicates,
        hidden=hidden,
        seed=seed,
        progress=progress,
    )
    critic = check_critic(run, found.dataset, member, policy.step)
    return OpeResult(found, policy, critic, sample, seed)


def about_data(data: OffPolicy, own: DataConfig) -> str:
    """The data that policies were evaluated on, in words.

    Args:
        data: as `select` returns it.
        own: what a run learned from.
    """
    dataset = data.dataset
    said = {own.held_out: ", held out from training", own.fingerprint: ", learned from"}
    return (
        f"{dataset.name}: {dataset.transitions:,} transitions in {len(dataset):,} episodes"
        f"{said.get(data.fingerprint, '')}; discount {data.discount:g}"
    )


def _settings(updates: int | None, replicates: int, hidden: Sequence[int]) -> FQE:
    if updates is not None:
        require_at_least("updates", updates, 1)
    require_at_least("replicates", replicates, 2)
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise InputError(
            f"`hidden` cannot be {brief(hidden)}", hint="give the layers' sizes, such as (64, 64)"
        )
    for size in hidden:
        require_at_least("hidden", size, 1)
    return FQE(replicates=replicates, updates=updates, hidden=tuple(hidden))


def _finite(value: Any) -> Any:
    """The same with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _actions(
    policy: Policy, dataset: Dataset, seed: int | None, where: str
) -> Float32[np.ndarray, "rows action"]:
    """What the policy does in every row: most likely actions, or with a seed drawn ones."""
    key = None if seed is None else jax.random.key(seed)

    def act(rows: Float32[np.ndarray, "rows observation"]) -> Float32[np.ndarray, "rows action"]:
        nonlocal key
        if key is None:
            return policy.flat(rows)
        key, draw_key = jax.random.split(key)
        return policy.flat(rows, draw_key)

    try:
        return actions_at(act, dataset.observations)
    except InputError as error:
        raise InputError(error.what, where=where, hint=error.hint) from None


def _candidates(
    folder: RunFolder, index: int | None, step: int | None
) -> list[tuple[RunFolder, int, Sequence[int]]]:
    """The steps whose policies a run has kept, and its members."""
    config, where = folder.config, str(folder.path)
    members = range(len(config.members))
    which = members if index is None else [config.require_member(index, where)]
    homes = [home for home in (folder.checkpoints, folder.policies) if home.is_dir()]
    names = {path.name for home in homes for path in home.iterdir() if path.name.isdecimal()}
    steps = sorted(map(int, names))
    if not steps or (step is not None and step not in steps):
        what = "there is no policy" + ("" if step is None else f" of step {step}")
        have = ", ".join(map(str, steps))
        raise InputError(what, where=where, hint=f"it has {have}" if have else "train it first")
    return [(folder, at, which) for at in steps if step in (None, at)]


def _newest(folder: RunFolder) -> int | None:
    """The step of a run's latest checkpoint, or else of the policies that it kept last."""
    return latest_step(folder.checkpoints) or latest_step(folder.policies)


def _discount(folders: Sequence[RunFolder]) -> float:
    """What all the runs have learned with."""
    discounts = {
        float(getattr(folder.config.member_config(index), "discount", DEFAULT_DISCOUNT))
        for folder in folders
        for index in range(len(folder.config.members))
        if hasattr(folder.config.hyperparameters, "discount")
    } or {DEFAULT_DISCOUNT}
    if len(discounts) > 1:
        listing = " and ".join(f"{one:g}" for one in sorted(discounts))
        raise InputError(f"the runs have discounts {listing}", hint="choose one with `discount`")
    return discounts.pop()


def _data(folders: Sequence[RunFolder], data: Source | None) -> Dataset:
    first = folders[0]
    if data is None:
        dataset = _own_data(first, held_out=True)
        for folder in folders[1:]:
            if _evaluated_on(folder.config) != _evaluated_on(first.config):
                raise InputError(
                    f"it learned from other data than {first.path}",
                    where=str(folder.path),
                    hint="say with `data` what to evaluate all of them on",
                )
    else:
        dataset = open_dataset(data)
    for folder in folders:
        _require_fit(folder.config, str(folder.path), dataset)
    return dataset


def _evaluated_on(config: RunConfig) -> tuple[Any, ...]:
    """What runs that are evaluated together on data of their own have in common.

    Those that held the same episodes out may have learned from different subsets of the rest.
    """
    data = config.data
    return (data.held_out,) if data.held_out else (data.fingerprint, data.extent)


def _own_data(folder: RunFolder, held_out: bool = False) -> Dataset:
    """What a run learned from; or what it held out, where it did."""
    if folder.config.online and folder.config.finetune is None:
        hint = "give the log to evaluate on with `data`"
        raise InputError("an online run has no logged data", where=str(folder.path), hint=hint)
    if held_out and folder.config.data.hold_out:
        held = reopen_held_out(folder.config, folder.path)
        assert held is not None
        return held
    return reopen(folder.config, folder.path)


def _require_fit(config: RunConfig, where: str, dataset: Dataset) -> None:
    ours, theirs = config.data, dataset.action_spec
    for what, own, other in (
        ("observations have size", ours.observation_size, dataset.observation_size),
        ("actions are", ours.actions.kind, theirs.kind),
        ("actions have size", ours.actions.size, theirs.size),
    ):
        if own != other:
            raise InputError(
                f"its {what} {own}, those of {dataset.name} {what.split()[1]} {other}",
                where=where,
                hint="give data of the same columns",
            )
    described = dataset.metadata.get("columns")
    if config.data.columns is not None and described is not None:
        columns = TableColumns.from_dict(described, dataset.name)
        config.data.columns.require_same(columns, dataset.name)


@standard_jax()
def check_critic(
    run: Path | str, dataset: Dataset, index: int = 0, step: int | None = None
) -> CriticCheck | None:
    """How the critic that a run trained does on data; None where there is none, or was not kept.

    Args:
        run: the run's folder.
        dataset: logged data with the run's columns.
        index: which member.
        step: of the checkpoint; the latest where None.

    Raises:
        InputError: no run, or no such member.
    """
    folder = RunFolder.open(Path(run))
    config = folder.config
    agent = config.make_agent()
    step = latest_step(folder.checkpoints) if step is None else step
    if agent.backup is None or not (folder.checkpoints / str(step)).is_dir():
        return None
    state = one_member(load_population(folder, step)[1], config.require_member(index, str(run)))
    scaled = apply_scaling(dataset, config.scaling)
    errors, values, rows = _errors(agent, state, scaled)
    shifted = config.scaling.reward_shift != 0.0
    unit = 1.0 if shifted else 1.0 / config.scaling.reward_scale
    discount = float(state.config.discount)
    low, high = (-np.inf, np.inf)
    if discount < 1.0 and not agent.values_include_entropy:
        low, high = return_bounds(scaled.rewards[scaled.starts], discount)
        low, high = low - BEYOND * (high - low), high + BEYOND * (high - low)
    trained = None
    if dataset.fingerprint() != config.data.fingerprint:
        try:
            own = apply_scaling(_own_data(folder), config.scaling)
            trained = _root_mean_square(_errors(agent, state, own)[0]) * unit
        except InputError:
            trained = None
    return CriticCheck(
        value=float(values.mean()) * unit,
        returns=float(returns_to_go(scaled, discount)[rows].mean()) * unit,
        impossible=float(((values < low) | (values > high)).mean()),
        error=_root_mean_square(errors) * unit,
        trained_error=trained,
        unit="scaled rewards" if shifted else "the data's unit",
    )


def _errors(
    agent: Agent, state: Any, scaled: Dataset
) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " rows"], np.ndarray]:
    """δ and Q₁ of transitions spread over the data, and their rows."""
    assert agent.backup is not None
    rows = spread_out(scaled.starts, TRANSITIONS)
    columns = (scaled.observations, scaled.actions, scaled.rewards, scaled.masks)
    batch = Batch(*(jnp.asarray(one[rows]) for one in (*columns, scaled.observations[1:])))
    errors = bellman_errors(state, batch, None, backup=agent.backup)
    values = state.critic.network(batch.observations, batch.actions)[0]
    return np.asarray(errors, np.float64), np.asarray(values, np.float64), rows


def _root_mean_square(errors: Float64[np.ndarray, " rows"]) -> float:
    return float(np.sqrt(np.square(errors).mean()))
