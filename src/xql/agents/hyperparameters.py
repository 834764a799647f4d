"""Hyperparameters: each one declared once, as a field of its agent's configuration.

A field declares its default, its range, one line of documentation, and whether it may be *swept*.
The configuration is a pytree whose swept fields are leaves and whose static fields are structure:
in a population `config.beta` is an array with a number for each member, in a preset it is one
number, and two configurations that differ in swept fields alone share one compiled program.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, dataclass_transform

import jax

from xql.data.reading import is_number
from xql.errors import InputError, brief, nearest

Config = TypeVar("Config")
Given = ParamSpec("Given")


@jax.tree_util.register_static
class Auto(str):
    """The value "auto" of a swept hyperparameter: training finds the number (agents/temperature).

    It is structure and no leaf: a whole population has it, and the compiled program depends on it.
    """

    __slots__ = ()


AUTO = Auto("auto")

if TYPE_CHECKING:
    Swept = float | jax.Array
    SweptOrAuto = float | jax.Array | Auto
else:
    # JAX rebuilds a pytree with whatever stands for its leaves, so nothing can be checked here.
    Swept = SweptOrAuto = Any


class Range(NamedTuple):
    """The numbers that a hyperparameter takes."""

    least: float = 0.0
    most: float = math.inf
    above: bool = False
    """Whether `least` itself is excluded."""
    even: bool = False

    def holds(self, number: float | int) -> bool:
        """Whether `number` is finite and in the range."""
        # Compared, not given to math.isfinite: an integer may be too large for a float.
        inside = self.least <= number <= self.most and abs(number) != math.inf
        return (
            inside and not (self.above and number == self.least) and not (self.even and number % 2)
        )

    @property
    def text(self) -> str:
        """In words, such as "a number above 0 and at most 1"."""
        if self.even:
            lower = f"an even number, at least {self.least:g}"
        else:
            lower = f"{'a number above' if self.above else 'at least'} {self.least:g}"
        return lower if self.most == math.inf else f"{lower} and at most {self.most:.10g}"


NON_NEGATIVE = Range()
POSITIVE = Range(above=True)
FRACTION = Range(most=1.0, above=True)
DISCOUNT = Range(most=1.0)
DROPOUT = Range(most=0.9)
KL = Range(most=5.0, above=True)
"""In nats: no weights of 256 samples are further than log 256 = 5.5 from uniform."""
SIZE = Range(most=65536, above=True)
"""Of a layer or a batch. What fits into memory is known only with the data: see training/memory."""
COUNT = Range(most=100, above=True)
"""Of what the compiled program writes out one by one, such as critics."""
LAYERS = Range(most=20, above=True)


def swept(
    *,
    default: float,
    doc: str,
    range: Range = NON_NEGATIVE,
    required: bool = False,
    auto: bool = False,
) -> Any:
    """A number that may differ along a population.

    Args:
        default: its value.
        doc: one line, with its unit.
        range: what it may be.
        required: whether a preset or the user must give it, because the default is in the unit of
            somebody's rewards.
        auto: whether it can also be "auto".
    """
    return dataclasses.field(
        default=default,
        metadata={"swept": True, "doc": doc, "range": range, "required": required, "auto": auto},
    )


def static(*, default: Any, doc: str, range: Range = NON_NEGATIVE) -> Any:
    """A choice that a whole population shares: the compiled program depends on it."""
    return dataclasses.field(
        default=default,
        metadata={"swept": False, "doc": doc, "range": range, "required": False, "auto": False},
    )


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(swept, static))
def agent_config(cls: type[Config]) -> type[Config]:
    """Make a frozen dataclass of `swept` and `static` fields, and register it as a pytree."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(made)  # type: ignore[arg-type]
    jax.tree_util.register_dataclass(
        made,
        data_fields=[field.name for field in fields if field.metadata["swept"]],
        meta_fields=[field.name for field in fields if not field.metadata["swept"]],
    )
    return made


class Hyperparameter(NamedTuple):
    """One field of a configuration, as the documentation and the command line show it."""

    name: str
    type: str
    default: Any
    swept: bool
    range: Range
    required: bool
    auto: bool
    doc: str


def hyperparameters(config: Any) -> dict[str, Hyperparameter]:
    """The hyperparameters of a configuration, or of its class, by name, in order."""
    return {
        field.name: Hyperparameter(
            name=field.name,
            type=_swept_type(field) if field.metadata["swept"] else _type_name(field.type),
            default=field.default,
            **field.metadata,
        )
        for field in dataclasses.fields(config)
    }


def inactive(config: Any) -> frozenset[str]:
    """Hyperparameters without effect in this configuration, such as β without its loss."""
    names: frozenset[str] = getattr(config, "inactive", frozenset())
    return names


