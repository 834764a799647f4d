"""How a sweep goes: a table on a terminal, plain lines elsewhere, events for programs."""

import contextlib
import json
import sys
import threading
from collections import Counter
from types import TracebackType

import numpy as np
from rich.live import Live
from rich.table import Table

from xql.errors import InputError, printable
from xql.evaluation.statistics import format_number
from xql.experiments.sweep import Entry, Plan
from xql.experiments.sweep_worker import started_file
from xql.output import output, spelled
from xql.runs.folder import RunFolder
from xql.runs.summary import UNITS, quantity_of, value_of
from xql.training.progress import StandardError

PLAIN_EVERY = 60.0
"""Seconds between two lines on how far it is, where there is no table."""
REFRESH = 1.0
"""Seconds from one look into the folders of the cells to the next."""
TAIL = 1 << 16
"""Bytes of a log's end that hold its last line."""


class Board:
    """Shows a plan while it is carried out.

    Workers tell the driver nothing: what is shown of a cell is read from its run folder.
    """

    def __init__(self, plan: Plan, session: str) -> None:
        self._plan, self._session = plan, session
        self._output = output()
        self._console = StandardError(
            file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=False
        )
        terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live: Live | None = None
        if terminal and not self._output.quiet and self._output.stream is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._table,
                refresh_per_second=1 / REFRESH,
                transient=True,
                redirect_stdout=False,
            )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._now_and_then, daemon=True)

    def __enter__(self) -> "Board":
        if self._live is not None:
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()
        else:
            self._thread.join()

    def say(self, entry: Entry) -> None:
        """A cell was given to a worker, or came back."""
        score = self._score(entry)
        self._output.emit(
            "cell",
            cell=entry.label,
            state=entry.state,
            score=score or None,
            run=None if entry.folder is None else str(entry.folder),
            problem=entry.problem or None,
        )
        if entry.state == "training" or self._output.quiet or self._output.stream is not None:
            return
        came_to = entry.problem or score
        text = f"{entry.label}: {entry.state}{f', {came_to}' if came_to else ''}"
        self._print(f"{text} ({self._ended} of {self._plan.total})")

    @property
    def _ended(self) -> int:
        return sum(one.state not in ("waiting", "training") for one in self._plan.entries)

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # of a terminal that has gone
            if self._live is not None:
                self._live.console.print(spelled(printable(text), self._console.encoding))
            else:
                print(printable(text), file=sys.stderr, flush=True)

    def _now_and_then(self) -> None:
        while not self._over.wait(PLAIN_EVERY):
            if not self._output.quiet and self._output.stream is None:
                self._print(self._counts())

    def _counts(self) -> str:
        """Such as "3 done, 2 training, 1 waiting"."""
        found = Counter(one.state for one in self._plan.entries)
        found["waiting"] += self._plan.total - len(self._plan.entries)
        return ", ".join(f"{count} {state}" for state, count in found.items() if count)

    def _table(self) -> Table:
        """The cells that train, those that failed, and as many of the others as there is room."""
        table = Table(box=None, pad_edge=False, caption=self._counts(), caption_justify="left")
        for name in ("cell", "state", "step", "last score"):
            table.add_column(name, overflow="ellipsis", no_wrap=True)
        order = {"training": 0, "failed": 1, "done": 2, "ended early": 3, "waiting": 4}
        entries = sorted(self._plan.entries, key=lambda one: order[one.state])
        for entry in entries[: max(5, self._console.height - 4)]:
            step = self._step(entry)
            cells = (entry.label, entry.state, step, entry.problem or self._score(entry))
            table.add_row(*(spelled(printable(one), self._console.encoding) for one in cells))
        return table

    def _step(self, entry: Entry) -> str:
        if entry.state != "training":
            return ""
        work = self._plan.out / "work" / entry.job.run
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
            if json.loads(started_file(work).read_text())["session"] != self._session:
                return ""
            with (work / "metrics.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - TAIL))
                last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
            return f"{json.loads(last)['step']:,} of {self._plan.spec.steps:,}"
        return "starting"

    def _score(self, entry: Entry) -> str:
        """The last one, the mean over the members; empty where there is none yet."""
        run = entry.folder or self._plan.out / "work" / entry.job.run
        with contextlib.suppress(InputError, OSError, ValueError):
            if entry.folder is None and not (run / "evaluations.csv").is_file():
                return ""
            rows = RunFolder.open(run).read_evaluations()
            last = [row for row in rows if row.step == rows[-1].step] if rows else []
            if last:
                quantity = self._plan.spec.metric or quantity_of(last)
                score = np.mean([value_of(row, quantity) for row in last])
                return f"{format_number(float(score))} {UNITS[quantity]}"
        return ""
