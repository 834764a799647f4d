"""`open_dataset`: a `Dataset` from any supported source."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xql.data.d4rl import open_d4rl
from xql.data.dataset import Dataset
from xql.data.files import open_file
from xql.data.minari import open_minari
from xql.data.neorl2 import open_neorl2
from xql.data.ogbench import open_ogbench
from xql.data.schema import ARRAYS, OPTIONAL, REQUIRED, dataset_from
from xql.data.stored import on_disk
from xql.data.tables import array_of, gather_numbered
from xql.errors import InputError, nearest

_KINDS = ("minari", "d4rl", "ogbench", "neorl2")


def open_dataset(
    source: str | os.PathLike[str] | Mapping[str, Any] | Dataset | Any,
    *,
    download: bool = True,
    finite: bool = True,
    in_memory: bool = True,
) -> Dataset:
    """Open logged experience.

    Args:
        source: one of
            "minari:ID"         a Minari dataset by name, from this machine or its remote;
            "d4rl:FILE"         one of D4RL's own hdf5 files;
            "ogbench:FILE"      one of OGBench's npz files;
            "neorl2:FILE"       one of NeoRL-2's npz files;
            FILE                .npz, .hdf5, .h5, .parquet or .csv in the schema of docs/data.md;
            a mapping of arrays or a data frame in the same schema; or a `Dataset`, which comes
            back as it is.
            A string may end in "?keys=a,b", which keeps only those keys of a dictionary
            observation.
        download: whether a Minari dataset that is not on this machine may be fetched.
        finite: whether a NaN or an infinity is refused here, as nothing can be learned from it;
            without, `xql.data.check.check_dataset` can name all of them.
        in_memory: whether its arrays lie in memory; else those of more than 16 MiB are laid out in
            files (docs/data.md), from which training streams them.

    Raises:
        InputError: the source is unknown, missing, broken, or holds what cannot be learned from;
            one line says what, where, and how to fix it.
        MissingExtra: reading it needs an optional dependency, which the message names.
    """
    with on_disk(not in_memory):
        return _opened(source, download=download, finite=finite)


def _opened(source: Any, *, download: bool, finite: bool) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if isinstance(source, Mapping):
        return _from_columns(_walk(source), nested=False, finite=finite)
    # pandas and polars have `columns`, pyarrow `column_names`; none of them need be installed.
    table: Any = source
    names = getattr(table, "column_names", getattr(table, "columns", None))
    if names is not None:
        frame = [(str(name), table[name]) for name in names]
        return _from_columns(frame, nested=True, finite=finite)
    if not isinstance(source, str | os.PathLike):
        hint = "give a file, a mapping of arrays or a data frame"
        if isinstance(source, list | tuple):
            hint = "open one file at a time, and join them with Dataset.from_episodes([*a, *b])"
        raise InputError(f"a {type(source).__name__} is no source", hint=hint)
    try:
        os.fspath(source).encode()
    except UnicodeEncodeError:  # a run's config.yaml could not name it
        what = "the name is no text in UTF-8"
        raise InputError(what, where=os.fspath(source), hint="rename it") from None
    text, _, query = os.fspath(source).partition("?")
    keys = _parse_keys(query, os.fspath(source))
    kind, colon, rest = text.partition(":")
    # One letter before the colon is a drive, not a kind.
    if not colon or len(kind) < 2 or "/" in kind:
        return open_file(Path(text).expanduser(), keys, finite=finite)
    if kind not in _KINDS:
        raise InputError(f"unknown kind '{kind}:'", where=text, hint=nearest(kind, _KINDS))
    if not rest:
        raise InputError(f"nothing follows '{kind}:'", where=text, hint=_EXAMPLES[kind])
    if kind == "minari":
        return open_minari(rest, keys, download=download, finite=finite)
    path = Path(rest).expanduser()
    readers = {"d4rl": open_d4rl, "ogbench": open_ogbench, "neorl2": open_neorl2}
    return readers[kind](path, keys, finite=finite)


def _from_columns(columns: Iterable[tuple[str, object]], *, nested: bool, finite: bool) -> Dataset:
    arrays = {name: array_of(values, name, ARRAYS) for name, values in columns}
    gathered = gather_numbered(arrays, (*REQUIRED, *OPTIONAL), ARRAYS, nested=nested)
    return dataset_from(gathered, ARRAYS, finite=finite, name="arrays", source="arrays")


_EXAMPLES = {
    "minari": "give a name, such as minari:D4RL/door/human-v2",
    "d4rl": "give a file, such as d4rl:door-v0_demos_clipped.hdf5",
    "ogbench": "give a file, such as ogbench:cube-single-play-v0.npz",
    "neorl2": "give a file, such as neorl2:DMSD-train.npz",
}


def _parse_keys(query: str, where: str) -> tuple[str, ...] | None:
    if not query:
        return None
    name, _, value = query.partition("=")
    keys = tuple(key for key in value.split(",") if key)
    if name != "keys" or not keys:
        hint = "only ?keys=a,b is known"
        raise InputError(f"cannot read '?{query}'", where=where, hint=hint)
    return keys


def _walk(tree: Mapping[str, object], head: str = "") -> list[tuple[str, object]]:
    """The leaves of nested columns, by path, in the order given."""
    found: list[tuple[str, object]] = []
    for key, value in tree.items():
        path = f"{head}{key}"
        found += _walk(value, f"{path}/") if isinstance(value, Mapping) else [(path, value)]
    return found
