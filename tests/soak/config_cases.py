"""Whatever a run's configuration can be."""

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from soak.frame import Case, Place, Subject
from soak.inputs import GIANT, INF, NAN, bomb, data_file, original, plain_config, run_folder

# Every command that begins with a run's configuration, in turn.
READERS: list[Callable[[Path, Place], Subject]] = [
    lambda run, place: ["compare", str(run)],
    lambda run, place: ["evaluate", str(run), "--episodes", "1"],
    lambda run, place: ["gumbel", "errors", str(run)],
    lambda run, place: functools.partial(_open, run),
    lambda run, place: [
        *("paper", "videos", "--left", str(run), "--right", str(run)),
        *("--out", f"{place.out}.mp4"),
    ],
    lambda run, place: functools.partial(_load, run),
]


def _open(run: Path) -> None:
    from xql.runs.run import Run

    Run.open(run)


def _load(run: Path) -> None:
    from xql.runs.policy import load_policy

    load_policy(run)


def _of_text(name: str, text: str | bytes, number: int, says: str = "config.yaml") -> Case:
    read = READERS[number % len(READERS)]
    return Case(name, "yaml", lambda place: read(run_folder(place, text), place), says=says)


TEXTS: dict[str, str | bytes] = {
    "empty": b"",
    "spaces": b"   \n\n",
    "only a comment": b"# nothing\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "a list": b"- agent\n",
    "a word": b"agent\n",
    "a number": b"3\n",
    "null": b"null\n",
    "half a list": b"agent: [xql\n",
    "half a mapping": b"agent: {xql: 1\n",
    "half a quote": b"agent: 'xql\n",
    "tabs": b"agent:\n\txql\n",
    "latin-1": "agent: é\n".encode("latin-1"),
    "utf-16": "agent: xql\n".encode("utf-16"),
    "utf-32": "agent: xql\n".encode("utf-32"),
    "nul bytes": b"\x00" * 100,
    "control characters": b"agent: \x07\x1b[31m\n",
    "random bytes": bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8)),
    "a zip file": b"PK\x03\x04" + b"\x00" * 60,
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "json cut short": json.dumps({"agent": "xql", "members": [{"seed": 1}]})[:-5].encode(),
    "merge conflict": b"<<<<<<< HEAD\nagent: xql\n=======\nagent: iql\n>>>>>>> other\n",
    "key twice": b"agent: xql\nagent: iql\n",
    "list as key": b"? [a, b]\n: 1\n",
    "mapping as key": b"? {a: b}\n: 1\n",
    "merge key": b"<<: {agent: xql}\nsteps: 3\n",
    "alias bomb": bomb(),
    "alias of itself": b"&a [*a]\n",
    "mapping of itself": b"a: &a {b: *a}\n",
    "unknown alias": b"a: *b\n",
    "deep lists": b"[" * 100_000,
    "deep closed lists": b"a: " + b"[" * 20_000 + b"]" * 20_000,
    "deep mappings": b"{a: " * 50_000,
    "deep by indents": "".join(f"{' ' * i}a:\n" for i in range(1500)),
    "python object": b"a: !!python/object/apply:os.system ['true']\n",
    "python name": b"a: !!python/name:os.system\n",
    "python tuple": b"members: !!python/tuple [1, 2]\n",
    "unknown tag": b"a: !secret 3\n",
    "int tag": b"steps: !!int x\n",
    "float tag": b"steps: !!float x\n",
    "binary tag": b"agent: !!binary a\n",
    "set tag": b"agent: !!set {xql}\n",
    "omap tag": b"agent: !!omap [xql]\n",
    "timestamp": b"agent: 2001-13-45\n",
    "a date": b"agent: 2001-01-01\n",
    "long digits": b"steps: " + b"9" * 10_000 + b"\n",
    "long hexadecimal": b"steps: 0x" + b"f" * 10_000 + b"\n",
    "long binary": b"steps: 0b" + b"1" * 50_000 + b"\n",
    "a long word": b"agent: " + b"x" * 1_000_000 + b"\n",
    "a long key": b"x" * 1_000_000 + b": 1\n",
    "many keys": "".join(f"k{i}: {i}\n" for i in range(3_000)),
    "many items": "agent: [" + ", ".join(["1"] * 10_000) + "]\n",
    "too long": b"# filler\n" * 2_000_000,
    "version of the future": b"version: 99\n",
    "version text": b"version: two\n",
    "version giant": b"version: 0x" + b"f" * 10_000 + b"\n",
    "version nan": b"version: .nan\n",
    "version true": b"version: true\n",
    "version zero": b"version: 0\n",
}


