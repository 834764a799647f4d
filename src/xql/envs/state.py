"""The whole state of a simulator as plain arrays, so that it goes on in the middle of an episode.

Gymnasium has no such thing, and pickle would run what a stranger's run folder says. Here the
objects of an environment are walked from its outermost wrapper: wrappers, tasks, random generators,
counters, MuJoCo's model and data. What is found is written down as numbers and JSON, with which
object is which, and put back into an environment that was made in the same way, attribute by
attribute. Where anything is met that might hold state and cannot be written down, nothing is saved:
a new episode is better than one that goes on wrongly. Not seen, and not saved, is what lies outside
of the environment's own objects: attributes of its classes, variables of its modules, the global
generators of NumPy and Python, the order of a set.
"""

import collections
import enum
import json
import random
import types
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, Generic

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from xql.data.reading import parse_json
from xql.envs import mujoco_state
from xql.envs.checked import name_of, reset
from xql.errors import InputError

_PACKAGES = ("gymnasium", "gymnasium_robotics", "dm_control", "xql")
"""Objects of their classes are walked, and those of the environment's own package."""

_ARGUMENTS = (
    "spec",
    "metadata",
    "_cached_spec",
    "_ezpickle_args",
    "_ezpickle_kwargs",
    "_saved_kwargs",
)
"""Attributes that say how an environment was made."""

_STATIC = (type, types.ModuleType, np.dtype, np.ufunc, PurePath, EnvSpec, WrapperSpec)
_STATIC_MODULES = (
    "_thread",  # locks
    "dm_control.mujoco.index",  # names for the arrays of MjData
    "dm_env.specs",
    "gymnasium.envs.mujoco.mujoco_rendering",
)
_STATIC_NAMES = (
    "dm_control.mujoco.engine.Contexts",
    "dm_control.mujoco.engine.NamedIndexStructs",
)
"""What holds no state, or only pictures: it is left as it is."""

_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    one.__name__: one for one in (list, tuple, set, frozenset, dict, collections.OrderedDict)
}
_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_PLAIN = (bool, int, float, str)
_NUMBERS = "biufcSU"
"""Kinds of arrays; not objects."""


class _UnsavableError(Exception):
    """Something that may hold state cannot be written down."""


def simulator_state(env: gymnasium.Env[Any, Any]) -> dict[str, np.ndarray] | None:
    """Everything that the next steps and episodes of an environment depend on.

    Returns:
        Two arrays of bytes: "graph", JSON, and "numbers", the contents of all arrays. None where
        something that may hold state cannot be saved.
    """
    try:
        saver = _Saver(env)
        root = saver.refer(env)
    except Exception:  # as well as ours, whatever somebody's object raises when it is looked at
        return None
    graph = json.dumps([root, saver.nodes]).encode()
    return {
        "graph": np.frombuffer(graph, np.uint8),
        "numbers": np.frombuffer(b"".join(saver.numbers), np.uint8),
    }


def restore_simulator(env: gymnasium.Env[Any, Any], state: dict[str, np.ndarray]) -> None:
    """Put an environment where another of the same making stood.

    Args:
        env: made as the saved one was. It is reset on the way.
        state: from `simulator_state`.

    Raises:
        InputError: the state is of another environment, or of another release of its packages; the
            environment is then of no use until its next reset with a seed.
        EnvironmentFault: the environment cannot be reset.
    """
    reset(env, seed=0)  # some make their attributes here
    try:
        root, nodes = parse_json(bytes(state["graph"]).decode())
        restorer = _Restorer(nodes, bytes(state["numbers"]))
        if restorer.value(root, env) is not env:
            raise ValueError("another root")
        restorer.finish()
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"the saved state is of another environment or of another release of it ({error})",
            where=name_of(env),
            hint="start a new episode",
        ) from None


