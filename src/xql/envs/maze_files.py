"""The files that Gymnasium-Robotics leaves of its mazes, one for each environment that is made."""

import contextlib
import re
import tempfile
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")


def without_maze_file(env: Made) -> Made:
    """The same environment, without the file that its maze was read from.

    Gymnasium-Robotics writes the model of a maze into the folder for temporary files, under a name
    of its own that it keeps. MuJoCo has read it by then; a copy of the environment writes another.
    """
    simulator: Any = getattr(env, "unwrapped", env)
    written = getattr(simulator, "tmp_xml_file_path", None)
    if isinstance(written, str):
        path = Path(written)
        # v3 and before have one name for all, which another process may be reading.
        own = re.fullmatch(r"ant_maze\d+\.\d+\.xml", path.name)
        if own and path.parent == Path(tempfile.gettempdir()):
            with contextlib.suppress(OSError):
                path.unlink()
    return env
