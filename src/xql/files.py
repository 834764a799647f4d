"""Files written whole or not at all, and the one line for a place that cannot be written to."""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xql.errors import InputError

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.ENAMETOOLONG: "give a shorter name",
}

_NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES, errno.EPERM)
"""What a system says that cannot sync a folder."""


def unwritable(path: Path | str, error: Exception, what: str = "file") -> InputError:
    """The line for a place where nothing can be written: which, what the system says, a remedy.

    Args:
        path: where it should lie.
        error: an `OSError`, or what a library made of one.
        what: it is.
    """
    number = _number_of(error)
    # Libraries put lines of detail around the system's few words.
    reason = os.strerror(number) if number is not None else " ".join(str(error).split())[:200]
    hint = _REMEDIES.get(number or 0, "choose another place")
    return InputError(f"no {what} can be written here ({reason})", where=str(path), hint=hint)


def _number_of(error: BaseException | None) -> int | None:
    """The system's error number in an exception, in what caused it, or in its words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in errno.errorcode:
            return error.errno
        known = (*_REMEDIES, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
        for number in known:
            if os.strerror(number) in str(error):
                return number
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def writing(path: Path | str, what: str = "file") -> Iterator[None]:
    """Turn an `OSError` of the block into one line about `path`.

    Raises:
        InputError: it happened, or no file can have this name.
    """
    try:
        os.fsencode(path)
        if "\0" in str(path):
            raise InputError(f"no {what} can have this name", where=str(path), hint="give another")
    except UnicodeEncodeError:
        raise InputError(
            f"no {what} can have this name", where=str(path), hint="give another"
        ) from None
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, what) from error


def require_new(path: Path, what: str = "file") -> None:
    """Check, before any work, that a file can be made at `path`.

    Raises:
        InputError: something is there, or its folder is missing or cannot be written to.
    """
    with writing(path, what):
        if os.path.lexists(path):
            raise InputError(f"the {what} exists", where=str(path), hint="give another name")
        folder = path.parent
        # Looked at by `stat`, which says why where one may not look, or the name is too long.
        with contextlib.suppress(FileNotFoundError):
            path.stat()
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}", where=str(path), hint="make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"the folder {folder} is not writable",
                where=str(path),
                hint="give another folder, or see to its permissions",
            )


@contextlib.contextmanager
def whole_file(path: Path, what: str = "file", *, replace: bool = False) -> Iterator[Path]:
    """Where to write a file that will lie at `path` when the block has ended.

    It is written beside, and renamed when it is on the disk: a block that is interrupted or fails
    leaves what was at `path`, and nothing beside it, and so does a power cut.

    Args:
        path: the file.
        what: it is, for messages.
        replace: whether it may take the place of one that is there.

    Raises:
        InputError: it cannot be written, or something is there.
    """
    draft = beside(path)
    with writing(path, what):
        try:
            yield draft
            sync_file(draft)
            if replace:
                draft.replace(path)
            else:
                _take_name(draft, path)
            sync_folder(path.parent)
        except FileExistsError:
            raise InputError(
                f"the {what} exists", where=str(path), hint="give another name"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()


def write_text(path: Path, text: str, what: str = "file", *, replace: bool = True) -> None:
    """Write a whole text file, as `whole_file` does.

    Raises:
        InputError: as `whole_file` says.
    """
    with whole_file(path, what, replace=replace) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


def write_texts(folder: Path, texts: Mapping[str, str], what: str = "table") -> None:
    """Write several text files to a folder, made where need be: all of them, or none.

    Raises:
        InputError: as `whole_file` says.
    """
    with made_folder(folder, what), contextlib.ExitStack() as stack:
        for name, text in texts.items():
            draft = stack.enter_context(whole_file(folder / name, what, replace=True))
            draft.write_text(text, encoding="utf-8", newline="")


_NO_DATE: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
}
"""What would make another file of the same figure on another day, or with another matplotlib."""


def save_figure(figure: Any, path: Path, *, vector: bool = False, **options: Any) -> Path:
    """Write a figure of matplotlib's whole, in the place of one that may be there.

    The same figure gives the same bytes. The text of an SVG stays text.

    Args:
        figure: the figure.
        path: its suffix chooses the format; its folder is made.
        vector: whether a .png gets an .svg beside it, for a paper.
        **options: of `savefig`.

    Returns:
        `path`.

    Raises:
        InputError: as `whole_file` says.
    """
    import matplotlib

    path = Path(path)
    paths = [path, path.with_suffix(".svg")] if vector and path.suffix == ".png" else [path]
    with (
        made_folder(path.parent, "figure"),
        contextlib.ExitStack() as stack,
        matplotlib.rc_context({"svg.hashsalt": "xql", "svg.fonttype": "none"}),
    ):
        # All of them, or none.
        for one in paths:
            draft = stack.enter_context(whole_file(one, "figure", replace=True))
            figure.savefig(draft, metadata=_NO_DATE.get(one.suffix), **options)
    return path


def require_writable(folder: Path, what: str = "file") -> None:
    """Check, before any work, that `folder` can be written to, or can be made.

    Raises:
        InputError: a file is in the way, or permissions are.
    """
    with writing(folder, what):
        above = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    reason = ""
    if not above.is_dir():
        reason = f"{above} is a file"
    elif not os.access(above, os.W_OK | os.X_OK):
        reason = f"{above} is not writable"
    if reason:
        what = f"no {what} can be written here ({reason})"
        raise InputError(what, where=str(folder), hint="choose another `out`")


def beside(path: Path) -> Path:
    """A name of its own in the same folder, of the same kind, for what is not whole yet."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}.part{path.suffix}")


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk, where a power cut cannot take it back."""
    with path.open("rb+") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that.

    Windows and some file systems cannot: there the names follow when the system likes.
    """
    with contextlib.ExitStack() as stack:
        try:
            number = os.open(path, os.O_RDONLY)
            stack.callback(os.close, number)
            os.fsync(number)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise


