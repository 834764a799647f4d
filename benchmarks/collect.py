"""How fast data is made, writing included, against the simulator alone.

`python -m benchmarks.collect [NAME] [transitions] [policy file]`, NAME as `xql data make` takes it,
of data whose size is said in transitions.
The simulator alone is one copy of the environment stepped with the very actions that were logged,
measured before and after the making of the data. AntMaze's trials are left out of the making.
Seconds are this process's own on the processor, so that other processes matter little.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np

from xql.cli.make import kinds

ALONE = 10_000
"""Steps of the simulator alone."""


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "pointmaze-medium"
    transitions = int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
    policy = [Path(file) for file in sys.argv[3:4]]
    kind = kinds()[name]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder

        def make(wanted: int, dataset_id: str) -> str:
            few = {"trials": 1, "least_success": 0.0} if name.startswith("antmaze") else {}
            return kind.make(
                kind.what,
                *policy,
                transitions=wanted,
                seed=0,
                noise=kind.noise,
                dataset_id=dataset_id,
                **few,
            )

        # The first build takes the time of the imports too.
        warm = minari.load_dataset(make(min(ALONE, transitions), "benchmark/warm-up-v0"))
        env = warm.recover_environment()
        actions = [episode.actions for episode in warm.iterate_episodes()]
        before = alone(env, actions)
        began = time.process_time()
        make(transitions, "benchmark/data-v0")
        making = transitions / (time.process_time() - began)
        after = alone(env, actions)
    print(f"{name}: {transitions:,} transitions, {making:,.0f} transitions/s")
    print(f"the simulator alone: {before:,.0f} and {after:,.0f} steps/s before and after")
    print(f"made at {200 * making / (before + after):.0f} % of their mean")


def alone(env: gymnasium.Env[Any, Any], logs: list[np.ndarray]) -> float:
    """Steps per second of the environment alone."""
    began = time.process_time()
    for number, actions in enumerate(logs):
        env.reset(seed=number)
        for action in actions:
            env.step(action)
    return sum(map(len, logs)) / (time.process_time() - began)


if __name__ == "__main__":
    main()
