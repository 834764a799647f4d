"""Plain values, as YAML gives them, and from them typed ones: checked on the way, at any depth.

What a type hint says is what is asked for; `Annotated[int, Range(1)]` also says which numbers.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jaxtyping
import numpy as np
import yaml

from xql.agents.hyperparameters import Range
from xql.data.reading import is_number
from xql.errors import InputError, brief, nearest

MOST_BYTES = 16 << 20
"""Of one YAML text; a run's configuration has some kilobytes."""
DEEPEST = 30
"""Lists and mappings within one another."""

RESTORE = "restore the file as the run wrote it"
"""The hint for a file that a run wrote, and that is not as it was."""

Finite = Annotated[float, Range(-math.inf)]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(key, "a key is no word")
            if key.value in seen:
                raise _refused(key, f"the key '{key.value}' stands there twice")
            seen.add(key.value)
        values: dict[Any, Any] = super().construct_mapping(node, deep)
        return values


class _HandLoader(_Loader):
    """Takes 3e-4, 1.5e3 and -.5 for numbers; YAML's own have a point and a sign, or no exponent."""


NUMBER = re.compile(r"(?:[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+|[-+]\.[0-9]+)$")


def _number(loader: _HandLoader, node: yaml.ScalarNode) -> int | float:
    number = float(node.value)
    return int(number) if number.is_integer() and "." not in node.value else number


_HandLoader.add_implicit_resolver("xql:number", NUMBER, [*"-+.0123456789"])
_HandLoader.add_constructor("xql:number", _number)


class _HandDumper(yaml.SafeDumper):
    """Quotes the text that `_HandLoader` would take for a number."""


_HandDumper.add_implicit_resolver("xql:number", NUMBER, [*"-+.0123456789"])


def _refused(place: Any, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=place.start_mark)


def read_yaml(text: str | bytes, by_hand: bool = False) -> Any:
    """What a YAML text says, in plain values.

    Aliases are refused: a few hundred letters of them stand for more values than memory holds.

    Args:
        text: of a file, or of a part of one.
        by_hand: whether a person wrote it, who means numbers by 3e-4, 1e5 and -.5; in quotes they
            stay text.

    Raises:
        ValueError: it is no YAML, or more than plain values of a sensible size; says why in a line.
    """
    kind = _HandLoader if by_hand else _Loader
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"it is longer than {MOST_BYTES >> 20} MiB")
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, kind):
            if isinstance(event, yaml.AliasEvent):
                raise _refused(event, "aliases are not read")
            if getattr(event, "tag", None) is not None:
                raise _refused(event, "tags such as !!int are not read")
            if isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                depth += 1
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                depth -= 1
            if depth > DEEPEST:
                raise _refused(event, "its values are nested too deeply")
        return yaml.load(text, kind)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text, from byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        at = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{at}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"it cannot be read ({error})") from None


def yaml_by_hand(values: Any) -> str:
    """Plain values as YAML that `read_yaml` reads back with `by_hand`."""
    text: str = yaml.dump(values, Dumper=_HandDumper, sort_keys=False, allow_unicode=True)
    return text


