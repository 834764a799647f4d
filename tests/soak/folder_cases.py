"""What else lies in a run's folder, damaged."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soak.frame import Case, Place, Subject
from soak.inputs import run_folder

EVALUATIONS: dict[str, bytes] = {
    "empty": b"",
    "header alone": b"step,member,seed,episode,return,length,score,success\n",
    "no header": b"4,0,0,0,-1.0,200,,\n",
    "latin-1": "step,mémber\n".encode("latin-1"),
    "bytes": bytes(range(256)),
    "nul": b"step,member,seed,episode,return,length,score,success\n\x00\n",
    "short row": b"step,member,seed,episode,return,length,score,success\n4,0,0\n",
    "long row": b"step,member,seed,episode,return,length,score,success\n" + b"4," * 50 + b"\n",
    "text": b"step,member,seed,episode,return,length,score,success\n4,0,0,0,x,200,,\n",
    "float step": b"step,member,seed,episode,return,length,score,success\n4.5,0,0,0,1,200,,\n",
    "unknown member": b"step,member,seed,episode,return,length,score,success\n4,99,0,0,1,9,,\n",
    "negative member": b"step,member,seed,episode,return,length,score,success\n4,-1,0,0,1,9,,\n",
    "another seed": b"step,member,seed,episode,return,length,score,success\n4,0,77,0,1,9,,\n",
    "giant digits": b"step,member,seed,episode,return,length,score,success\n"
    + b"9" * 5000
    + b",0,0,0,1,9,,\n",
    "quote": b'step,member,seed,episode,return,length,score,success\n"4,0,0,0,1,9,,\n',
    "long cell": b"step,member,seed,episode,return,length,score,success\n"
    + b"x" * 200_000
    + b",0,0,0,1,9,,\n",
    "blank lines": b"\n\n\n",
    "markup": b"step,member,seed,episode,return,length,score,success\n[/red],0,0,0,1,9,,\n",
}
METRICS: dict[str, bytes] = {
    "a list": b"[1]\n",
    "a word": b"x\n",
    "no step": b"{}\n",
    "step of text": b'{"step": "x"}\n',
    "deep": b'{"step": 1, "a": ' + b"[" * 100_000 + b"\n",
    "latin-1": b'{"step": 1, "\xe9": 1}\n',
    "nonfinite of text": b'{"step": 1, "nonfinite": "x"}\n',
    "nonfinite of nothing": b'{"step": 1, "nonfinite": {"a": {"0": "nan"}}}\n',
    "nonfinite far": b'{"step": 1, "a": [1], "nonfinite": {"a": {"7": "nan"}}}\n',
    "number": b'{"step": 1, "a": 3}\n',
    "giant": b'{"step": 1e999}\n',
    "bytes": bytes(range(256)) + b"\n",
}
FROZEN: dict[str, bytes] = {
    "text": b"member,step,noticed\nx,1,2\n",
    "short": b"member,step,noticed\n1\n",
    "bytes": b"member,step,noticed\n\xff\xfe\n",
    "giant": b"member,step,noticed\n" + b"9" * 5000 + b",1,1\n",
    "empty line": b"member,step,noticed\n\n",
}
ORIGINS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[1]",
    "no list": b'{"sessions": {}}',
    "devices of text": b'{"sessions": [{"device": "cpu", "devices": "x"}]}',
    "giant devices": b'{"sessions": [{"device": "cpu", "devices": 1e999, "folder": "/\\u0000"}]}',
    "deep": b"[" * 100_000,
    "giant digits": b'{"sessions": [{"devices": ' + b"9" * 5000 + b"}]}",
    "bytes": bytes(range(256)),
}
DIVERGENCES: dict[str, bytes] = {
    "text": b"member\n",
    "a list": b"[0, 1, 2]\n",
    "short": b'{"member": 0}\n',
    "bytes": b"\xff\xfe\n",
    "deep": b"[" * 100_000 + b"\n",
    "giant": b'{"member": ' + b"9" * 5000 + b"}\n",
    "empty line": b"\n",
}


def _with_file(
    name: str, content: bytes, then: Callable[[Path], Subject]
) -> Callable[..., Subject]:
    def make(place: Place) -> Subject:
        run = run_folder(place)
        (run / name).write_bytes(content)
        return then(run)

    return make


def _metrics(run: Path) -> Callable[[], object]:
    def read() -> None:
        from xql.runs.folder import RunFolder

        RunFolder.open(run).read_metrics()

    return read


def _describe(run: Path) -> Callable[[], object]:
    def read() -> None:
        from xql.runs.folder import RunFolder

        folder = RunFolder.open(run)
        folder.read_frozen()
        folder.read_divergences()

    return read


def _evaluate(run: Path) -> Subject:
    return ["evaluate", str(run), "--episodes", "1"]


def _checkpoint(name: str, spoil: Callable[[Path], object], **more: Any) -> Case:
    def make(place: Place) -> Subject:
        run = run_folder(place)
        spoil(run / "checkpoints")
        return _evaluate(run)

    return Case(name, "checkpoint", make, **more)


DEEP = "[" * 100_000


def _emptied(checkpoints: Path) -> None:
    for one in checkpoints.iterdir():
        shutil.rmtree(one)


def _as_a_file(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    checkpoints.write_text("x")


def _as_an_empty_step(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    (checkpoints / "4").mkdir(parents=True)


def _cut(checkpoints: Path) -> None:
    for one in (checkpoints / "4").rglob("d/*"):
        if one.is_file():
            os.truncate(one, 3)


def file_cases() -> list[Case]:
    """What else lies in a run's folder, damaged."""
    cases = [
        Case(
            name,
            "evaluations",
            _with_file("evaluations.csv", content, lambda run: ["compare", str(run)]),
        )
        for name, content in EVALUATIONS.items()
    ]
    cases += [
        Case(name, "metrics", _with_file("metrics.jsonl", content, _metrics), exits=(0, 2))
        for name, content in METRICS.items()
    ]
    cases += [
        Case(name, "frozen", _with_file("frozen.csv", content, _describe), exits=(0, 2))
        for name, content in FROZEN.items()
    ]
    cases += [
        Case(
            name,
            "origin",
            _with_file("origin.json", content, lambda run: ["reproduce", str(run)]),
            says="its data was given as arrays",
        )
        for name, content in ORIGINS.items()
    ]
    cases += [
        Case(name, "divergences", _with_file("divergence.jsonl", content, _describe), exits=(0, 2))
        for name, content in DIVERGENCES.items()
    ]
    cases += [
        _checkpoint("none", shutil.rmtree),
        _checkpoint("empty", _emptied),
        _checkpoint("a file", _as_a_file),
        _checkpoint("a step of nothing", _as_an_empty_step),
        _checkpoint("no metadata", lambda path: (path / "4" / "_METADATA").unlink()),
        _checkpoint("bad metadata", lambda path: (path / "4" / "_METADATA").write_text("{")),
        _checkpoint("metadata of a list", lambda path: (path / "4" / "_METADATA").write_text("[]")),
        _checkpoint("deep metadata", lambda path: (path / "4" / "_METADATA").write_text(DEEP)),
        _checkpoint("no manifest", lambda path: (path / "4" / "manifest.ocdbt").unlink()),
        _checkpoint("bad manifest", lambda path: (path / "4" / "manifest.ocdbt").write_text("x")),
        _checkpoint("cut data", _cut),
        _checkpoint(
            "step giant", lambda path: (path / "4").rename(path / ("9" * 60)), exits=(0, 2)
        ),
        _checkpoint("step of other digits", lambda path: (path / "4").rename(path / "²")),
    ]
    return cases


CASES = file_cases()
