"""`xql report`: runs as one HTML page."""

import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

from xql.cli.console import sign_of_life


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
    out: Path | None = None,
    live: bool = False,
    every: int = 5,
) -> None:
    """Write one HTML page of a run, or of several side by side: scores, curves, data, settings.

    Args:
        runs: run folders, finished or not, or folders of run folders.
        out: the page, which must not exist. Without it report.html: of one run in its folder, where
            it replaces an earlier one, of several in the current folder.
        live: while a run trains, write the page again and let it load itself again, until the run
            ends.
        every: how many seconds lie between two pages then.
    """
    from xql.files import require_new
    from xql.reports.page import FILE, write_page
    from xql.runs.config import require_at_least
    from xql.runs.folder import run_folders
    from xql.runs.lock import is_locked

    require_at_least("every", every, 1)
    sign_of_life(f"reading {', '.join(map(str, runs))}")
    folders = run_folders(runs)
    if out is None and len(folders) == 1:
        path = folders[0] / FILE
    else:
        path = Path(FILE) if out is None else out
        require_new(path, "page")
    # Nothing to compute while training has the machine.
    while live and any(is_locked(folder) for folder in folders):
        write_page(folders, path, refresh=every, recompute=False)
        print(f"report: {path}, written again every {every} s", file=sys.stderr)
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            write_page(folders, path, recompute=False)
            raise
    write_page(folders, path)
    print(f"report: {path}")
