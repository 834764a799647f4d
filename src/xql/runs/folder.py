"""What one run leaves on disk, in formats that any tool reads.

config.yaml        the configuration, see `RunConfig`
metrics.jsonl      one line per log step: {"step": …, name: [one number per member], …}
evaluations.csv    one row per step, member and episode
frozen.csv         the members that diverged, where there are any: the step at which each one stands
checkpoints/       see `checkpoints.py`
policies/          likewise, the policies of every evaluation, where the run keeps them
tensorboard/       events, where tensorboardX is installed and they can be written
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jaxtyping import ArrayLike

from xql.errors import InputError, decoration, require
from xql.evaluation.rollout import EpisodeResult
from xql.evaluation.scores import Reference, normalised_score
from xql.runs.config import RunConfig

COLUMNS = ("step", "member", "seed", "episode", "return", "length", "score", "success")
"""The columns of evaluations.csv; xql 0.1 wrote a beta too, which config.yaml says as well. A file
that is kept in results/ may lack the score, which follows from the return and config.yaml."""


class Evaluation(NamedTuple):
    """One row of evaluations.csv: one episode of one member, at one training step."""

    step: int
    """Gradient updates done when the episode was played; online, environment steps."""
    member: int
    seed: int
    """The member's own (training) seed."""
    episode: int
    episode_return: float
    length: int
    score: float | None
    """100·(R − min)/(max − min); None where no reference is known."""
    success: bool | None
    """None where the environment reports none."""


class Metrics(NamedTuple):
    """One line of metrics.jsonl."""

    step: int
    values: dict[str, list[float]]
    """Per name, one number for each member."""


def free_folder(name: str) -> Path:
    """Make runs/NAME-N with the first N that is free; what a path cannot hold becomes a dash.

    Making it is what claims it: jobs that start at the same instant get a folder each. A dataset's
    file may say any name: none leads out of runs/, hides the folder or is too long.

    Raises:
        InputError: nothing can be written there.
    """
    stem = "-".join(re.sub(r"[^\w.+=@()-]", " ", name).split())[:100].lstrip(".-") or "run"
    for number in itertools.count(1):
        path = Path("runs") / f"{stem}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(path, str(error)) from None
        return path
    raise AssertionError("there is always a next number")


def evaluation_rows(
    step: int,
    results: Iterable[EpisodeResult],
    seeds: Sequence[int],
    reference: Reference | None = None,
) -> list[Evaluation]:
    """Turn a rollout's results into rows: each member's seed and normalised score added."""
    return [
        Evaluation(
            step=step,
            member=result.member,
            seed=seeds[result.member],
            episode=result.episode,
            episode_return=result.episode_return,
            length=result.length,
            score=None
            if reference is None
            else float(normalised_score(result.episode_return, reference)),
            success=result.success,
        )
        for result in results
    ]


