"""Execute the notebooks of this folder and write them back with their outputs: `make notebooks`.

Nothing of the machine stays in them: no times, no paths, no versions, and cells are numbered.
"""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
SECONDS = 600
"""That a cell may take."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


def notebooks() -> list[Path]:
    """All of them."""
    return sorted(HERE.glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """The notebook as a fresh kernel leaves it.

    Args:
        path: the notebook, which is not changed.
        folder: an empty one to execute it in, which takes its files, and datasets that it makes.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(
        env=os.environ
        | {
            # `xql` as a command, also where its environment is not activated.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MINARI_DATASETS_PATH": str(folder / "minari"),
        }
    )
    return tidy(notebook)


def tidy(notebook: Any) -> Any:
    """The notebook without what differs from one execution to the next, its pictures made small."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    nbformat.validate(notebook)
    return notebook


def smaller(png: str) -> str:
    """The picture in 64 colours, which a figure of lines does not show, and without metadata."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P":  # it is already
        return png
    file = io.BytesIO()
    picture.convert("RGB").quantize(64).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    """Execute those that are named, or all."""
    for path in [HERE / name for name in sys.argv[1:]] or notebooks():
        print(path.name, file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)


if __name__ == "__main__":
    main()
