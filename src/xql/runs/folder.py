"""What one run leaves on disk, in formats that any tool reads.

config.yaml        the configuration, see `RunConfig`
origin.json        how it was made, see `origin.py`
metrics.jsonl      one line per log step: {"step": …, name: [one number per member], …}
evaluations.csv    one row per step, member and episode
divergence.jsonl   one line per divergence of a member, where there are any: see `Divergence`
frozen.csv         the members that are frozen, where there are any: the step at which each stands
checkpoints/       see `checkpoints.py`
policies/          likewise, the policies of every evaluation, where the run keeps them
tensorboard/       events, where tensorboardX is installed and they can be written
loggers.json       the loggers that were asked for, see `xql.training.loggers`
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
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import yaml
from jaxtyping import ArrayLike

from xql.data.reading import require_file
from xql.errors import InputError
from xql.evaluation.rollout import EpisodeResult
from xql.evaluation.scores import Reference, normalised_score
from xql.files import made_folder, require_writable, unwritable, write_text, writing
from xql.runs import origin
from xql.runs.config import RunConfig

COLUMNS = ("step", "member", "seed", "episode", "return", "length", "score", "success")
"""The columns of evaluations.csv; xql 0.1 wrote a beta too, which config.yaml says as well. A file
that is kept in results/ may lack the score, which follows from the return and config.yaml."""

HEADERS = {
    "metrics.jsonl": "",
    "evaluations.csv": ",".join(COLUMNS) + "\n",
    "frozen.csv": "member,step,noticed\n",
    "divergence.jsonl": "",
}
"""The files to which a run adds rows, and the first line of each."""


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


Action = Literal["rolled back", "frozen"]

SMALLER = 10
"""What the learning rates of a member that is rolled back are divided by."""


class Divergence(NamedTuple):
    """One line of divergence.jsonl: a member with numbers that were not finite, and what was done.

    The line holds what was found out about the cause too; see `xql.training.diagnosis`.
    """

    member: int
    step: int
    """The run's, of the state that the member was put back to."""
    noticed: int
    """The run's step at which it was found to have diverged."""
    action: Action
    """The first time it is rolled back: it goes on with `SMALLER` steps; then it is frozen."""
    lost: int
    """The member's updates that were thrown away."""


def free_folder(name: str) -> Path:
    """Make runs/NAME-N with the first N that is free; what a path cannot hold becomes a dash.

    Making it is what claims it: jobs that start at the same instant get a folder each. A dataset's
    file may say any name: none leads out of runs/, hides the folder or is too long.

    Raises:
        InputError: nothing can be written there.
    """
    stem = "-".join(re.sub(r"[^\w.+=@()-]", " ", name).split())[:100].lstrip(".-") or "run"
    home = Path("runs")
    with writing(home, "run"):
        home.mkdir(exist_ok=True)
        for number in itertools.count(1):
            path = home / f"{stem}-{number}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    raise AssertionError("there is always a next number")


def run_folders(runs: str | Path | Sequence[str | Path]) -> list[Path]:
    """The run folders that are meant, none of them twice.

    Args:
        runs: a run folder, or several; a folder of run folders is all of them, one of a sweep those
            that its summary.csv lists as done. A warning says how many others it has.

    Raises:
        InputError: there is none, or one is named twice.
    """
    found: list[Path] = []
    for path in map(Path, [runs] if isinstance(runs, str | Path) else runs):
        inside = _runs_inside(path)
        if (path / "sweep.yaml").exists():
            inside = _asked_for(path, inside)
            if not inside:
                hint = "the same xql sweep goes on with it"
                raise InputError("none of its runs is finished", where=str(path), hint=hint)
        found += [path] if (path / "config.yaml").exists() or not inside else inside
    if not found:
        raise InputError("there is no run", hint="name one run folder or more")
    absolute = [path.resolve() for path in found]
    for path, place in zip(found, absolute, strict=True):
        if absolute.count(place) > 1:
            raise InputError("this run is named twice", where=str(path), hint="name it once")
    return found