class RunFolder:
    """One run's folder. Make it with `create`, come back to it with `open`."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self.config = path, config
        self._events: _Events | None = None
        self._events_missing = False

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunFolder":
        """Start a new run: make the folder and write its config.yaml.

        Of two processes that create a run at one path, one is refused.

        Raises:
            InputError: something already lies at `path` (an empty folder is fine), or nothing can
                be written there.
        """
        path = Path(path)
        cls.require_free(path)
        text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _write_new(path / "config.yaml", text)
            _write(path / "evaluations.csv", ",".join(COLUMNS) + "\n")
            _write(path / "metrics.jsonl", "")
        except FileExistsError:
            raise _taken(path) from None
        except OSError as error:
            raise _unwritable(path, str(error)) from None
        return cls(path, config)

    @staticmethod
    def require_free(path: Path) -> None:
        """Check that a run may be written to `path`: nothing is there, or an empty folder.

        Raises:
            InputError: something lies there, or nothing can be written there.
        """
        try:
            free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
            above = next(one for one in (path, *path.absolute().parents) if one.exists())
        except OSError as error:
            raise _unwritable(path, str(error)) from None
        if not free:
            raise _taken(path)
        if not above.is_dir():
            raise _unwritable(path, f"{above} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise _unwritable(path, f"{above} is not writable")

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Come back to a run.

        Raises:
            InputError: no folder there, a file of it is missing or unreadable, or its config.yaml
                lacks what every run has.
        """
        path = Path(path)
        if path.is_file():
            raise InputError(
                "this is a file", where=str(path), hint=f"name a run folder; is it {path.parent}?"
            )
        if not path.is_dir():
            raise InputError("there is no such run folder", where=str(path), hint="check the path")
        config = RunConfig.load(path)
        for name in ("metrics.jsonl", "evaluations.csv"):
            if not _stored(path / name).is_file():
                raise InputError(
                    f"{name} is missing", where=str(path), hint="this is no complete run folder"
                )
        return cls(path, config)

    @property
    def checkpoints(self) -> Path:
        """Where `checkpoints.py` keeps this run's checkpoints."""
        return self.path / "checkpoints"

    @property
    def policies(self) -> Path:
        """Where the policies of every evaluation lie, where the run keeps them."""
        return self.path / "policies"

    def log_metrics(self, step: int, metrics: Mapping[str, ArrayLike | Sequence[float]]) -> None:
        """Append one line to metrics.jsonl.

        Args:
            step: gradient updates done.
            metrics: per name one number for each member (a lone number is a population of one).
                JSON knows no nan and no infinity: they become null, and the key "nonfinite" says
                which they were.
        """
        line: dict[str, Any] = {"step": int(step)}
        nonfinite: dict[str, dict[str, str]] = {}
        for name, value in metrics.items():
            if name in ("step", "nonfinite"):
                raise InputError(f"a metric cannot be called '{name}'", hint="choose another name")
            numbers = [float(number) for number in np.atleast_1d(np.asarray(value)).ravel()]
            line[name] = [number if math.isfinite(number) else None for number in numbers]
            wrong = {str(i): str(n) for i, n in enumerate(numbers) if not math.isfinite(n)}
            if wrong:
                nonfinite[name] = wrong
        if nonfinite:
            line["nonfinite"] = nonfinite
        _append(self.path / "metrics.jsonl", json.dumps(line, allow_nan=False) + "\n")

    def read_metrics(self) -> list[Metrics]:
        """Every logged line, in order; a last line cut short by an interruption is left out."""
        path = _stored(self.path / "metrics.jsonl")
        metrics = []
        for number, text in enumerate(_complete_lines(path), start=1):
            try:
                line = json.loads(text)
                step, nonfinite = line.pop("step"), line.pop("nonfinite", {})
                for name, wrong in nonfinite.items():
                    for member, value in wrong.items():
                        line[name][int(member)] = float(value)
            except (ValueError, KeyError, AttributeError, TypeError):
                raise InputError(
                    f"line {number} is damaged", where=str(path), hint="remove that line"
                ) from None
            metrics.append(Metrics(step, line))
        return metrics

    def log_evaluations(self, step: int, rows: Iterable[Evaluation]) -> None:
        """Append rows to evaluations.csv; `step` replaces what the rows say."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in rows:
            writer.writerow(_cell(value) for value in row._replace(step=int(step)))
        _append(self.path / "evaluations.csv", text.getvalue())

    def read_evaluations(self) -> list[Evaluation]:
        """Every row of evaluations.csv, in order; a last row cut short is left out."""
        path = _stored(self.path / "evaluations.csv")
        lines = _complete_lines(path)
        header = lines[0].split(",") if lines else []
        derived = "score" not in header
        if not set(COLUMNS) - {"score"} <= set(header):
            raise InputError(
                "the first line is not the header",
                where=str(path),
                hint=f"it must be: {','.join(COLUMNS)}",
            )
        places = [header.index(name) if name in header else None for name in COLUMNS]
        rows = []
        for number, cells in enumerate(csv.reader(lines[1:]), start=2):
            try:
                if len(cells) != len(header):
                    raise ValueError
                row = _row(["" if place is None else cells[place] for place in places])
                rows.append(row._replace(score=self.score_of(row)) if derived else row)
            except ValueError:
                raise InputError(
                    f"line {number} is damaged", where=str(path), hint="remove that line"
                ) from None
        return rows

    def score_of(self, row: Evaluation) -> float | None:
        """The normalised score of an episode; None where the run has no reference."""
        reference = self.config.data.reference
        return None if reference is None else float(normalised_score(row.episode_return, reference))

    def log_frozen(self, member: int, step: int, noticed: int) -> None:
        """Write to frozen.csv that a member diverged and stands as it was at `step`."""
        path = self.path / "frozen.csv"
        if not path.exists():
            _write(path, "member,step,noticed\n")
        _append(path, f"{member},{step},{noticed}\n")

    def read_frozen(self) -> dict[int, int]:
        """The members that diverged, and the step at which each is frozen; mostly none."""
        path = self.path / "frozen.csv"
        lines = _complete_lines(path)[1:] if path.exists() else []
        return {int(cells[0]): int(cells[1]) for cells in csv.reader(lines)}

    def tensorboard(self, step: int, scalars: Mapping[str, float]) -> str | None:
        """Write TensorBoard events, where tensorboardX is installed and they can be written.

        Returns:
            None; or, once, the sentence that says why there are no events, or no more of them.
        """
        if self._events_missing:
            return None
        said: list[str] = []
        with decoration("TensorBoard events", said.append):
            if self._events is None:
                self._events = _Events(self.path / "tensorboard")
            self._events.write(int(step), scalars)
            return None
        self._events_missing = True
        self.close()
        return said[0]

    def close(self) -> None:
        """Close the TensorBoard writer, if one is open. The other files are never held open."""
        if self._events is not None:
            with contextlib.suppress(Exception):
                self._events.close()
            self._events = None


class _Events:
    """A file of TensorBoard events, written at once.

    tensorboardX's `SummaryWriter` writes in a thread of its own: where that one fails, as on a full
    disk, the next call waits for it for ever.
    """

    def __init__(self, folder: Path) -> None:
        require("tensorboardX", "report")
        self._summary = require("tensorboardX.summary", "report").scalar
        self._event = require("tensorboardX.proto.event_pb2", "report").Event
        writer = require("tensorboardX.event_file_writer", "report").EventsWriter
        folder.mkdir(exist_ok=True)
        self._writer = writer(str(folder / "events"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            summary = self._summary(name, float(value))
            self._writer.write_event(self._event(summary=summary, step=step, wall_time=time.time()))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _unwritable(path: Path, reason: str) -> InputError:
    return InputError(
        f"no run can be written here ({reason})", where=str(path), hint="choose another `out`"
    )


def _taken(path: Path) -> InputError:
    return InputError(
        "there is already something here",
        where=str(path),
        hint="choose another `out`; nothing is written over",
    )


def _write_new(path: Path, text: str) -> None:
    """Write a whole file that must not exist yet.

    Raises:
        FileExistsError: it exists; another process may have been faster.
    """
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as draft:
        draft.write(text)
    try:
        # A link fails where the name is taken, which a rename does not.
        os.link(draft.name, path)
        path.chmod(0o644)  # temporary files are made for their owner alone
    finally:
        Path(draft.name).unlink()


def _write(path: Path, text: str) -> None:
    """Write a whole file at once: an interruption leaves the old one."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _append(path: Path, text: str) -> None:
    """Add whole lines; drop a last line that an interruption cut short, so that all stay whole."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.truncate(path.read_bytes().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        file.write(text.encode())


def _stored(path: Path) -> Path:
    """The file, or where only that is there, its compressed copy, which results/ keeps."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if compressed.is_file() and not path.is_file() else path


def _complete_lines(path: Path) -> list[str]:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return file.read().split("\n")[:-1]
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool | np.bool_) else str(value)


def _row(cells: list[str]) -> Evaluation:
    step, member, seed, episode, returned, length, score, success = cells
    return Evaluation(
        step=int(step),
        member=int(member),
        seed=int(seed),
        episode=int(episode),
        episode_return=float(returned),
        length=int(length),
        score=float(score) if score else None,
        success=bool(int(success)) if success else None,
    )