def _put(path: Sequence[str | int], value: Any) -> str:
    """The YAML of the configuration with one value changed."""
    plain = plain_config()
    place: Any = plain
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return yaml.safe_dump(plain, sort_keys=False)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place in plain values, also the mappings and lists themselves."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _leaves(one, (*path, name))
    elif isinstance(value, list) and value:
        yield from _leaves(value[0], (*path, 0))


def _wrong_for(value: Any) -> list[Any]:
    """What cannot stand where `value` stands."""
    if isinstance(value, bool):
        return ["x", 3, NAN, [], {"a": 1}]
    if isinstance(value, int):
        return ["x", 1.5, True, [], {}, -1, 10**40, NAN, None, [1]]
    if isinstance(value, float):
        return ["x", True, [], {}, INF, 10**400, None, "1e", [1.0], NAN]
    if isinstance(value, str):
        return [3, True, [], {}, 1.5, None, ["x"]]
    if isinstance(value, list):
        return ["x", 3, {}, True, None, [None], [[1]], ["x"], {"0": 1}]
    return [3, [], "x", True, [1, 2], [None], None]


# What may stand there all the same: null where nothing is a value, and what is not looked at.
FINE: dict[str, list[Any]] = {
    "environment": [None],
    "data.mean_return": [INF, NAN],
    "hyperparameters.max_gradient_norm": [None],
    "data.observation_keys": [None, []],
}
FREE = ("version", "data.observation_keys", "data.reference", "data.whole")


def _typed_cases() -> list[Case]:
    cases: list[Case] = []
    counter = itertools.count()
    for path, value in _leaves(original()):
        key = ".".join(map(str, path))
        if key in FREE:
            continue
        wrong = [one for one in _wrong_for(value) if repr(one) not in map(repr, FINE.get(key, []))]
        for turn in range(3):
            number = next(counter)
            bad = wrong[(number + 3 * turn) % len(wrong)]
            shown = repr(bad) if not isinstance(bad, int) or bad < 10**9 else "a giant"
            if any(case.name == f"{key} {shown}" for case in cases):
                continue
            read = READERS[number % len(READERS)]
            cases.append(
                Case(
                    f"{key} {shown}",
                    "config",
                    lambda place, path=path, bad=bad, read=read: read(  # type: ignore[misc]
                        run_folder(place, _put(path, bad)), place
                    ),
                    says="option" if key.startswith("hyperparameters.") else str(path[0]),
                )
            )
    return cases