def _runs_inside(folder: Path) -> list[Path]:
    # A sweep, or a table of the paper, has its runs in a folder of their own.
    return [
        config.parent
        for pattern in ("*/config.yaml", "cells/*/config.yaml")
        for config in sorted(folder.glob(pattern))
        if not config.parent.name.startswith(".")  # half-written
    ]


def _asked_for(sweep: Path, runs: list[Path]) -> list[Path]:
    """The runs of a sweep that it asks for since its file was last changed.

    Raises:
        InputError: its summary.csv is damaged.
    """
    file = sweep / "summary.csv"
    if not file.exists():
        return runs
    try:
        rows = csv.DictReader(_lines_of(file)[0])
        done = {row["cell"] for row in rows if row["state"] == "done"}
    except (csv.Error, KeyError):
        hint = "the same xql sweep writes it again"
        raise InputError("this is no summary of a sweep", where=str(file), hint=hint) from None
    found = [run for run in runs if run.name in done]
    if found and len(found) < len(runs):
        left = f"{len(runs) - len(found)} of {len(runs)} cells are left out"
        _warn(sweep, f"{left}, which summary.csv does not list as done")
    return found


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
    """One run's folder. Make it with `create`, come back to it with `open`.

    Attributes:
        path: the folder.
        config: the run's configuration.
        waiting: the rows of each file that could not be written yet.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self.config = path, config
        self.waiting: dict[str, str] = {}

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunFolder":
        """Start a new run: make the folder and write its config.yaml.

        Of two processes that create a run at one path, one is refused.

        Raises:
            InputError: something already lies at `path` (an empty folder is fine), or nothing can
                be written there.
        """
        path = Path(path).expanduser()
        cls.require_free(path)
        with made_folder(path, "run"):
            try:
                # This file claims the folder.
                write_text(path / "config.yaml", _as_yaml(config), "run", replace=False)
            except InputError:
                if (path / "config.yaml").exists():
                    raise _taken(path) from None
                raise
            try:
                for name in ("metrics.jsonl", "evaluations.csv"):
                    write_text(path / name, HEADERS[name], "run")
                origin.append(path)
            except BaseException:
                for name in ("config.yaml", "metrics.jsonl", "evaluations.csv", origin.FILE):
                    (path / name).unlink(missing_ok=True)
                raise
        return cls(path, config)

    @classmethod
    def start(cls, out: Path | str | None, name: str, config: RunConfig) -> "RunFolder":
        """`create` a run at `out`, or where that is None, at the next free runs/NAME-N.

        Raises:
            InputError: as `create` says.
        """
        if out is not None:
            return cls.create(Path(out), config)
        path = free_folder(name)
        try:
            return cls.create(path, config)
        except BaseException:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise

    @staticmethod
    def require_free(path: Path) -> None:
        """Check that a run may be written to `path`: nothing is there, or an empty folder.

        Raises:
            InputError: something lies there, or nothing can be written there.
        """
        path = Path(path).expanduser()
        with writing(path, "run"):
            free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if not free:
            raise _taken(path)
        require_writable(path, "run")

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Come back to a run.

        Raises:
            InputError: no folder there, a file of it is missing or unreadable, or its config.yaml
                lacks what every run has.
        """
        path = Path(path).expanduser()
        if path.is_file():
            raise InputError(
                "this is a file", where=str(path), hint=f"name a run folder; is it {path.parent}?"
            )
        if not path.is_dir():
            raise InputError("there is no such run folder", where=str(path), hint="check the path")
        if not (path / "config.yaml").exists() and (inside := _runs_inside(path)):
            raise InputError(
                "this is no run, but a folder of runs",
                where=str(path),
                hint=f"name one of them, such as {inside[0]}",
            )
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

    @property
    def replay(self) -> Path:
        """Where the replay buffers of an online run's end lie, where the run keeps them."""
        return self.path / "replay.npz"

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
        self._add("metrics.jsonl", json.dumps(line, allow_nan=False) + "\n")

    def read_metrics(self) -> list[Metrics]:
        """Every logged line, in order; a last one that is cut short is left out with a warning.

        Raises:
            InputError: a line is damaged, or has numbers of more or fewer members.
        """
        path = _stored(self.path / "metrics.jsonl")
        lines, cut = _lines_of(path)
        metrics = []
        for number, text in enumerate(lines, start=1):
            try:
                line = json.loads(text)
                step, nonfinite = line.pop("step"), line.pop("nonfinite", {})
                for name, wrong in nonfinite.items():
                    for member, value in wrong.items():
                        line[name][int(member)] = float(value)
                if type(step) is not int or not all(map(_are_numbers, line.values())):
                    raise ValueError
            except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
                raise _damaged_line(path, number) from None
            counts = {len(values) for values in line.values()} - {1}
            if counts - {len(self.config.members)}:
                found = f"line {number} has numbers of {max(counts)} members"
                raise self._mixed(path, f"{found}, config.yaml {len(self.config.members)}")
            metrics.append(Metrics(step, line))
        if cut:
            _warn(path, "its last line is cut short and left out")
        return metrics

    def log_evaluations(self, step: int, rows: Iterable[Evaluation]) -> None:
        """Append rows to evaluations.csv; `step` replaces what the rows say."""
        self._add("evaluations.csv", _as_csv(row._replace(step=int(step)) for row in rows))

    def read_evaluations(self, *, whole: bool = False) -> list[Evaluation]:
        """Every row of evaluations.csv, in order; a last one cut short is left out with a warning.

        Args:
            whole: warn also of a last evaluation that has fewer episodes than the run was to play.

        Raises:
            InputError: a row is damaged, or of a member or a seed that config.yaml does not have.
        """
        path = _stored(self.path / "evaluations.csv")
        lines, cut = _lines_of(path)
        header = lines[0].split(",") if lines else []
        derived = "score" not in header
        if not set(COLUMNS) - {"score"} <= set(header):
            raise InputError(
                "the first line is not the header",
                where=str(path),
                hint=f"it must be: {','.join(COLUMNS)}",
            )
        places = [header.index(name) if name in header else None for name in COLUMNS]
        members, rows = self.config.members, []
        for number, text in enumerate(lines[1:], start=2):
            try:
                (cells,) = csv.reader([text])
                if len(cells) != len(header):
                    raise ValueError
                row = _row(["" if place is None else cells[place] for place in places])
            except (ValueError, KeyError, csv.Error):
                raise _damaged_line(path, number) from None
            if not 0 <= row.member < len(members):
                found = f"line {number} is of member {row.member}"
                raise self._mixed(path, f"{found}, config.yaml has {len(members)}")
            if row.seed != members[row.member].seed:
                found = f"line {number} is of seed {row.seed}"
                raise self._mixed(path, f"{found}, config.yaml of seed {members[row.member].seed}")
            rows.append(row._replace(score=self.score_of(row)) if derived else row)
        played = Counter((row.step, row.member, row.episode) for row in rows)
        twice = next((one for one, count in played.items() if count > 1), None)
        if twice is not None:
            found = "episode {2} of member {1} at step {0} is there twice".format(*twice)
            raise self._mixed(path, found)
        if cut or whole:
            self._warn_of_missing_episodes(path, rows, cut)
        return rows

    def _mixed(self, path: Path, found: str) -> InputError:
        hint = "files of two runs lie in this folder: make the run again"
        return InputError(found, where=str(path), hint=hint)

    def _warn_of_missing_episodes(self, path: Path, rows: list[Evaluation], cut: bool) -> None:
        """Say which episodes of the last evaluation are missing, and of a row cut short."""
        why = "its last row is cut short and left out" if cut else ""
        if rows:
            plan, last = self.config.evaluation, max(row.step for row in rows)
            each = plan.episodes_at(last, self.config.steps)
            there, asked = sum(row.step == last for row in rows), each * len(self.config.members)
            if there < asked:
                count = f"{there} of {asked} episodes of step {last}"
                why = f"{why}: {count} are there" if cut else f"it has {count}"
        if why:
            _warn(path, why)

    def score_of(self, row: Evaluation) -> float | None:
        """The normalised score of an episode; None where the run has no reference."""
        reference = self.config.data.reference
        return None if reference is None else float(normalised_score(row.episode_return, reference))

    def log_frozen(self, member: int, step: int, noticed: int) -> None:
        """Write to frozen.csv that a member diverged and stands as it was at `step`."""
        self._add("frozen.csv", f"{member},{step},{noticed}\n")

    def read_frozen(self) -> dict[int, int]:
        """The members that diverged, and the step at which each is frozen; mostly none.

        Raises:
            InputError: a row is damaged, or of a member that config.yaml does not have.
        """
        path = self.path / "frozen.csv"
        if not path.exists():
            return {}
        frozen = {}
        for number, text in enumerate(_lines_of(path)[0][1:], start=2):
            try:
                member, step, _ = map(int, text.split(","))
            except ValueError:
                raise _damaged_line(path, number) from None
            if not 0 <= member < len(self.config.members):
                found = f"line {number} is of member {member}"
                raise self._mixed(path, f"{found}, config.yaml has {len(self.config.members)}")
            frozen[member] = step
        return frozen

    def log_divergence(self, divergence: Divergence, cause: Mapping[str, Any]) -> None:
        """Append a line to divergence.jsonl, and where the member is frozen a row to frozen.csv.

        Args:
            divergence: what was done.
            cause: what is known of the cause, as plain values and finite numbers.
        """
        line = json.dumps({**divergence._asdict(), **cause}, allow_nan=False)
        self._add("divergence.jsonl", line + "\n")
        if divergence.action == "frozen":
            self.log_frozen(divergence.member, divergence.step, divergence.noticed)

    def read_divergences(self) -> list[Divergence]:
        """What diverged, in order; mostly nothing. xql up to 0.2 did not write it.

        Raises:
            InputError: a line is damaged, or of a member that config.yaml does not have.
        """
        path = self.path / "divergence.jsonl"
        if not path.exists():
            return []
        found = []
        for number, text in enumerate(_lines_of(path)[0], start=1):
            try:
                line = json.loads(text)
                one = Divergence(*(line[name] for name in Divergence._fields))
                counts = (one.member, one.step, one.noticed, one.lost)
                if not all(type(count) is int for count in counts):
                    raise ValueError
                if one.action not in get_args(Action):
                    raise ValueError
            except (ValueError, LookupError, TypeError, RecursionError):
                raise _damaged_line(path, number) from None
            if not 0 <= one.member < len(self.config.members):
                wrong = f"line {number} is of member {one.member}"
                raise self._mixed(path, f"{wrong}, config.yaml has {len(self.config.members)}")
            found.append(one)
        return found

    def read_rolled_back(self) -> dict[int, Divergence]:
        """The members that went on after a divergence, also where they are frozen by now."""
        return {one.member: one for one in self.read_divergences() if one.action == "rolled back"}

    def _add(self, name: str, rows: str) -> None:
        """Append rows to a file of `HEADERS`, and before them those that it could not take before.

        Raises:
            InputError: the file cannot be written to; it stays as it is, and the rows wait.
        """
        rows = self.waiting.pop(name, "") + rows
        try:
            _append(self.path / name, rows, HEADERS[name])
        except OSError as error:
            self.waiting[name] = rows
            raise unwritable(self.path / name, error, "row") from error

    def wait_with(self, rows: Mapping[str, str]) -> None:
        """Take up the `waiting` rows of a run that goes on, but for those that are written by now.

        Raises:
            InputError: a file cannot be read.
        """
        for name in HEADERS.keys() & rows.keys():
            path = self.path / name
            there = set(_lines_of(path)[0]) if path.exists() else set()
            missing = [row for row in rows[name].splitlines() if row not in there]
            if missing:
                self.waiting[name] = "".join(f"{row}\n" for row in missing)

    def flush(self) -> None:
        """Write the rows that wait.

        Raises:
            InputError: they cannot be written.
        """
        for name in list(self.waiting):
            self._add(name, "")

    def sync(self) -> None:
        """Let the rows that are written reach the disk."""
        for name in HEADERS:
            with contextlib.suppress(OSError), (self.path / name).open("rb") as file:
                os.fsync(file.fileno())

    def rewind(self, step: int, *, evaluated: int) -> None:
        """Forget the rows of what came after a step, which will come again, and the replay buffers.

        Args:
            step: the run's.
            evaluated: the last step whose evaluation stays.

        Raises:
            InputError: a row is damaged, or a file cannot be written.
        """
        self._with_these_columns()
        keeps: dict[str, Callable[[str], bool]] = {
            "metrics.jsonl": lambda row: int(json.loads(row)["step"]) <= step,
            "evaluations.csv": lambda row: int(row.split(",")[0]) <= evaluated,
            "frozen.csv": lambda row: int(row.split(",")[2]) <= step,
            "divergence.jsonl": lambda row: int(json.loads(row)["noticed"]) <= step,
        }
        for name, keep in keeps.items():
            path = self.path / name
            if not path.exists():
                continue
            lines, cut = _lines_of(path)
            head = HEADERS[name].count("\n")
            kept = lines[:head]
            for number, row in enumerate(lines[head:], start=head + 1):
                try:
                    if keep(row):
                        kept.append(row)
                except (ValueError, LookupError, TypeError, RecursionError):
                    raise _damaged_line(path, number) from None
            if cut or len(kept) < len(lines):
                write_text(path, "".join(f"{row}\n" for row in kept), "run")
        with writing(self.replay, "run"):
            self.replay.unlink(missing_ok=True)

    def _with_these_columns(self) -> None:
        """Write evaluations.csv of an older version with the columns that rows are added with.

        Raises:
            InputError: a row is damaged, or it cannot be written.
        """
        path = self.path / "evaluations.csv"
        if path.exists() and _lines_of(path)[0][:1] != [HEADERS[path.name].rstrip()]:
            write_text(path, HEADERS[path.name] + _as_csv(self.read_evaluations()), "run")

    def configure(self, config: RunConfig) -> None:
        """Give the run another configuration.

        Raises:
            InputError: it cannot be written.
        """
        write_text(self.path / "config.yaml", _as_yaml(config), "run")
        self.config = config


