"""How fast data is made: `python -m benchmarks.collect [maze] [transitions]`, writing included."""

import os
import sys
import tempfile
import time
from typing import Any, cast

from xql.collect.pointmaze import make_pointmaze


def main() -> None:
    maze = sys.argv[1] if len(sys.argv) > 1 else "medium"
    transitions = int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        # The first build pays for the imports.
        make_pointmaze(cast(Any, maze), transitions=1, dataset_id="benchmark/warm-up-v0")
        began = time.perf_counter()
        make_pointmaze(cast(Any, maze), transitions=transitions)
        seconds = time.perf_counter() - began
    print(f"pointmaze-{maze}: {transitions:,} transitions in {seconds:.2f} s")
    print(f"{transitions / seconds:,.0f} transitions/s, collecting and writing")


if __name__ == "__main__":
    main()
