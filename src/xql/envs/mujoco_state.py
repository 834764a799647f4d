"""The numbers of MuJoCo's model and data: which of them are state, and how to put them back.

Derived numbers (positions of bodies, contact forces, sensors) are those of the moment before the
last integration, and tasks read them before the next step, so that `qpos`, `qvel` and a call of
`mj_forward` are not enough: every array of MjData is put back as it was. What MuJoCo allocates at
each step, such as contacts, is found anew. Integers index memory, and no file is trusted with them:
those of MjModel are compared, those of MjData found anew.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_FIXED = ("mesh_", "bvh_", "oct_")
"""Large, and written by no task."""

_PICTURES = ("tex_", "skin_", "mat_", "light_", "cam_", "names")
_FLAGS = ("flg_energypos", "flg_energyvel", "flg_subtreevel", "flg_rnepost")
_SLEEP = 1 << 4  # mjENBL_SLEEP


def savable(model: Any) -> bool:
    """Whether all state is in numbers: not that of plugins, of delays, and of sleeping bodies."""
    delays = getattr(model, "nhistory", 0)
    return not (model.nplugin or delays or model.opt.enableflags & _SLEEP)


def model_numbers(model: Any) -> dict[str, np.ndarray]:
    """What tasks write into MjModel: places, sizes, masses, options."""
    numbers = {name: value for name, value in _arrays(model) if _written(name, value)}
    options = ((name, np.asarray(value)) for name, value in _fields(model.opt))
    return numbers | {f"opt.{name}": value for name, value in options if value.dtype.kind == "f"}


def model_checksum(model: Any) -> int:
    """Of all else in MjModel that bodies move by; `model_numbers` fit only where it is the same."""
    total = 0
    for name, value in _arrays(model):
        if not _written(name, value) and not name.startswith(_PICTURES):
            total = zlib.crc32(np.ascontiguousarray(value).data, total)
    options = [value for _, value in _fields(model.opt) if isinstance(value, int)]
    return zlib.crc32(repr(options).encode(), total)


def data_numbers(data: Any) -> dict[str, np.ndarray]:
    """All of MjData but integers, and what MuJoCo allocates at each step."""
    import mujoco

    fresh = mujoco.MjData(data.model)
    numbers = {
        name: value
        for name, value in _arrays(data)
        if value.dtype.kind == "f"
        and value.size
        and getattr(fresh, name).shape == value.shape
        # An array without memory of its own, for now, is made for each reader.
        and np.shares_memory(value, getattr(data, name))
    }
    return numbers | {
        "time": np.asarray(data.time),
        "eq_active": data.eq_active,
        "warning.number": data.warning.number,
    }


def data_flags(data: Any) -> dict[str, bool]:
    """Which of the numbers that MuJoCo derives only when asked are up to date."""
    return {name: bool(getattr(data, name)) for name in _FLAGS if hasattr(data, name)}


def put_numbers(struct: Any, numbers: Mapping[str, np.ndarray]) -> None:
    """Write numbers of the same shapes into a model, or into data."""
    for name, value in numbers.items():
        owner, _, field = name.rpartition(".")
        place = getattr(struct, owner) if owner else struct
        if value.ndim:
            getattr(place, field)[...] = value
        else:
            setattr(place, field, value.item())


def put_data(data: Any, numbers: Mapping[str, np.ndarray], flags: Mapping[str, bool]) -> None:
    """Put MjData where it was. Its model must be there already."""
    import mujoco

    put_numbers(data, numbers)
    # dm_control's step begins in the middle of MuJoCo's, with the contacts that this call finds.
    mujoco.mj_forward(data.model, data)
    put_numbers(data, numbers)
    for name in _FLAGS:
        if name in flags:
            setattr(data, name, bool(flags[name]))


def _written(name: str, value: np.ndarray) -> bool:
    return value.dtype.kind == "f" and not name.startswith((*_FIXED, *_PICTURES))


def _fields(struct: Any) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(struct, name)) for name in dir(struct) if not name.startswith("_"))


def _arrays(struct: Any) -> Iterator[tuple[str, np.ndarray]]:
    return ((name, value) for name, value in _fields(struct) if isinstance(value, np.ndarray))
