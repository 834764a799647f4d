"""An environment that a file names, made without running anything that the file names.

A dataset and a run folder store a Gymnasium `EnvSpec`, whose `entry_point` and wrappers can be any
function of any module: to make it as it stands is to run the file's code. Here only its id, its
arguments and its time limit are read. What is made is what an installed package has registered
under that id, and only where the package is one of `PACKAGES` or the user trusts it.
"""

import importlib
import json
import re
from collections.abc import Sequence
from typing import Any

from gymnasium.envs.registration import EnvSpec

from xql.data.reading import parse_json
from xql.envs.given import PYTHON
from xql.envs.make import entry_module, registered
from xql.errors import InputError

PACKAGES = ("gymnasium", "gymnasium_robotics", "xql")
"""Packages whose environments a file may name; DeepMind Control's tasks are made by `xql`."""

_ANYTHING = ("GymV21Environment-v0", "GymV26Environment-v0")
"""These make whatever environment of the old gym their arguments name."""

_HARMLESS = {
    "DataCollector",
    "DtypeObservation",
    "FlatObservation",
    "FlattenObservation",
    "HumanRendering",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "RenderCollection",
    "TimeLimit",
}
"""Wrappers of `PACKAGES` and Minari that can be left out: they record, limit or flatten."""

_OTHER = "give another with `env`"


def trusted_environment(text: str, trust: Sequence[str] = (), *, where: str) -> str:
    """What `make_environment` may make of an environment that a file names.

    Args:
        text: an id, or the JSON of an `EnvSpec`.
        trust: what the user trusts besides `PACKAGES`: packages, which are imported so that they
            register their environments, and ids. `text` itself among them is the user's own word.
        where: the file, for messages.

    Returns:
        The id, or the JSON of an id, arguments and a time limit; it names nothing to import.

    Raises:
        InputError: the environment cannot be used; one line says which, why not, and how to allow
            it.
        MissingExtra: it needs an extra of this package that is not installed.
    """
    if text in trust:
        return text
    described = _read(text, where)
    name: str = described["id"]
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)[:80]
    if ":" in name and name not in trust and not _within(name.partition(":")[0], trust):
        raise InputError(
            f"the environment '{shown}' names a module to import, which is not done for a file",
            where=where,
            hint=f"where you trust it, say so with `trust=['{shown}']`; or {_OTHER}",
        )
    for package in trust:
        _import(package, trust)
    try:
        known = registered(name)
    except InputError as error:
        raise InputError(
            f"no trusted package registers the environment '{shown}'",
            where=where,
            hint=f"{error.hint}; allow its package with `trust=['PACKAGE']`, or {_OTHER}",
        ) from None
    module = entry_module(known.entry_point)
    package = module.partition(".")[0]
    inside = _within(module, (*PACKAGES, *trust))
    if name not in trust and (name in _ANYTHING or not inside):
        raise InputError(
            f"the environment '{shown}' is of the package {package}, which is not trusted",
            where=where,
            hint=f"allow it with `trust=['{package}']`, or {_OTHER}",
        )
    _refuse_wrappers(described.get("additional_wrappers"), known, shown, where)
    if not text.lstrip().startswith("{"):
        return name
    arguments = _arguments(described.get("kwargs"), shown, where)
    limit = described.get("max_episode_steps")
    if limit is None:
        return json.dumps({"id": name, "kwargs": arguments})
    if type(limit) is not int or not 1 <= limit < 2**31:
        raise _no_specification(f"'{shown}' has a time limit of {json.dumps(limit)[:40]}", where)
    return json.dumps({"id": name, "kwargs": arguments, "max_episode_steps": limit})