def typed(kind: Any, value: Any, where: str, key: str = "") -> Any:
    """`value` as the type `kind`: dataclasses and named tuples from mappings, and what they hold.

    A mapping's unknown keys are refused; missing ones are the field's default, where it has one.
    What is a dataclass or named tuple already stays as it is; of several of them in a union there
    is no telling from plain values which one is meant.

    Args:
        kind: a type hint: a dataclass or named tuple, Mapping[str, X], tuple[X, ...], a jaxtyping
            array of floats, a union, a Literal, Annotated[X, Range], or bool, int, float or str.
        value: plain values.
        where: the file, for messages.
        key: where in the file, such as "members[1].seed".

    Raises:
        InputError: names the first key whose value is not what its type asks for.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        kinds = [one for one in inner if one is not type(None)]
        if len(kinds) == 1:
            return typed(kinds[0], value, where, key)
        if isinstance(value, tuple(kinds)):
            return value
    if origin is Annotated:
        found, asked = typed(inner[0], value, where, key), inner[1]
        if not asked.holds(found):
            raise wrong(where, key, _expected(kind), value)
        return found
    if kind is Any:
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and is_number(value):
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    if origin is Literal and isinstance(value, str) and value in inner:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(typed(inner[0], one, where, f"{key}[{i}]") for i, one in enumerate(value))
    if _is_array(kind) and isinstance(value, list | tuple):
        return _array(value, where, key)
    if fields := _fields(kind):
        if isinstance(value, kind):
            return value
        if isinstance(value, Mapping):
            return kind(**_given(fields, value, where, key))
    if origin is Mapping and isinstance(value, Mapping):
        each = ((_name(name, where, key), one) for name, one in value.items())
        return {name: typed(inner[1], one, where, below(key, name)) for name, one in each}
    raise wrong(where, key, _expected(kind), value)


def wrong(where: str, key: str, asked: str, found: Any) -> InputError:
    """That what stands under a key is not what is asked for."""
    return damaged(f"{f'{key}: ' if key else ''}expected {asked}, found {_shown(found)}", where)


def damaged(what: str, where: str) -> InputError:
    """That a file which a run wrote is not as it wrote it."""
    return InputError(what, where=where, hint=RESTORE)


def below(key: str, name: object) -> str:
    """The key of what stands under `name` within `key`."""
    return f"{key}.{name}" if key else f"{name}"


def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The type of each field of a dataclass or named tuple, and whether it has a default."""
    if not isinstance(kind, type):
        return {}
    if dataclasses.is_dataclass(kind):
        hints, missing = typing.get_type_hints(kind, include_extras=True), dataclasses.MISSING
        return {
            one.name: (hints[one.name], (one.default, one.default_factory) != (missing, missing))
            for one in dataclasses.fields(kind)
        }
    if issubclass(kind, tuple) and hasattr(kind, "_field_defaults"):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {name: (hint, name in kind._field_defaults) for name, hint in hints.items()}
    return {}


def _given(
    fields: Mapping[str, tuple[Any, bool]], values: Mapping[Any, Any], where: str, key: str
) -> dict[str, Any]:
    for name in values:
        if name not in fields:
            raise InputError(
                f"{below(key, str(name)[:60])} is unknown",
                where=where,
                hint=nearest(str(name)[:80], fields),
            )
    for name, (_, has_default) in fields.items():
        if name not in values and not has_default:
            raise damaged(f"{below(key, name)} is missing", where)
    return {
        name: typed(fields[name][0], value, where, below(key, name))
        for name, value in values.items()
    }


def _name(name: Any, where: str, key: str) -> str:
    if not isinstance(name, str):
        raise wrong(where, key, "names as its keys", name)
    return name


def _is_array(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, jaxtyping.AbstractArray)


def _array(values: Sequence[Any], where: str, key: str) -> np.ndarray:
    """Numbers as float32, all finite."""
    numbers = typed(tuple[Finite, ...], values, where, key)
    largest = float(np.finfo(np.float32).max)
    for index, number in enumerate(numbers):
        if abs(number) > largest:
            raise wrong(where, f"{key}[{index}]", "a number that float32 can hold", number)
    return np.array(numbers, np.float32)


def _expected(kind: Any) -> str:
    """What a type hint asks for, in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_expected, inner))
    if origin is Annotated:
        range: Range = inner[1]
        if range == Range(-math.inf):
            return "a finite number"
        return f"{_expected(inner[0])}, {range.text.removeprefix('a number ')}"
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple or _is_array(kind):
        return "a list"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return "null" if kind is type(None) else words.get(kind, "keys with values")


def _shown(value: Any) -> str:
    """A value in a few letters."""
    if isinstance(value, Mapping):
        return "keys with values" if value else "nothing"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else brief(value)