MORE: dict[str, tuple[Sequence[str | int], Any, str]] = {
    "agent unknown": (["agent"], "xqk", "there is no agent 'xqk'"),
    "agent markup": (["agent"], "[red]xql[/red]", "there is no agent '[red]xql[/red]'"),
    "agent escape": (["agent"], "\x1b[31mxql", r"\x1b[31mxql"),
    "option unknown": (["hyperparameters", "betta"], 1.0, "unknown option 'betta'"),
    "option wide": (["hyperparameters", "hidden"], [10**9], "option hidden"),
    "option many": (["hyperparameters", "hidden"], [4] * 5000, "option hidden has 5000"),
    "option empty": (["hyperparameters", "hidden"], [], "option hidden"),
    "option nested": (["hyperparameters", "hidden"], [[4]], "option hidden"),
    "option negative": (["hyperparameters", "hidden"], [-4], "option hidden"),
    "option critics": (["hyperparameters", "critics"], 10**6, "option critics"),
    "option batch": (["hyperparameters", "batch_size"], 0, "option batch_size"),
    "option word": (["hyperparameters", "loss"], "gumbel", "option loss"),
    "members none": (["members"], [], "members is empty"),
    "members apart": (["members", 1, "changes"], {"clip": 2.0}, "members[1].changes"),
    "members static": (["members", 0, "changes"], {"hidden": 3.0}, "members[0].changes"),
    "members unknown": (["members", 0, "changes"], {"bta": 3.0}, "members[0].changes"),
    "members range": (["members", 1, "changes", "beta"], -1.0, "members[1].changes.beta"),
    "members zero": (["members", 1, "changes", "beta"], 0.0, "members[1].changes.beta"),
    "members seed": (["members", 2, "seed"], 2**32, "members[2].seed"),
    "scaling short": (["scaling", "observation_shift"], [0.0], "observation_shift"),
    "scaling empty": (["scaling", "observation_scale"], [], "observation_scale"),
    "scaling wide": (["scaling", "observation_scale"], [1e39, 1.0, 1.0], "float32"),
    "scaling key": (["scaling", "rewrads"], 1, "scaling.rewrads is unknown"),
    "data key": (["data", "nmae"], 1, "data.nmae is unknown"),
    "size": (["data", "observation_size"], 10**9, "data.observation_size"),
    "bounds": (["data", "actions", "low"], [5.0], "data.actions"),
    "bounds empty": (["data", "actions"], {"kind": "box", "low": [], "high": []}, "data.actions"),
    "bounds apart": (["data", "actions", "high"], [5.0, 5.0], "data.actions"),
    "bounds infinite": (["data", "actions", "high"], [INF], "data.actions"),
    "actions kind": (["data", "actions", "kind"], "text", "data.actions.kind"),
    "actions none": (["data", "actions"], {"kind": "discrete", "n": 0}, "data.actions.n"),
    "actions many": (["data", "actions"], {"kind": "discrete", "n": 10**12}, "data.actions.n"),
    "actions key": (["data", "actions", "mid"], [0.0], "data.actions.mid is unknown"),
    "reference equal": (
        ["data", "reference"],
        {"minimum": 1.0, "maximum": 1.0, "source": ""},
        "data.reference",
    ),
    "reference short": (["data", "reference"], {"minimum": 1.0}, "data.reference.maximum"),
    "reference list": (["data", "reference"], [0.0, 1.0, ""], "data.reference"),
    "keys": (["data", "observation_keys"], [1], "data.observation_keys[0]"),
    "keys text": (["data", "observation_keys"], "ab", "data.observation_keys"),
    "whole": (["data", "whole"], {"transitions": "x"}, "data.whole"),
    "kind": (["kind"], "both", "kind"),
    "loop environments": (["loop"], {"environments": 10**9}, "loop"),
    "evaluation key": (["evaluation", "episode"], 1, "evaluation.episode is unknown"),
    "evaluations": (["evaluation", "evaluations"], GIANT, "evaluation.evaluations"),
    "sources": (["sources"], {"beta": 3}, "sources.beta"),
    "sources key": (["sources"], {3: "beta"}, "sources"),
    "trust": (["trust"], ["os"], "trust"),
    "key of markup": (["[/red]"], 1, "[/red] is unknown"),
    "key of nothing": ([""], 1, "is unknown"),
    "steps": (["steps"], 2**40, "steps"),
}
REQUIRED = ("agent", "steps", "members", "hyperparameters", "scaling", "data", "environment")
ENVIRONMENTS: dict[str, str] = {
    "empty": "",
    "a word": "Pendulm-v1",
    "a module": "os:Pendulum-v1",
    "markup": "[bold]Pendulum[/]-v1",
    "escape": "\x1b]0;x\x07-v1",
    "newline": "Pendulum\n-v1",
    "long": "P" * 100_000,
    "a path": "../../etc/passwd",
    "an open brace": "{",
    "no id": "{}",
    "id of a list": '{"id": []}',
    "deep": '{"id": ' + "[" * 100_000,
    "deep arguments": '{"id": "Pendulum-v1", "kwargs": ' + '{"a":' * 5000 + "1" + "}" * 5001,
    "arguments of a list": '{"id": "Pendulum-v1", "kwargs": [1]}',
    "unknown argument": '{"id": "Pendulum-v1", "kwargs": {"wind": 1}}',
    "wrong argument": '{"id": "Pendulum-v1", "kwargs": {"g": "down"}}',
    "nan argument": '{"id": "Pendulum-v1", "kwargs": {"g": NaN}}',
    "limit of text": '{"id": "Pendulum-v1", "max_episode_steps": "x"}',
    "limit of nothing": '{"id": "Pendulum-v1", "max_episode_steps": 0}',
    "limit giant": '{"id": "Pendulum-v1", "max_episode_steps": 1e999}',
    "wrappers of text": '{"id": "Pendulum-v1", "additional_wrappers": "x"}',
    "a wrapper": '{"id": "Pendulum-v1", "additional_wrappers": [{"name": "A"}]}',
    "a wrapper of nothing": '{"id": "Pendulum-v1", "additional_wrappers": [null]}',
    "entry point": '{"id": "X-v0", "entry_point": "os:system", "kwargs": {"command": "true"}}',
    "another size": "MountainCarContinuous-v0",
    "discrete": "CartPole-v1",
    "surrogate": '{"id": "\\ud800-v1"}',
}