def sync_tree(path: Path) -> None:
    """Wait until a folder is on the disk with all that is in it."""
    for parent, _, names in os.walk(path, topdown=False):
        for name in names:
            sync_file(Path(parent) / name)
        sync_folder(Path(parent))


def put_folder(draft: Path, path: Path) -> None:
    """Rename a whole folder, in the place of one that may be there.

    The old one is called `set_aside(path)` for a moment. A process that is killed in it leaves
    nothing at `path`.

    Raises:
        OSError: it cannot be done; the one that was there stays, also on an interruption.
    """
    old = set_aside(path)
    try:
        if path.exists():
            path.rename(old)
        draft.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    sync_folder(path.parent)
    remove_folder(old)


def set_aside(path: Path) -> Path:
    """What `put_folder` calls a folder that another is to replace."""
    return path.with_name(f".{path.name}.old")


def remove_folder(path: Path) -> None:
    """Remove a folder that may be there, so that a part of it never has its name."""
    draft = beside(path.with_name("removed"))  # not of the suffix of what was set aside
    with contextlib.suppress(OSError):
        path.rename(draft)
        shutil.rmtree(draft)


@contextlib.contextmanager
def made_folder(path: Path, what: str = "folder") -> Iterator[None]:
    """Make a folder for the block to fill, with those above it.

    A block that fails leaves none of the folders that were made for it: it must have removed what
    it wrote, as `whole_file` does.

    Raises:
        InputError: it cannot be made.
    """
    missing = []
    with writing(path, what):
        for one in (path, *path.parents):
            if one.exists():
                break
            missing.append(one)
        try:
            path.mkdir(parents=True, exist_ok=True)
            for one in missing:
                sync_folder(one.parent)
            yield
        except BaseException:
            for one in missing:
                with contextlib.suppress(OSError):
                    one.rmdir()
            raise


def make_own_folder(path: Path) -> None:
    """Make a folder that only its user can use, or see that the one that is there is such.

    Raises:
        OSError: it cannot be made or written to, is somebody else's or a link that somebody else
            made, or others can write to it.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid"):
        owners = {path.lstat().st_uid, path.stat().st_uid}
        if owners != {os.getuid()} or path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _take_name(draft: Path, path: Path) -> None:
    """Give `draft` the name `path`, which nothing may have.

    Raises:
        FileExistsError: something has it; another process may have been faster.
    """
    try:
        # A link fails where the name is taken, which a rename does not.
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:
        # Not every file system has links.
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        draft.rename(path)