def _within(module: str, packages: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{each}.") for each in packages)


def _read(text: str, where: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return {"id": text}
    try:
        described = parse_json(text)
    except ValueError as error:
        raise _no_specification(str(error), where) from None
    if isinstance(described, dict) and PYTHON in described:
        raise _of_python(described[PYTHON], where)
    if not isinstance(described, dict) or not isinstance(described.get("id"), str):
        raise _no_specification("there is no id", where)
    return described


def _of_python(name: Any, where: str) -> InputError:
    return InputError(
        f"its environment was given in Python ({str(name)[:80]}), and no run folder can make it",
        where=where,
        hint="give it again with `env`",
    )


def _no_specification(what: str, where: str) -> InputError:
    return InputError(f"no environment can be read ({what})", where=where, hint=_OTHER)


def _import(package: str, trust: Sequence[str]) -> None:
    """Import what the user trusts, where it is a package and not an id."""
    if package in PACKAGES or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", package):
        return
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        # An id without a version reads like a package.
        try:
            registered(package)
        except InputError:
            raise InputError(
                f"there is no package '{package}', and no environment",
                where="`trust`",
                hint="install it, or check the name",
            ) from None


def _refuse_wrappers(wrappers: Any, known: EnvSpec, shown: str, where: str) -> None:
    """Refuse what was recorded through a wrapper without which a policy sees or does otherwise."""
    if not isinstance(wrappers, list | tuple | None):
        raise _no_specification(f"the wrappers of '{shown}' are no list", where)
    own = {(each.name, each.entry_point) for each in known.additional_wrappers}
    for wrapper in wrappers or ():
        found = wrapper if isinstance(wrapper, dict) else {}
        name, entry = found.get("name"), found.get("entry_point")
        if not isinstance(name, str) or not isinstance(entry, str):
            raise _no_specification(f"a wrapper of '{shown}' has no name", where)
        package = re.split(r"[.:]", entry)[0]
        harmless = name in _HARMLESS and package in (*PACKAGES, "minari")
        if not harmless and (name, entry) not in own:
            raise InputError(
                f"the environment '{shown}' was recorded through the wrapper {name[:40]}, which "
                "may change what a policy sees and does, and which is not taken from a file",
                where=where,
                hint=_OTHER,
            )


def _arguments(arguments: Any, shown: str, where: str) -> dict[str, Any]:
    """The arguments of a file, all of JSON's own types; whether they fit shows when it is made."""
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise _no_specification(f"the arguments of '{shown}' are no object", where)
    for name, value in arguments.items():
        for text in _texts(value):
            # Such as MuJoCo's xml_file, which would read any file of this machine.
            if re.search(r"[/\\]|^[~.]", text):
                raise InputError(
                    f"the argument {name[:40]} of the environment '{shown}' names a file",
                    where=where,
                    hint=_OTHER,
                )
    skipped = arguments.get("frame_skip", 1)
    if type(skipped) is not int or not 1 <= skipped <= 1000:
        raise _no_specification(f"'{shown}' has a frame_skip of {json.dumps(skipped)[:40]}", where)
    if not _playable(arguments.get("maze_map", [[0, 0]])):
        raise _no_specification(f"'{shown}' has a maze_map with no way from start to goal", where)
    # How the recorder drew it; a window would open for each copy.
    return {name: value for name, value in arguments.items() if name != "render_mode"}


def _playable(maze: Any) -> bool:
    """Whether a start and a goal can be drawn in Gymnasium-Robotics' mazes, which else never end.

    1 is a wall, "g" a goal, "r" a start, "c" either, and 0 free: either, where no cell is marked.
    """
    if not isinstance(maze, list) or not all(isinstance(row, list) for row in maze):
        return False
    cells = [cell for row in maze for cell in row]
    if len({len(row) for row in maze}) != 1 or any(cell not in (0, 1, *"grc") for cell in cells):
        return False
    places: dict[Any, set[int]] = {
        kind: {place for place, cell in enumerate(cells) if cell == kind} for kind in (0, *"grc")
    }
    goals, starts = (places[kind] | places["c"] or places[0] for kind in "gr")
    return bool(goals and starts) and not (len(starts) == 1 and starts <= goals)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts(each)]
