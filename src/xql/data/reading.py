"""What every reader asks before it opens a file, asks for memory, or believes a text.

A path may lead to a pipe that nobody writes to, a header may declare more numbers than any machine
holds, and a JSON text may be nested so deeply that Python gives up.
"""

import errno
import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xql.data.stored import is_on_disk
from xql.errors import InputError

DEEPEST = 64
"""Levels of nested dictionaries and lists: far below those at which Python gives up."""

SPARE = 1 << 30
"""Bytes that a file may declare for an array and need not have: any machine can give them."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_RATIO = 1100  # deflate, the common filter of all formats here, makes at most 1032 bytes of one


def require_file(path: Path, hint: str = "check the path") -> Path:
    """`path`, where a plain file lies there or a link to one.

    Of anything else, opening or reading may never end.

    Raises:
        InputError: nothing is there, or a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        what = "a link to a file that is not there" if path.is_symlink() else "no such file"
        raise InputError(f"there is {what}", where=str(path), hint=hint) from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG):
            what = f"there is no such file ({error.strerror})"
            raise InputError(what, where=str(path), hint=hint) from None
        raise unreadable(path, error) or error from None
    except ValueError:  # a NUL, or half a surrogate pair
        raise InputError("no file has such a name", where=str(path), hint=hint) from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        hint = "give a file in it" if stat.S_ISDIR(mode) else "give a file"
        raise InputError(f"this is {kind}", where=str(path), hint=hint)
    return path


def require_files(folder: Path) -> int:
    """The bytes of all files in a folder and below it, which holds nothing but files and folders.

    Raises:
        InputError: something in it is a pipe, a socket, a device or a link to nothing.
    """
    files = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]
    return sum(require_file(path).stat().st_size for path in files)


def unreadable(path: Path, error: Exception) -> InputError | None:
    """What to say of an error of the operating system's (no permission, a bad disk), else None."""
    # A part of the data that is not there is damage, and not the operating system's doing.
    if not isinstance(error, OSError) or not error.errno or isinstance(error, FileNotFoundError):
        return None
    what = f"it cannot be read ({os.strerror(error.errno)})"
    return InputError(what, where=str(path), hint="see to its permissions or its disk")


def require_room(sizes: Mapping[str, tuple[int, int]], where: str) -> None:
    """Check that arrays can be what a file declares, before memory is asked for.

    Args:
        sizes: by the array's name, the bytes that it takes in memory and those that it has in the
            file, where they may be compressed.
        where: the file, for the message.

    Raises:
        InputError: an array has too few bytes in the file, or all of them need more memory than
            this machine has.
    """
    for name, (declared, stored) in sizes.items():
        if declared > SPARE + _RATIO * stored:
            raise InputError(
                f"'{name}' declares {declared:,} bytes, and the file has {stored:,} for them",
                where=where,
                hint="fetch or write it again",
            )
    needed, memory = sum(declared for declared, _ in sizes.values()), machine_memory()
    if needed > memory and not is_on_disk():
        raise InputError(
            f"its arrays need {needed / 2**30:,.1f} GiB, and this machine has "
            f"{memory / 2**30:,.1f} GiB of memory",
            where=where,
            hint="take a part of the data, or train with `stream=True`",
        )


def machine_memory() -> int:
    """Bytes; more than any machine has where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def parse_json(text: str) -> Any:
    """The value of a JSON text that a file holds.

    Raises:
        ValueError: it is none, names a key twice, is nested too deeply, or holds what is no text.
    """
    try:
        value = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _inside(each)]
    if level:
        raise ValueError("it is nested too deeply")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # no other file could hold it
        raise ValueError("it holds half of a surrogate pair") from None
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a `ValueError` where it names a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key '{twice}' is there twice")
    return found


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, and no integer that is too large for a float."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, float)
