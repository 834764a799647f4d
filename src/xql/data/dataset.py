"""One `Dataset`: logged episodes laid end to end, each with its final observation.

An episode of T steps fills T + 1 rows, so the observation after row i is row i + 1 and nothing is
stored twice:

    row            0    1    2    3  | 4    5    6
    observation    s₀   s₁   s₂   s₃ | s₀'  s₁'  s₂'
    action         a₀   a₁   a₂   ·  | a₀'  a₁'  ·       · is a zero that no batch ever draws
    reward         r₀   r₁   r₂   ·  | r₀'  r₁'  ·
    mask           1    1    m    ·  | 1    m'   ·       m = 0 where the episode terminated, else 1

An episode ends in one of three ways: it *terminated* (the process itself ended: nothing follows,
the value after it is 0), it was *truncated* (a time limit), or the log simply stops. Only the first
reaches a loss, through the mask.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Int64, Shaped

from xql.data.actions import MOST_CHOICES, ActionSpec, Discrete, box, upper_bounds
from xql.data.cells import is_missing
from xql.data.moves import follows
from xql.data.stored import SMALL, Readable, Stored, blocks, is_on_disk, mapped, release
from xql.display import html_table
from xql.errors import InputError, printable

Continuity = Literal["stated", "recorded", "assumed"]


class DeviceData(NamedTuple):
    """What the compiled loop samples from: a `Dataset` as device arrays."""

    observations: Float32[Array, "rows observation"]
    actions: Float32[Array, "rows action"]
    rewards: Float32[Array, " rows"]
    masks: Float32[Array, " rows"]
    starts: Int32[Array, " transitions"]
    """The rows that hold a transition: all but each episode's last."""
    returns: Float32[Array, " rows"] | None = None
    """A bound from below on the return from each row on, for agents that ask for it."""


class Episode(NamedTuple):
    """A view of one episode of T steps (`observations` has T + 1 rows)."""

    observations: Float32[np.ndarray, "steps_plus_1 observation"]
    actions: Float32[np.ndarray, "steps action"]
    rewards: Float32[np.ndarray, " steps"]
    terminated: bool
    truncated: bool


