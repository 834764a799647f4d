"""Results small enough for git: a finished run as a cell keeps it, and figures of few colours.

    config.yaml           as the run wrote it, but the data's file without its folder
    evaluations.csv.gz    every episode; without the score, where it follows from the return
    metrics.jsonl.gz      every 5,000 steps, the last, and those at which a member was found to have
                          diverged; 6 significant digits
    divergence.jsonl      where members diverged, and what broke first
    frozen.csv            where members are frozen
    errors.npz            figure 1's Bellman errors
    returns.csv           what a peer library's run returned

`RunFolder` reads a run of these files. The same run gives the same bytes.
"""

import csv
import dataclasses
import io
import json
import shutil
import zlib
from pathlib import Path, PurePath
from typing import Any

import yaml

from xql.files import whole_file, write_text
from xql.runs.config import RunConfig
from xql.runs.folder import RunFolder

EVERY = 5_000
"""Steps between two lines of metrics."""
DIGITS = 6
COPIED = ("divergence.jsonl", "frozen.csv", "errors.npz", "returns.csv")
"""Files that are kept as they are, where the run wrote them."""


def compact(run: Path, out: Path) -> None:
    """Write what is kept of a run.

    Args:
        run: its folder, which is left as it is.
        out: an empty folder.
    """
    if (run / "config.yaml").exists():
        folder = RunFolder.open(run)
        text = yaml.safe_dump(
            _portable(folder.config).to_dict(), sort_keys=False, allow_unicode=True
        )
        write_text(out / "config.yaml", text)
        compress(_episodes(folder), out / "evaluations.csv.gz")
        compress(_thinned(run / "metrics.jsonl", _noticed(run)), out / "metrics.jsonl.gz")
    for name in COPIED:
        if (run / name).exists():
            with whole_file(out / name) as draft:
                shutil.copy(run / name, draft)


def compress(text: str, path: Path) -> None:
    """Write `text` in gzip's format: the same bytes whenever, and under whatever name."""
    # 16 + 15 asks for gzip's header, without a time. Digits repeat by chance alone, and "filtered"
    # does not encode their short repetitions: a tenth less.
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + 15, 9, zlib.Z_FILTERED)
    with whole_file(path, replace=True) as draft:
        draft.write_bytes(packer.compress(text.encode()) + packer.flush())


def reduce_colours(path: Path) -> None:
    """Store a PNG with a palette of 256 colours, for a third of the size."""
    # It comes with matplotlib, which has drawn the figure.
    from PIL import Image

    with Image.open(path) as picture:
        reduced = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with whole_file(path, "figure", replace=True) as draft:
        reduced.save(draft, optimize=True)


def _episodes(run: RunFolder) -> str:
    """evaluations.csv as the run wrote it, or without its scores, where `RunFolder` finds them."""
    text = (run.path / "evaluations.csv").read_text(encoding="utf-8")
    if not all(_same(row.score, run.score_of(row)) for row in run.read_evaluations()):
        return text
    rows = list(csv.reader(io.StringIO(text)))
    kept = [place for place, name in enumerate(rows[0]) if name != "score"]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([row[place] for place in kept] for row in rows)
    return out.getvalue()


def _same(one: float | None, other: float | None) -> bool:
    """Whether two scores are one number, or both none; a diverged episode has nan."""
    return one == other or (one != one and other != other)


def _portable(config: RunConfig) -> RunConfig:
    """The configuration without the folders of this machine."""
    kind, colon, name = config.data.source.rpartition(":")
    if kind == "minari":
        return config
    source = f"{kind}{colon}{PurePath(name).name}"
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))


def _thinned(path: Path, steps: set[int]) -> str:
    """Every `EVERY` steps' line of metrics.jsonl, the last, and those of `steps`."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    chosen = [
        line
        for number, line in enumerate(lines, start=1)
        if line["step"] % EVERY == 0 or line["step"] in steps or number == len(lines)
    ]
    return "".join(json.dumps(_rounded(one), separators=(",", ":")) + "\n" for one in chosen)


def _noticed(run: Path) -> set[int]:
    """The steps at which members were found to have diverged."""
    path = run / "frozen.csv"
    rows = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    found = {int(row.rpartition(",")[2]) for row in rows}
    path = run / "divergence.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return found | {json.loads(line)["noticed"] for line in lines}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