def _of_environment(name: str, text: str) -> Case:
    def make(place: Place) -> Subject:
        return ["evaluate", str(run_folder(place, _put(["environment"], text))), "--episodes", "1"]

    # JSON's own NaN is an argument like another; what it plays is not a number either.
    return Case(name, "environment", make, exits=(0, 1, 2) if "NaN" in text else (1, 2))


def _not_a_file(name: str, spoil: Callable[[Path], object]) -> Iterator[Case]:
    for number in range(2):

        def make(place: Place, number: int = number) -> Subject:
            run = run_folder(place)
            (run / "config.yaml").unlink()
            spoil(run / "config.yaml")
            return READERS[number](run, place)

        yield Case(f"{name} {number}", "yaml", make, says="config.yaml")


def _long_folder(place: Place) -> Subject:
    return ["compare", str(place.inputs / ("x" * 5000))]


def config_cases() -> list[Case]:
    """Whatever config.yaml can be."""
    cases = [_of_text(name, text, i, "") for i, (name, text) in enumerate(TEXTS.items())]
    cases += _typed_cases()
    for i, (name, (path, value, says)) in enumerate(MORE.items()):
        read = READERS[i % len(READERS)]
        cases.append(
            Case(
                name,
                "config",
                lambda place, path=path, value=value, read=read: read(  # type: ignore[misc]
                    run_folder(place, _put(path, value)), place
                ),
                says=says,
            )
        )
    for i, name in enumerate(REQUIRED):
        without = {key: value for key, value in original().items() if key != name}
        read = READERS[i % len(READERS)]
        cases.append(
            Case(
                f"without {name}",
                "config",
                lambda place, without=without, read=read: read(  # type: ignore[misc]
                    run_folder(place, yaml.safe_dump(without)), place
                ),
                says=f"{name} is missing",
            )
        )
    cases += [_of_environment(name, text) for name, text in ENVIRONMENTS.items()]
    cases += [
        *_not_a_file("a folder", Path.mkdir),
        *_not_a_file("a pipe", os.mkfifo),
        *_not_a_file("a loop of links", lambda path: path.symlink_to(path)),
        *_not_a_file("nothing", lambda path: None),
        *_not_a_file("a link to nowhere", lambda path: path.symlink_to("nowhere")),
        *_not_a_file("a link to a device", lambda path: path.symlink_to("/dev/zero")),
        Case("a long name", "yaml", _long_folder),
        Case("no text", "yaml", lambda place: ["compare", ""]),
        Case("a file", "yaml", lambda place: ["evaluate", str(data_file(place))]),
    ]
    return cases


CASES = config_cases()