@dataclass(frozen=True, eq=False)
class Dataset:
    """Logged experience on the host.

    Attributes:
        observations: float32, one row per step and one more at each episode's end.
        actions: float32, zero in each episode's last row; of discrete actions, one-hot rows.
        rewards: float32, zero in each episode's last row.
        lengths: steps of each episode, all >= 1; the rows of an episode are one more.
        terminated: per episode, whether the process itself ended there.
        truncated: per episode, whether a time limit cut it. It may be neither: the log ended.
        name: what the data is called, such as "door-human-v0" or "pointmaze/medium-v0"; control
            characters are written out.
        source: where it was opened from, as `open_dataset` accepts it.
        action_low, action_high: the action bounds, where the source states them.
        discrete: whether each action is one of `action_size` choices.
        environment: the specification of the environment that the logs came from, as JSON
            (`gymnasium.envs.registration.EnvSpec.to_json`), where the source carries one.
        evaluation_environment: likewise for evaluation, where it differs.
        metadata: whatever else the source says (reference scores, author, how it was made).
        continuity: how it is known which row follows which. "stated": the source has the
            observation after each step; "recorded": each episode was recorded with its final
            observation; "assumed": the next row was taken, up to a flag or a new label.

    Raises:
        InputError: arrays of the wrong kind or length, an episode without a step, bounds that are
            not finite and ordered, or discrete actions that are not one-hot or too many.
    """

    observations: Float32[np.ndarray, "rows observation"]
    actions: Float32[np.ndarray, "rows action"]
    rewards: Float32[np.ndarray, " rows"]
    lengths: Int64[np.ndarray, " episodes"]
    terminated: Bool[np.ndarray, " episodes"]
    truncated: Bool[np.ndarray, " episodes"]
    name: str = "unnamed"
    source: str = "arrays"
    action_low: Float32[np.ndarray, " action"] | None = None
    action_high: Float32[np.ndarray, " action"] | None = None
    environment: str | None = None
    evaluation_environment: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    continuity: Continuity = "recorded"
    discrete: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name)[:200])
        self._check_kinds()
        if len(self.lengths) == 0:
            raise InputError("there is no episode", where=self.name, hint="give at least one")
        if (self.lengths < 1).any():
            episode = int(np.argmax(self.lengths < 1))
            raise InputError(
                f"episode {episode} has length 0",
                where=self.name,
                hint="leave it out: an episode needs at least one action",
            )
        self._check_bounds()
        rows = int(self.lengths.sum()) + len(self.lengths)
        for key in ("observations", "actions", "rewards"):
            if len(getattr(self, key)) != rows:
                raise InputError(
                    f"{key} has {len(getattr(self, key))} rows, the episode lengths need {rows}",
                    where=self.name,
                    hint="each episode takes its steps and one final observation",
                )
        if self.discrete:
            self._check_one_hot()

    def _check_kinds(self) -> None:
        kinds = {
            **dict.fromkeys(("observations", "actions"), (np.float32, 2)),
            "rewards": (np.float32, 1),
            "lengths": (np.int64, 1),
            **dict.fromkeys(("terminated", "truncated"), (np.bool_, 1)),
        }
        for key, (dtype, axes) in kinds.items():
            array = np.asarray(getattr(self, key))
            if array.dtype != dtype or array.ndim != axes:
                what = f"{key} is {array.dtype} with {array.ndim} axes"
                hint = f"make it {np.dtype(dtype)} with {axes}"
                raise InputError(what, where=self.name, hint=hint)
        for key in ("terminated", "truncated"):
            if len(getattr(self, key)) != len(self.lengths):
                what = f"{key} has {len(getattr(self, key))} values for {self.episodes} episodes"
                raise InputError(what, where=self.name, hint="give one for each episode")
        if self.continuity not in get_args(Continuity):
            hint = f"choose from {', '.join(get_args(Continuity))}"
            raise InputError(f"continuity is '{self.continuity}'", where=self.name, hint=hint)

    def _check_bounds(self) -> None:
        bounds = {"action_low": self.action_low, "action_high": self.action_high}
        for key, bound in bounds.items():
            if bound is None:
                continue
            if bound.dtype != np.float32 or bound.shape != (self.action_size,):
                what = f"{key} is {bound.dtype} of shape {bound.shape}"
                hint = f"make it float32, one for each of the {self.action_size} action columns"
                raise InputError(what, where=self.name, hint=hint)
            if not np.isfinite(bound).all():
                column = int(np.argmin(np.isfinite(bound)))
                what = f"{key} is {bound[column]} in column {column}"
                hint = "bounds must be finite; leave both out if there are none"
                raise InputError(what, where=self.name, hint=hint)
        low, high = self.action_low, self.action_high
        if low is not None and high is not None and (low >= high).any():
            column = int(np.argmax(low >= high))
            what = f"action_low {low[column]:g} is not below action_high {high[column]:g}"
            hint = "fix the bounds, or drop a column that cannot move"
            raise InputError(f"{what} in column {column}", where=self.name, hint=hint)

    def _check_one_hot(self) -> None:
        if self.action_size > MOST_CHOICES:
            what = f"there are {self.action_size:,} discrete actions"
            hint = f"at most {MOST_CHOICES:,} are supported"
            raise InputError(what, where=self.name, hint=hint)
        row, acted = None, self.acted
        for block in blocks(self.actions):
            taken = self.actions[block]
            sound = ((taken == 0) | (taken == 1)).all(axis=1) & (taken.sum(axis=1) == 1)
            if row is None and not (sound | ~acted[block]).all():
                row = block.start + int(np.argmin(sound | ~acted[block]))
        if row is not None or self.action_low is not None or self.action_high is not None:
            what = "discrete actions with bounds"
            if row is not None:
                what = f"discrete actions, and row {row} is {self.actions[row]}"
            hint = "give a 1 at the action taken, 0 elsewhere, and no bounds"
            raise InputError(what, where=self.name, hint=hint)

    @property
    def transitions(self) -> int:
        """The number of (s, a, r, s') that the data holds."""
        return int(self.lengths.sum())

    @property
    def episodes(self) -> int:
        """The number of episodes."""
        return len(self.lengths)

    @property
    def observation_size(self) -> int:
        """The length of one flat observation."""
        return int(self.observations.shape[1])

    @property
    def action_size(self) -> int:
        """The length of one flat action; of discrete ones, how many there are."""
        return int(self.actions.shape[1])

    @property
    def action_spec(self) -> ActionSpec:
        """What the actions are; where no bounds are stated, those of a Box are what they span."""
        if self.discrete:
            return Discrete(self.action_size)
        if self.action_low is not None and self.action_high is not None:
            return box(self.action_low, self.action_high)
        low, high = self.action_range
        if (low >= -1).all() and (high <= 1).all():
            # Nearly every logged task acts in [-1, 1]; the data need not reach its corners.
            low, high = -np.ones_like(low), np.ones_like(high)
        return box(low, upper_bounds(low, high))

    @property
    def action_range(
        self,
    ) -> tuple[Float32[np.ndarray, " action"], Float32[np.ndarray, " action"]]:
        """The least and the largest number of each column of the actions that were taken."""
        acted = self.acted
        ends = []
        for block in blocks(self.actions):
            taken = self.actions[block][acted[block]]
            if len(taken):
                ends.append((taken.min(0), taken.max(0)))
        lows, highs = zip(*ends, strict=True)
        return np.min(lows, axis=0), np.max(highs, axis=0)

    @functools.cached_property
    def firsts(self) -> Int64[np.ndarray, " episodes"]:
        """The row of each episode's first observation."""
        taken: np.ndarray = self.lengths + 1
        firsts = np.asarray(np.cumsum(taken) - taken)
        firsts.setflags(write=False)  # kept: `episode` asks for it each time
        return firsts

    @property
    def starts(self) -> Int64[np.ndarray, " transitions"]:
        """The rows that hold a transition, in order: every row but each episode's last."""
        return np.flatnonzero(self.acted)

    @property
    def acted(self) -> Bool[np.ndarray, " rows"]:
        """Whether each row holds a transition."""
        acted = np.ones(len(self.observations), bool)
        acted[self.firsts + self.lengths] = False
        return acted

    @property
    def masks(self) -> Float32[np.ndarray, " rows"]:
        """1 where the next observation's value counts, 0 at a terminated episode's last step."""
        masks = np.ones(len(self.observations), np.float32)
        masks[(self.firsts + self.lengths - 1)[self.terminated]] = 0.0
        return masks

    @property
    def returns(self) -> Float[np.ndarray, " episodes"]:
        """The undiscounted return of each episode, summed in float64."""
        # The padding row's reward is zero, so whole-episode sums need no mask.
        return np.add.reduceat(self.rewards.astype(np.float64), self.firsts)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any number that a run learns from.

        Of observations, actions, rewards, and where and how episodes end; not of time limits, names
        or bounds. It takes 0.5 s for each gigabyte, where the processor has instructions for it.
        """
        digest = hashlib.sha256()
        for array in (
            self.observations,
            self.actions,
            self.rewards,
            self.lengths,
            self.terminated,
        ):
            digest.update(str(array.shape).encode())
            # The bytes of any machine: numbers start with the least significant.
            kind = array.dtype.newbyteorder("<")
            for block in blocks(array):
                digest.update(np.ascontiguousarray(array[block].astype(kind, copy=False)).data)
                release(array)
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        rewards = self.rewards[self.acted]
        return (
            f"Dataset(name={self.name!r}, transitions={self.transitions}, "
            f"episodes={self.episodes}, observation_size={self.observation_size}, "
            f"action_size={self.action_size}, rewards=[{rewards.min():g}, {rewards.max():g}])"
        )

    def _repr_html_(self) -> str:
        rewards, lengths = self.rewards[self.acted], self.lengths
        shown = {
            "name": self.name,
            "source": self.source,
            "transitions": f"{self.transitions:,}",
            "episodes": f"{self.episodes:,}, of {lengths.min():,} to {lengths.max():,} steps",
            "observation size": self.observation_size,
            "action size": f"{self.action_size}{', discrete' * self.discrete}",
            "rewards": f"{rewards.min():g} to {rewards.max():g}",
            "returns": f"{self.returns.min():g} to {self.returns.max():g}",
        }
        return html_table("Dataset", shown)

    def __len__(self) -> int:
        return self.episodes

    def __iter__(self) -> Iterator[Episode]:
        return (self.episode(index) for index in range(self.episodes))

    def episode(self, index: int) -> Episode:
        """A view of one episode."""
        first, length = int(self.firsts[index]), int(self.lengths[index])
        return Episode(
            observations=self.observations[first : first + length + 1],
            actions=self.actions[first : first + length],
            rewards=self.rewards[first : first + length],
            terminated=bool(self.terminated[index]),
            truncated=bool(self.truncated[index]),
        )

    def part(self, most: int) -> "Dataset":
        """Evenly spread episodes, with about so many transitions and at most twice as many.

        The dataset itself where it has no more. Where whole episodes would be more than twice as
        many, long ones are cut, and end as a log does.
        """
        if self.transitions <= most:
            return self
        count = max(1, int(self.episodes * (most / self.transitions)))
        chosen = np.linspace(0, self.episodes - 1, count).astype(int)
        longest = self.transitions
        if self.lengths[chosen].sum() > 2 * most:
            longest = max(1, 2 * most // count)
        episodes = []
        for index in chosen:
            one = self.episode(int(index))
            if len(one.actions) > longest:
                one = Episode(
                    one.observations[: longest + 1],
                    one.actions[:longest],
                    one.rewards[:longest],
                    False,
                    False,
                )
            episodes.append(one)
        return Dataset.from_episodes(episodes, **self.described)

    @property
    def described(self) -> dict[str, Any]:
        """The fields that describe it: all but its arrays of steps and episodes."""
        laid = {"observations", "actions", "rewards", "lengths", "terminated", "truncated"}
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in laid}

    def with_metadata(self, **changes: Any) -> "Dataset":
        """A copy with some fields changed (name, bounds, ...); shares the others' arrays."""
        return replace(self, **changes)

    def to_device(
        self,
        sharding: jax.sharding.Sharding | None = None,
        returns: Float32[np.ndarray, " rows"] | None = None,
    ) -> DeviceData:
        """The arrays that the compiled loop samples from, placed by `sharding` or on one device.

        On the CPU they are the host's own memory (see `empty`), so the data exists once; the host
        arrays become read-only, because writing to them would change what the loop sees.
        """
        for array in (self.observations, self.actions, self.rewards):
            array.setflags(write=False)
        return DeviceData(
            observations=jax.device_put(self.observations, sharding),
            actions=jax.device_put(self.actions, sharding),
            rewards=jax.device_put(self.rewards, sharding),
            masks=jax.device_put(self.masks, sharding),
            starts=jax.device_put(self.starts.astype(np.int32), sharding),
            returns=None if returns is None else jax.device_put(returns, sharding),
        )

    @classmethod
    def from_episodes(cls, episodes: Sequence[Episode], **describe: Any) -> "Dataset":
        """Lay episodes end to end; `describe` sets the descriptive fields."""
        if not episodes:
            raise InputError("there is no episode", hint="give at least one")
        lengths = np.array([len(episode.actions) for episode in episodes], np.int64)
        rows = int(lengths.sum()) + len(lengths)
        observations = empty((rows, episodes[0].observations.shape[1]))
        actions = empty((rows, episodes[0].actions.shape[1]))
        rewards = empty((rows,))
        first = 0
        for episode, length in zip(episodes, lengths.tolist(), strict=True):
            last = first + length
            observations[first : last + 1] = episode.observations
            actions[first:last], actions[last] = episode.actions, 0.0
            rewards[first:last], rewards[last] = episode.rewards, 0.0
            release(episode.observations)
            first = last + 1
        return cls(
            observations=observations,
            actions=actions,
            rewards=rewards,
            lengths=lengths,
            terminated=np.array([episode.terminated for episode in episodes], bool),
            truncated=np.array([episode.truncated for episode in episodes], bool),
            **describe,
        )

    @classmethod
    def from_arrays(
        cls,
        observations: Shaped[np.ndarray | Stored, "steps observation"],
        actions: Shaped[np.ndarray | Stored, "steps action"],
        rewards: Shaped[np.ndarray, " steps"],
        terminated: Shaped[np.ndarray, " steps"],
        truncated: Shaped[np.ndarray, " steps"] | None = None,
        next_observations: Shaped[np.ndarray | Stored, "steps observation"] | None = None,
        episode: Shaped[np.ndarray, " steps"] | None = None,
        goes_on: Bool[np.ndarray, " steps"] | None = None,
        **describe: Any,
    ) -> "Dataset":
        """Build from one row per step.

        An episode ends where either flag is set, where `episode` (any label per step) changes, and
        where `next_observations` is not the observation that the next row stores: nothing that the
        columns do not say is ever bridged. They are compared as `xql.data.moves.follows` says,
        before they become float32; `goes_on` is its answer, where the columns given here already
        are.

        Without `next_observations` the observation after a truncated or unfinished episode's last
        step is unknown, so that step's observation becomes the final one and the step itself is
        given up; after a terminated step it does not matter (its value is masked) and is repeated.

        Raises:
            InputError: columns of different lengths, a missing label, or no step with a known
                outcome.
        """
        columns: dict[str, Any] = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "terminated": terminated,
            "truncated": np.zeros(len(terminated), bool) if truncated is None else truncated,
        }
        if next_observations is not None:
            columns["next_observations"] = next_observations
            columns["goes_on"] = (
                follows(observations, next_observations) if goes_on is None else goes_on
            )
        describe = {"continuity": "assumed" if next_observations is None else "stated", **describe}
        where = str(describe.get("name", "arrays"))
        if episode is not None:
            require_labels(episode, where)
            columns["episode"] = episode
        same_length(columns, where)
        terminated = columns["terminated"].astype(bool)
        truncated = columns["truncated"].astype(bool)
        last = np.flatnonzero(_episode_ends(terminated, truncated, columns))
        # Where the outcome of an episode's last step is unknown, the step is given up.
        known = terminated[last] | (next_observations is not None)
        kept = np.ones(len(observations), bool)
        kept[last[~known]] = False
        lengths = (np.diff(last, prepend=-1) - ~known).astype(np.int64)
        last, lengths = last[lengths > 0], lengths[lengths > 0]
        if len(lengths) == 0:
            hint = "give next_observations"
            raise InputError("no step has a known outcome", where=where, hint=hint)
        final = (observations, last) if next_observations is None else (next_observations, last)
        return cls(
            observations=_lay_out(observations, kept, lengths, final),
            actions=_lay_out(actions, kept, lengths),
            rewards=_lay_out(rewards, kept, lengths),
            lengths=lengths,
            terminated=terminated[last],
            truncated=truncated[last],
            **describe,
        )