class _Saver:
    """Writes objects down as nodes, each once, in the order in which they are met.

    A reference is None, a plain value, or the number of a node in a list of its own.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.nodes: list[Any] = []
        self.numbers: list[bytes] = []
        self._size = 0
        self._index: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is of one object only while that lives
        self._bits: set[int] = set()
        self._packages = set(_PACKAGES)
        layer: Any = env
        while layer is not None:
            self._packages.add(_package(layer))
            layer = vars(layer).get("env") if isinstance(layer, gymnasium.Wrapper) else None

    def refer(self, value: Any) -> Any:
        """The reference of a value, whose node is made where there is none yet."""
        if value is None or type(value) in _PLAIN:
            return value
        if id(value) not in self._index:
            index = self._index[id(value)] = len(self.nodes)
            self._kept.append(value)
            self.nodes.append(None)
            self.nodes[index] = self._node(value)
        return [self._index[id(value)]]

    def _node(self, value: Any) -> list[Any]:
        kind = type(value)
        if kind is np.ndarray:
            return self._array(value)
        if isinstance(value, np.generic):
            return ["scalar", *self._write(np.asarray(value))]
        if kind in (dict, collections.OrderedDict):
            pairs = [[self._key(key), self.refer(item)] for key, item in value.items()]
            return [kind.__name__, pairs]
        if kind in (set, frozenset):
            return [kind.__name__, [self._key(item) for item in value]]
        if kind in (list, tuple):
            return [kind.__name__, [self.refer(item) for item in value]]
        if kind is collections.deque:
            return ["deque", [self.refer(item) for item in value], value.maxlen]
        if isinstance(value, enum.Enum):
            return ["enum", _name(value), value.name]
        if isinstance(value, tuple) and hasattr(kind, "_make") and not _static(value):
            return ["named", _name(value), [self.refer(item) for item in value]]
        if kind in (np.random.Generator, np.random.RandomState, random.Random):
            return self._random(value)
        if kind.__module__ == "mujoco._structs":
            return self._mujoco(value)
        if kind in (types.MethodType, types.BuiltinMethodType) and not _static(value):
            return ["method", _method(value), self.refer(value.__self__)]
        if _static(value):
            return ["static", _label(value)]
        if isinstance(value, gymnasium.Env) or _package(value) in self._packages:
            return self._object(value)
        raise _UnsavableError(_name(value))

    def _object(self, value: Any) -> list[Any]:
        for one in type(value).__mro__[:-1]:
            # A compiled class, or a built-in one, has state that no attribute shows.
            if one is not Generic and isinstance(vars(one).get("__new__"), types.BuiltinMethodType):
                raise _UnsavableError(_name(value))
            # One generator for all the objects of a class belongs to none of them.
            if any(_draws(shared) for shared in vars(one).values()):
                raise _UnsavableError(f"random numbers of the class {one.__qualname__}")
        attributes, slots = _attributes(value)
        items = (attributes | slots).items()
        return [
            "object",
            _name(value),
            {name: self.refer(one) for name, one in items if name not in _ARGUMENTS},
        ]

    def _key(self, key: Any) -> Any:
        if not (key is None or isinstance(key, (*_PLAIN, tuple, np.generic))):
            raise _UnsavableError(_name(key))
        return self.refer(key)

    def _array(self, value: np.ndarray) -> list[Any]:
        owner = _owner(value)
        if _in_mujoco(owner):
            # Its numbers are there to compare.
            return ["window", *self._write(value)]
        if owner.base is not None and not isinstance(owner.base, bytes):
            raise _UnsavableError(_name(owner.base))
        if owner is value:
            axes = sorted(range(value.ndim), key=lambda axis: -value.strides[axis])
            return ["array", *self._write(value.transpose(axes)), axes]
        if not owner.flags.c_contiguous:
            raise _UnsavableError("a view of an array in another order")
        root = self.refer(owner)
        offset = value.ctypes.data - owner.ctypes.data
        self._check(value)
        return ["view", root, value.dtype.str, value.shape, offset, value.strides]

    def _check(self, value: np.ndarray) -> None:
        if value.dtype.kind not in _NUMBERS:
            raise _UnsavableError(f"an array of {value.dtype}")

    def _write(self, value: np.ndarray) -> list[Any]:
        self._check(value)
        start = self._size
        self.numbers.append(value.tobytes())
        self._size += value.nbytes
        return [value.dtype.str, value.shape, start]

    def _random(self, value: Any) -> list[Any]:
        if isinstance(value, random.Random):
            return ["random", "random.Random", self.refer(value.getstate()), None]
        old = isinstance(value, np.random.RandomState)
        bits = value._bit_generator if old else value.bit_generator
        kind = type(bits).__name__
        if kind not in _GENERATORS or id(bits) in self._bits:
            raise _UnsavableError(kind)
        self._bits.add(id(bits))
        self._kept.append(bits)
        if old:
            return [
                "random",
                f"RandomState.{kind}",
                self.refer(value.get_state(legacy=False)),
                None,
            ]
        seeds, spawns = bits.seed_seq, None
        if type(seeds) is np.random.SeedSequence:
            # Generators that are spawned later are made of these.
            made = [seeds.entropy, seeds.spawn_key, seeds.n_children_spawned]
            if seeds.pool_size != np.random.SeedSequence().pool_size:
                raise _UnsavableError("a seed sequence of another size")
            spawns = self.refer(made)
        return ["random", f"Generator.{kind}", self.refer(bits.state), spawns]

    def _mujoco(self, value: Any) -> list[Any]:
        kind = type(value).__name__
        if kind == "MjModel" and mujoco_state.savable(value):
            numbers = self._write_all(mujoco_state.model_numbers(value))
            return ["model", numbers, mujoco_state.model_checksum(value)]
        if kind == "MjData":
            model = self.refer(value.model)
            numbers = self._write_all(mujoco_state.data_numbers(value))
            return ["data", numbers, mujoco_state.data_flags(value), model]
        raise _UnsavableError(kind)

    def _write_all(self, numbers: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        return {name: self._write(value) for name, value in numbers.items()}


class _Restorer:
    """Puts nodes back into the objects that stand in the same places of another environment."""

    def __init__(self, nodes: list[Any], numbers: bytes) -> None:
        self._nodes, self._numbers = nodes, numbers
        self._built: dict[int, Any] = {}
        self._taken: set[int] = set()
        self._last: list[Callable[[], None]] = []

    def value(self, reference: Any, there: Any) -> Any:
        """What a reference stands for.

        Args:
            reference: of a saved value.
            there: what stands in its place in this environment; None where nothing does.
        """
        if not isinstance(reference, list):
            return reference
        (index,) = reference
        if index not in self._built:
            kind, *rest = self._nodes[index]
            build: Any = getattr(self, f"_build_{kind}", None)
            if kind in _CONTAINERS:
                self._build_container(index, there, kind, *rest)
            elif build is None:
                raise ValueError(f"a {kind}")
            else:
                self._built[index] = build(index, there, *rest)
        return self._built[index]

    def finish(self) -> None:
        """Put MuJoCo's data back, once its models and all else are."""
        for act in self._last:
            act()

    def _build_container(self, index: int, there: Any, kind: str, items: list[Any]) -> None:
        if kind in ("dict", "OrderedDict"):
            built = self._built[index] = _CONTAINERS[kind](())
            before = there if isinstance(there, dict) else {}
            for key, item in items:
                name = self.value(key, None)
                built[name] = self.value(item, before.get(name))
        elif kind == "list":
            built = self._built[index] = []
            built.extend(self._each(items, there))
        else:
            self._built[index] = _CONTAINERS[kind](self._each(items, there))

    def _each(self, items: list[Any], there: Any) -> Iterator[Any]:
        before = list(there) if isinstance(there, list | tuple | collections.deque) else []
        before += [None] * (len(items) - len(before))
        return (self.value(item, one) for item, one in zip(items, before, strict=False))

    def _build_deque(self, index: int, there: Any, items: list[Any], most: int | None) -> Any:
        return collections.deque(self._each(items, there), most)

    def _build_object(self, index: int, there: Any, name: str, attributes: dict[str, Any]) -> Any:
        self._take(there, name)
        self._built[index] = there
        own, slots = _attributes(there)
        for gone in (own.keys() | slots.keys()) - attributes.keys() - set(_ARGUMENTS):
            object.__delattr__(there, gone)
        for key, reference in attributes.items():
            value = self.value(reference, own.get(key, slots.get(key)))
            # No property's code is run.
            if isinstance(getattr(type(there), key, None), types.MemberDescriptorType):
                object.__setattr__(there, key, value)
            else:
                vars(there)[key] = value
        return there

    def _build_enum(self, index: int, there: Any, name: str, member: str) -> Any:
        _same(there, name)
        return type(there)[member]

    def _build_named(self, index: int, there: Any, name: str, items: list[Any]) -> Any:
        _same(there, name)
        return type(there)._make(self._each(items, there))

    def _build_static(self, index: int, there: Any, label: str) -> Any:
        if _label(there) != label:
            raise ValueError(f"{_label(there)} in the place of {label}")
        return there

    def _build_method(self, index: int, there: Any, label: str, owner: Any) -> Any:
        if _method(there) != label:
            raise ValueError(f"{_method(there)} in the place of {label}")
        built = self.value(owner, there.__self__)
        if isinstance(there, types.MethodType):
            return types.MethodType(there.__func__, built)
        return getattr(built, there.__name__)

    def _build_random(self, index: int, there: Any, kind: str, state: Any, spawns: Any) -> Any:
        numbers = self.value(state, None)
        if kind == "random.Random":
            made = random.Random()
            made.setstate(numbers)
            return made
        family, _, name = kind.partition(".")
        if name not in _GENERATORS:
            raise ValueError(f"a generator {kind}")
        # NumPy believes these two positions in blocks of 4 and of 624 numbers.
        if not (
            0 <= numbers.get("buffer_pos", 0) <= 4 and 0 <= numbers["state"].get("pos", 0) <= 624
        ):
            raise ValueError(f"a generator {kind} beyond its end")
        seeds = None
        if spawns is not None:
            entropy, key, children = self.value(spawns, None)
            seeds = np.random.SeedSequence(entropy, spawn_key=key, n_children_spawned=children)
        bits = getattr(np.random, name)(seeds)
        if family == "RandomState":
            old = np.random.RandomState(bits)
            old.set_state(numbers)
            return old
        bits.state = numbers
        return np.random.Generator(bits)

    def _build_scalar(self, index: int, there: Any, *written: Any) -> Any:
        return self._read(*written)[()]

    def _build_array(
        self, index: int, there: Any, dtype: str, shape: list[int], start: int, axes: list[int]
    ) -> Any:
        block = self._read(dtype, shape, start)
        return block if axes == sorted(axes) else block.transpose(np.argsort(axes))

    def _build_view(
        self, index: int, there: Any, root: Any, dtype: str, shape: Any, offset: int, strides: Any
    ) -> Any:
        return np.ndarray(shape, _dtype(dtype), self.value(root, None), offset, strides)

    def _build_window(self, index: int, there: Any, *written: Any) -> Any:
        expected = self._read(*written)

        def check() -> None:
            same = there.dtype == expected.dtype and there.shape == expected.shape
            if not (same and _in_mujoco(_owner(there)) and there.tobytes() == expected.tobytes()):
                raise ValueError("another view of MuJoCo's data")

        self._last.append(check)
        return there

    def _build_model(self, index: int, there: Any, numbers: Any, checksum: int) -> Any:
        self._take(there, "mujoco._structs.MjModel")
        if checksum != mujoco_state.model_checksum(there):
            raise ValueError("another model")
        mujoco_state.put_numbers(there, self._read_all(numbers, mujoco_state.model_numbers(there)))
        return there

    def _build_data(self, index: int, there: Any, numbers: Any, flags: Any, model: Any) -> Any:
        self._take(there, "mujoco._structs.MjData")
        self.value(model, there.model)
        read = self._read_all(numbers, mujoco_state.data_numbers(there))
        self._last.insert(0, lambda: mujoco_state.put_data(there, read, flags))
        return there

    def _read_all(self, numbers: Any, expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by name, where they have the names, the shapes and the kinds of others."""
        read = {name: self._read(*written) for name, written in numbers.items()}
        shapes = [{name: (v.shape, v.dtype) for name, v in one.items()} for one in (read, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError("another model")
        return read

    def _read(self, dtype: str, shape: list[int], start: int) -> np.ndarray:
        size = int(np.prod(shape, dtype=object))
        if start < 0 or size < 0:
            raise ValueError("a negative size")
        kind = _dtype(dtype)
        if not size:
            return np.empty(shape, kind)
        return np.frombuffer(self._numbers, kind, size, start).reshape(shape).copy()

    def _take(self, there: Any, name: str) -> None:
        if id(_same(there, name)) in self._taken:
            raise ValueError(f"one {name} for two")
        self._taken.add(id(there))


def _attributes(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An object's attributes in its dictionary and in its slots, whatever its class pickles."""
    state = object.__getstate__(value)
    both = state if isinstance(state, tuple) else (state, None)
    return both[0] or {}, both[1] or {}


def _draws(value: Any) -> bool:
    if isinstance(value, gymnasium.Space):
        return value._np_random is not None
    return isinstance(value, np.random.Generator | np.random.RandomState | random.Random)


def _static(value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        plain = all(one is None or type(one) in _PLAIN or _static(one) for one in _cells(value))
        return plain and not vars(value)
    if isinstance(value, types.BuiltinFunctionType):
        return value.__self__ is None or isinstance(value.__self__, types.ModuleType)
    if isinstance(value, types.MethodType):
        return isinstance(value.__self__, type)
    name = type(value).__module__
    return isinstance(value, _STATIC) or name in _STATIC_MODULES or _name(value) in _STATIC_NAMES


def _cells(function: types.FunctionType) -> list[Any]:
    """What a function has kept of the one that it was made in."""
    return [cell.cell_contents for cell in function.__closure__ or ()]


def _label(value: Any) -> str:
    """What tells one function, class or path from another."""
    if isinstance(value, np.dtype | PurePath):
        return f"{_name(value)} {value}"
    own = [getattr(value, name, "") for name in ("__module__", "__name__", "__qualname__")]
    if isinstance(value, types.FunctionType):
        cells = [repr(one) if type(one) in _PLAIN else _label(one) for one in _cells(value)]
        own += [str(value.__code__.co_firstlineno), *cells]
    return " ".join([_name(value), *map(str, own)])


def _method(value: Any) -> str:
    return _label(getattr(value, "__func__", value))


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _same(there: Any, name: str) -> Any:
    """`there`, where its class has this name."""
    if _name(there) != name:
        raise ValueError(f"{_name(there)} in the place of {name}")
    return there


def _package(value: Any) -> str:
    return str(type(value).__module__).partition(".")[0]


def _owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory this one shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _in_mujoco(owner: np.ndarray) -> bool:
    return type(owner.base).__name__ == "PyCapsule"


def _dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.kind not in _NUMBERS:
        raise ValueError(f"an array of {dtype}")
    return dtype
