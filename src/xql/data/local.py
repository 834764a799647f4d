"""Which Minari datasets lie on this machine, found without opening one, so that it is quick."""

import os
from pathlib import Path


def local_root() -> Path:
    """The folder that Minari keeps its datasets in."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return Path(root) if root else Path.home() / ".minari" / "datasets"


def local_names() -> list[str]:
    """The datasets that are on this machine."""
    root = local_root()
    if not root.is_dir():
        return []
    found = root.glob("**/data/metadata.json")
    return sorted(path.parent.parent.relative_to(root).as_posix() for path in found)