def learning_rates(config: Any) -> tuple[str, ...]:
    """The hyperparameters that say how long the steps of its optimizers are."""
    unused = inactive(config)
    return tuple(
        name
        for name in hyperparameters(config)
        if name.endswith("learning_rate") and name not in unused
    )


def options(
    config: Callable[Given, Any], *args: Given.args, **given: Given.kwargs
) -> dict[str, Any]:
    """Options of an agent as a mapping, with names and types that a type checker checks.

    `options=options(XQLConfig, beta=2.0)` is `options={"beta": 2.0}`, but `bata=2.0` is an error in
    the editor already.

    Args:
        config: the class of the agent's configuration, such as `XQLConfig`.
        *args: none; every option has a name.
        **given: the options.

    Raises:
        InputError: an unknown name, a value of the wrong type, or a number out of range.
        TypeError: an option without its name.
    """
    if args:
        raise TypeError("options() takes every option by its name, such as beta=2.0")
    kind: type[Any] = config  # type: ignore[assignment]
    from_dict(kind, given, kind.__name__)
    return dict(given)


def to_dict(config: Any) -> dict[str, Any]:
    """The hyperparameters that have an effect, as plain values."""
    unused = inactive(config)
    return {
        name: str(one) if isinstance(one, Auto) else one
        for name, one in dataclasses.asdict(config).items()
        if name not in unused
    }


def from_dict(
    kind: type[Config],
    values: Mapping[str, Any],
    whose: str,
    *,
    defaults: Mapping[str, Any] | None = None,
    others: Iterable[str] = (),
) -> Config:
    """A configuration with some fields given.

    Args:
        kind: the configuration's class.
        values: by name, as YAML or a user gives them.
        whose: "agent xql", for messages.
        defaults: what a variant of the agent changes of the class's own defaults.
        others: further names that are known elsewhere, to suggest.

    Raises:
        InputError: an unknown name (the nearest is suggested), a value of the wrong type, or a
            number out of range.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    checked = dict(defaults or {})
    for name, value in values.items():
        if name not in known:
            raise InputError(
                f"unknown option {brief(name)} of {whose}",
                hint=nearest(str(name)[:80], (*known, *others)),
            )
        field = known[name]
        if field.metadata["auto"] and isinstance(value, str) and value == AUTO:
            checked[name] = AUTO
            continue
        wanted = float if field.metadata["swept"] else field.type
        if field.metadata["auto"] and not is_number(value):
            hint = f"it takes a {_swept_type(field)}"
            raise InputError(f"option {name} cannot be {brief(value)}", hint=hint)
        checked[name] = _coerce(name, value, wanted)
        check_range(name, checked[name], field.metadata["range"])
    return kind(**checked)


def check_range(name: str, value: Any, range: Range) -> None:
    """Check every number in a value.

    Raises:
        InputError: one lies outside the range.
    """
    if isinstance(value, tuple) and not LAYERS.holds(len(value)):
        raise InputError(f"option {name} has {len(value)} numbers", hint=f"give {LAYERS.text}")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not range.holds(number):
            raise InputError(f"option {name} cannot be {brief(value)}", hint=f"give {range.text}")


def _coerce(name: str, value: Any, wanted: Any) -> Any:
    """`value` as the field's type, where it is that without loss."""
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    for option in options:
        origin = typing.get_origin(option)
        if origin is typing.Literal and isinstance(value, str) and value in typing.get_args(option):
            return value
        if origin is tuple and isinstance(value, list | tuple) and value:
            inner = typing.get_args(option)[0]
            return tuple(_coerce(name, item, inner) for item in value)
        # The command line reads YAML, which writes it null; messages and pages say None.
        none = isinstance(value, str) and value in ("none", "None")
        if option is type(None) and (value is None or none):
            return None
        if option is bool and isinstance(value, bool):
            return value
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option is float and is_number(value):
            return float(value)
    raise InputError(
        f"option {name} cannot be {brief(value)}", hint=f"it takes {_type_name(wanted)}"
    )


def _swept_type(field: dataclasses.Field[Any]) -> str:
    return "number or 'auto'" if field.metadata["auto"] else "number"


def _type_name(wanted: Any) -> str:
    if wanted is type(None):
        return "None"
    if typing.get_origin(wanted) is typing.Literal:
        return " or ".join(f"'{one}'" for one in typing.get_args(wanted))
    if isinstance(wanted, types.UnionType):
        return " or ".join(map(_type_name, typing.get_args(wanted)))
    return str(wanted) if typing.get_origin(wanted) else str(wanted.__name__)