def _lay_out(
    steps: Readable,
    kept: Bool[np.ndarray, " steps"],
    lengths: Int64[np.ndarray, " episodes"],
    final: tuple[Readable, Int64[np.ndarray, " episodes"]] | None = None,
) -> Float32[np.ndarray, "rows ..."]:
    """One row per step that is kept, and one at each episode's end.

    Args:
        steps: the column.
        kept: which of its rows.
        lengths: of the episodes.
        final: the column that the rows at the ends are from, and which of its rows; zeros where
            None.
    """
    done, last = 0, np.cumsum(lengths)
    ends = last + np.arange(len(lengths))
    rows = empty((int(ends[-1]) + 1, *steps.shape[1:]))

    def put_final(source: np.ndarray, which: np.ndarray, block: slice) -> None:
        first, stop = np.searchsorted(which, (block.start, block.stop))
        rows[ends[first:stop]] = source[which[first:stop] - block.start]

    if final is None:
        rows[ends] = 0.0
    for block in blocks(steps):
        read = steps[block]
        values = read[kept[block]]
        numbers = np.arange(done, done + len(values))
        rows[numbers + np.searchsorted(last, numbers, side="right")] = values
        done += len(values)
        if final is not None and final[0] is steps:
            put_final(read, final[1], block)
        release(rows)
    if final is not None and final[0] is not steps:
        for block in blocks(final[0]):
            put_final(final[0][block], final[1], block)
            release(rows)
    return rows