def _as_yaml(config: RunConfig) -> str:
    text: str = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    return text


def _taken(path: Path) -> InputError:
    return InputError(
        "there is already something here",
        where=str(path),
        hint="choose another `out`; nothing is written over",
    )


def _append(path: Path, text: str, header: str) -> None:
    """Add whole lines; drop a last line that an interruption cut short, so that all stay whole.

    Raises:
        OSError: they cannot all be written; none of them is, then.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                end = path.read_bytes().rfind(b"\n") + 1
                file.truncate(end)
        file.seek(end)
        rest = memoryview((("" if end else header) + text).encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise


def _stored(path: Path) -> Path:
    """The file, or where only that is there, its compressed copy, which results/ keeps."""
    compressed = path.with_name(f"{path.name}.gz")
    return compressed if compressed.is_file() and not path.is_file() else path


def _lines_of(path: Path) -> tuple[list[str], bool]:
    """The whole lines of a file, and whether it ends in one that is cut short.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        content = require_file(path, "restore it").read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"this file cannot be read ({error})", where=str(path), hint="restore it"
        ) from None
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _damaged_line(path, content.count(b"\n", 0, error.start) + 1) from None
    *lines, rest = text.replace("\r\n", "\n").split("\n")
    return lines, bool(rest)


def _damaged_line(path: Path, number: int) -> InputError:
    return InputError(f"line {number} is damaged", where=str(path), hint="remove that line")


def _warn(path: Path, what: str) -> None:
    warnings.warn(f"{path}: {what}", UserWarning, stacklevel=4)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        for value in values
    )


def _as_csv(rows: Iterable[Evaluation]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(map(_cell, row))
    return text.getvalue()


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
        success={"": None, "0": False, "1": True}[success],
    )
