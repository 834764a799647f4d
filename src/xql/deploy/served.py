"""An exported ONNX policy in memory: observations or named rows in, actions out. Needs no JAX."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from xql.data.columns import TableColumns
from xql.errors import InputError, reason, require
from xql.runs.numpy_policy import unfamiliar

FORMAT = 1
"""Of the metadata; see docs/export.md."""

KEY = "xql"
"""The entry of the model's metadata that holds it."""

SENTENCES = 5
"""About one observation: no client needs more, and 1,024 observations may have millions."""


FEW = 64
"""Observations whose sentences take no longer than to hand them to a thread."""

LIGHT = 2**25
"""Bytes of the file times observations: at 8 million products, well below a millisecond."""


class ServedPolicy:
    """What `xql export --format onnx` wrote, ready to act.

    Attributes:
        about: the metadata.
        identity: the first letters of the file's SHA-256.
        run, step: where it comes from.
        columns: of the table that it was trained on, if it was.
    """

    def __init__(self, path: Path) -> None:
        """Read it whole: the file may be replaced at any time.

        Raises:
            InputError: it cannot be read, or xql did not export it.
            MissingExtra: onnxruntime is not installed.
        """
        runtime = require("onnxruntime", "serve")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise InputError(
                "there is no such file", where=str(path), hint="check the path"
            ) from None
        except OSError as error:
            raise InputError(error.strerror or reason(error), where=str(path)) from error
        options = runtime.SessionOptions()
        # One request is too little work to share; requests are what runs in parallel.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
            found = self._session.get_modelmeta().custom_metadata_map
            self.about: dict[str, Any] = json.loads(found[KEY])
            if self.about["format"] != FORMAT:
                raise InputError(
                    f"its metadata are of format {self.about['format']}, this xql reads {FORMAT}",
                    where=str(path),
                    hint="export the run again with this version",
                )
            self.columns = _columns(self.about, str(path))
            self.run, self.step = str(self.about.get("run")), int(self.about.get("step") or 0)
            (inputs,) = self._session.get_inputs()
            self.observation_size = int(inputs.shape[1])
            sizes = {self.about["observation"]["size"]}
            if self.columns is not None:
                sizes.add(self.columns.observation_size)
            if sizes != {self.observation_size}:
                raise ValueError("the metadata are of another model")
            self._familiar = _familiar(self.about, self.observation_size)
            self.act(np.zeros((1, self.observation_size), np.float32), str(path))
        except InputError:
            raise
        except Exception as error:  # onnxruntime has a class of its own for each way to fail
            raise _foreign(path) from error
        self.identity = hashlib.sha256(content).hexdigest()[:12]
        self._size = len(content)

    def act(
        self, observations: Float[np.ndarray, "batch observation"], where: str = ""
    ) -> Shaped[np.ndarray, "batch *action"]:
        """The most likely actions: float32 [batch, action], or their numbers, int64 [batch].

        Args:
            observations: raw, finite, in the order of the data.
            where: they come from, for the message.

        Raises:
            InputError: their shape is another, or a number is not finite as float32, of an
                observation or of the action for it.
        """
        size = self.observation_size
        if observations.ndim != 2 or observations.shape[1] != size:
            shape = "×".join(map(str, observations.shape))
            raise InputError(
                f"observations of shape {shape}", where=where, hint=f"give rows of {size} numbers"
            )
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(observations, np.float32)
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise InputError(
                f"number {column} of observation {row} is not finite as float32", where=where
            )
        actions: np.ndarray = self._session.run(None, {"observation": rows})[0]
        good = actions >= 0 if actions.dtype.kind == "i" else np.isfinite(actions)
        if not good.all():
            row = np.argwhere(~good)[0, 0]
            raise InputError(f"the action for observation {row} is not finite", where=where)
        return actions

    def is_light(self, observations: int) -> bool:
        """Whether actions for so many take about the time that it takes to hand them to a thread.

        A network uses each of its numbers once for an observation; `best_of_n` does for every
        candidate, and more than once.
        """
        few = observations <= FEW and observations * self._size <= LIGHT
        return few and self.about.get("network") != "best_of_n"

    @property
    def knows_familiar(self) -> bool:
        """Whether the metadata say what is familiar."""
        return self._familiar is not None

    def unfamiliar(
        self, observations: Float[np.ndarray, "batch observation"]
    ) -> list[list[str]] | None:
        """What of each observation lies outside of the training data, a sentence each.

        After `SENTENCES` of them, one says how many more there are. None where the metadata do not
        say what is familiar: the data was not there at the export.
        """
        if self._familiar is None:
            return None
        low, high = self._familiar
        places = self.about["observation"]["familiar"]
        rows = np.asarray(observations, np.float32)
        outside = ~((low <= rows) & (rows <= high))
        found: list[list[str]] = [[] for _ in rows]
        for row in np.flatnonzero(outside.any(axis=1)):
            columns = np.flatnonzero(outside[row])
            named = columns[:SENTENCES]
            about = {"familiar": [places[column] for column in named]}
            found[row] = unfamiliar(rows[row, named], about)
            if more := len(columns) - len(named):
                found[row].append(f"and {more} more")
        return found

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "batch observation"]:
        """The observations of rows of the table that the policy was trained on.

        Raises:
            InputError: it was not trained on a table, a column or a value is missing, or a
                category was not in the table.
        """
        if self.columns is None:
            raise InputError(
                "the policy was not trained on a table, so that its columns have no names",
                hint="give observations",
            )
        return np.stack([self.columns.encode(row) for row in rows])

    def decode(self, actions: Shaped[np.ndarray, "batch *action"]) -> list[dict[str, Any]] | None:
        """The same actions by the names of their columns; None without a table."""
        if self.columns is None:
            return None
        named = self.columns.decode(actions)
        values = [np.asarray(one).tolist() for one in named.values()]
        return [dict(zip(named, row, strict=True)) for row in zip(*values, strict=True)]

    def require_like(self, other: "ServedPolicy", where: str) -> None:
        """Check that `other` takes and gives the same as this one.

        Raises:
            InputError: it does not; says in what.
        """
        for part, names in (
            ("observation", ("size", "columns", "missing_values")),
            ("action", ("kind", "size", "columns")),
        ):
            for name in names:
                if self.about[part].get(name) != other.about[part].get(name):
                    raise InputError(
                        f"its {part}s are not as those of the policy that is served: {name} "
                        "differs",
                        where=where,
                        hint="serve it on a port of its own",
                    )


def _familiar(
    about: Mapping[str, Any], size: int
) -> tuple[Float[np.ndarray, " observation"], Float[np.ndarray, " observation"]] | None:
    """The ends of what is familiar; None of an export without its data, or of an earlier one."""
    if not about["observation"].get("familiar"):
        return None
    places = about["observation"]["familiar"]
    low, high = (np.array([one[end] for one in places], np.float64) for end in ("low", "high"))
    if len(places) != size:
        raise ValueError("the metadata are of another model")
    unfamiliar(np.full(size, np.nan), about["observation"])  # that every number has its words
    return low, high


def _columns(about: Mapping[str, Any], where: str) -> TableColumns | None:
    if about["observation"]["columns"] is None:
        return None
    described = {part: about[part]["columns"] for part in ("observation", "action")}
    missing = about["observation"].get("missing_values") or ()
    return TableColumns.from_dict({**described, "reward": "", "missing_values": missing}, where)


def _foreign(path: Path) -> InputError:
    return InputError(
        "no ONNX policy of xql's", where=str(path), hint="make one: xql export RUN --format onnx"
    )