def same_length(columns: Mapping[str, Readable], where: str) -> None:
    """Raise `InputError` unless every column has one row per step, and there is a step."""
    steps = len(columns["observations"])
    for key, column in columns.items():
        if len(column) != steps:
            raise InputError(
                f"{key} has {len(column)} rows and observations {steps}",
                where=where,
                hint="every column needs one row per step",
            )
    if steps == 0:
        raise InputError("there is no step", where=where, hint="give at least one")


def require_labels(labels: Shaped[np.ndarray, " steps"], where: str) -> None:
    """Raise `InputError` where a label of an episode is missing, or an empty text.

    NaN and NaT differ from themselves, so each would begin an episode, and None would join rows.
    """
    rows: Iterable[int] = range(len(labels))
    if labels.dtype != object:  # of equal ones the first will do
        rows = np.flatnonzero(np.append(True, labels[1:] != labels[:-1])[: len(labels)]).tolist()
    for row in rows:
        label = labels[row]
        if is_missing(label) or (isinstance(label, str | bytes) and not label.strip()):
            what = f"episode is empty in row {row}"
            raise InputError(what, where=where, hint="fill or drop the row")


def _episode_ends(
    terminated: Bool[np.ndarray, " steps"],
    truncated: Bool[np.ndarray, " steps"],
    columns: Mapping[str, Any],
) -> Bool[np.ndarray, " steps"]:
    ends: np.ndarray = terminated | truncated
    ends[-1] = True
    if "episode" in columns:
        ends[:-1] |= columns["episode"][1:] != columns["episode"][:-1]
    if "goes_on" in columns:
        ends |= ~columns["goes_on"]
    return ends


def empty(shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    """An uninitialised float32 array that XLA's CPU device can use in place, without a copy.

    Within `xql.data.stored.on_disk` a large one lies in a file.
    """
    # XLA aliases host memory only where it is aligned to 64 bytes; numpy promises 16.
    size = int(np.prod(shape))
    if is_on_disk() and 4 * size > SMALL:
        return mapped(shape)
    buffer = np.empty(size * 4 + 64, np.uint8)
    offset = -buffer.ctypes.data % 64
    return buffer[offset : offset + size * 4].view(np.float32).reshape(shape)
