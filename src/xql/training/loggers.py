"""Where a run's numbers go besides its folder: TensorBoard, Weights & Biases, MLflow, or your own.

All of them are a `Logger`. None can stop a run: the first fault of one is one line, and it is off.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from xql.errors import InputError, MissingExtra, brief, decoration, nearest, reason, require
from xql.files import write_text
from xql.runs.folder import RunFolder
from xql.training.progress import ProgressBar

FILE = "loggers.json"
"""In the run's folder, the loggers that were asked for and what each calls the run."""


@runtime_checkable
class Logger(Protocol):
    """Something that a run's numbers are given to."""

    def start(self, run: Path, config: Mapping[str, Any], known: str | None) -> str | None:
        """Begin, before the first update.

        Args:
            run: the run's folder.
            config: its config.yaml.
            known: what `start` returned when the run began, where the run goes on; else None.

        Returns:
            The name under which a run that goes on finds this log again; None where it has none.
        """
        ...

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Take finite numbers of a step, such as {"value_loss/0": 1.5}: name/member."""
        ...

    def finish(self, complete: bool) -> None:
        """End; `complete` unless the run was interrupted or failed."""
        ...


class TensorBoard:
    """Events in the folder tensorboard/ of the run, written at once.

    tensorboardX's `SummaryWriter` writes in a thread of its own: where that one fails, as on a full
    disk, the next call waits for it for ever.
    """

    def start(self, run: Path, config: Mapping[str, Any], known: str | None) -> None:
        require("tensorboardX", "report")
        self._summary = require("tensorboardX.summary", "report").scalar
        self._event = require("tensorboardX.proto.event_pb2", "report").Event
        writer = require("tensorboardX.event_file_writer", "report").EventsWriter
        (run / "tensorboard").mkdir(exist_ok=True)
        self._writer = writer(str(run / "tensorboard" / "events"))

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            summary = self._summary(name, float(value))
            self._writer.write_event(self._event(summary=summary, step=step, wall_time=time.time()))
        self._writer.flush()

    def finish(self, complete: bool) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, in the project that WANDB_PROJECT names, else "xql"."""

    def start(self, run: Path, config: Mapping[str, Any], known: str | None) -> str:
        wandb = require("wandb", "wandb")
        # Its own default holds training up for longer where no server answers.
        patience = float(os.environ.get("WANDB_INIT_TIMEOUT", "30"))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "xql"),
            name=run.name,
            id=known,
            resume=None if known is None else "allow",
            dir=str(run),
            config=dict(config),
            reinit="create_new",  # a run of the user's own goes on beside it
            # Its capture of the terminal and the display would draw over each other.
            settings=wandb.Settings(console="off", silent=True, init_timeout=patience),
        )
        # Its own counter never goes back, as a run does that goes on from a checkpoint.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"step": step, **scalars})

    def finish(self, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)


class MLflow:
    """A run of MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names, else "xql"."""

    AT_ONCE = 1000
    """The most metrics that its servers take in one request."""

    def start(self, run: Path, config: Mapping[str, Any], known: str | None) -> str:
        # Its own defaults hold training up for minutes where a server does not answer.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        mlflow = require("mlflow", "mlflow")
        self._entities = require("mlflow.entities", "mlflow")
        self._client = mlflow.MlflowClient()
        if known is not None:
            with contextlib.suppress(Exception):  # it was deleted: another is made
                self._client.update_run(known, status="RUNNING")
                self._id = known
                return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "xql")
        experiment = self._client.get_experiment_by_name(name)
        number = (
            self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        )
        self._id = str(self._client.create_run(number, run_name=run.name).info.run_id)
        params = [self._entities.Param(key, value) for key, value in _flat(config)]
        for first in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[first : first + 100])
        return self._id

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        metrics = [
            self._entities.Metric(name, float(value), now, step) for name, value in scalars.items()
        ]
        for first in range(0, len(metrics), self.AT_ONCE):
            self._client.log_batch(self._id, metrics=metrics[first : first + self.AT_ONCE])

    def finish(self, complete: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if complete else "KILLED")


LOGGERS: dict[str, type[TensorBoard] | type[WandB] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
DEFAULT = ("tensorboard",)

_LOGS: dict[str, str] = {
    "tensorboard": "TensorBoard events",
    "wandb": "Weights & Biases log",
    "mlflow": "MLflow log",
}

Chosen = Sequence[str | Logger] | None
"""Loggers by name, or objects; None for those of a run that goes on, else `DEFAULT`."""


def check_loggers(chosen: Any) -> None:
    """Refuse what is no logger.

    Raises:
        InputError: an unknown name, one that is given twice, or an object without the methods.
    """
    if chosen is None:
        return
    if isinstance(chosen, str) or not isinstance(chosen, Sequence):
        raise InputError(f"`loggers={brief(chosen)}` is no list", hint="write it as ['wandb']")
    for one in chosen:
        if isinstance(one, str):
            if one not in LOGGERS:
                raise InputError(f"there is no logger '{one}'", hint=nearest(one, LOGGERS))
            if list(chosen).count(one) > 1:
                raise InputError(f"the logger {one} is named twice", hint="name it once")
        elif not isinstance(one, Logger):
            raise InputError(
                f"{brief(one)} is no logger", hint="it needs the methods start, log and finish"
            )


class Loggers:
    """The loggers of one run. The first fault of one is one line, and it is off."""

    def __init__(self, chosen: Chosen, folder: RunFolder, progress: ProgressBar) -> None:
        self._folder, self._progress = folder, progress
        known = _read(folder.path) if (folder.path / FILE).exists() else {}
        if chosen is None:
            chosen = [name for name in known if name in LOGGERS] if known else DEFAULT
            self._keeps = bool(known)
        else:
            self._keeps = True
        self._known = known
        self._on: dict[str, Logger] = {}
        for one in chosen:
            if isinstance(one, str):
                self._on[one] = LOGGERS[one]()
            else:
                name = type(one).__name__
                alike = sum(other.split(" ")[0] == name for other in self._on)
                self._on[f"{name} {alike + 1}" if alike else name] = one

    def __enter__(self) -> "Loggers":
        folder, ids = self._folder, {}
        config = folder.config.to_dict()
        for name, logger in list(self._on.items()):
            ids[name] = self._known.get(name)
            with self._or_off(name):
                ids[name] = logger.start(folder.path, config, ids[name])
        if self._keeps:
            with decoration(FILE, self._progress.warn_once):
                write_text(folder.path / FILE, json.dumps(ids, indent=2) + "\n", "run")
        return self

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Give finite numbers to all that are on."""
        for name, logger in list(self._on.items()):
            with self._or_off(name):
                logger.log(step, scalars)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, logger in list(self._on.items()):
            with self._or_off(name):
                logger.finish(kind is None)

    @contextlib.contextmanager
    def _or_off(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            logger = self._on.pop(name)
            what = f"no {_LOGS.get(name, f'log by {name}')}: {reason(error)}"
            if not self._keeps and isinstance(error, MissingExtra):
                self._progress.say(what)  # nobody asked for it
            else:
                self._progress.warn_once(what)
            with contextlib.suppress(Exception):  # it may hold a file open
                logger.finish(False)


def _read(run: Path) -> dict[str, str | None]:
    """What `FILE` says; nothing where it is damaged."""
    try:
        found = json.loads((run / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: one if isinstance(one, str) else None for name, one in found.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as MLflow takes them: names with dots, and texts that are not too long."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"[:250], str(value)[:500]
