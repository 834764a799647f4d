"""A finished run: its folder, its scores, its policies."""

import contextlib
import functools
import importlib
from pathlib import Path
from typing import Any, Literal

import jax

from xql.agents import TrainState, member
from xql.display import html_table
from xql.errors import InputError, nearest, require
from xql.evaluation.statistics import Summary, format_interval
from xql.jax_config import standard_jax
from xql.runs.config import RunConfig
from xql.runs.folder import SMALLER, Evaluation, RunFolder
from xql.runs.policy import HeldValues, Policy, load_population, policy_of
from xql.runs.summary import UNITS, Result, results


class Run:
    """What `train_offline` returns, and `Run.open` brings back.

    Attributes:
        folder: the files.
        population: the whole training state at the last step, every member.
    """

    def __init__(self, folder: RunFolder, population: TrainState) -> None:
        self.folder, self.population = folder, population

    def __repr__(self) -> str:
        return f"Run({', '.join(f'{name}={value!r}' for name, value in self._shown().items())})"

    def _repr_html_(self) -> str:
        return html_table("Run", self._shown())

    def _shown(self) -> dict[str, object]:
        config = self.config
        shown: dict[str, object] = {
            "path": str(self.path),
            "agent": config.agent,
            "data": config.data.name,
            "steps": config.steps,
            "members": len(config.members),
        }
        # The folder may have been moved or removed since.
        with contextlib.suppress(InputError, OSError):
            found = self.results
            if len(found) == 1:
                shown["score"] = _score(found[0], found[0].last)
            elif found:
                shown["settings"] = len(found)
        return shown

    @classmethod
    def open(cls, path: Path | str, step: int | None = None) -> "Run":
        """Come back to a run on disk, at `step` or else its latest checkpoint.

        Raises:
            InputError: no run, or no checkpoint.
        """
        folder = RunFolder.open(Path(path))
        return cls(folder, load_population(folder, step).population)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.folder.config

    @property
    def policy(self) -> Policy:
        """The first member's policy at the last step."""
        return self.policies[0]

    @functools.cached_property
    @standard_jax()
    def policies(self) -> list[Policy]:
        """Every member's policy at the last step, in the order of config.yaml."""
        actors = jax.vmap(self.config.make_agent().actor)(self.population)
        return [
            policy_of(
                self.config,
                member(actors, index),
                HeldValues(self.config, self.population, index),
            )
            for index in range(len(self.config.members))
        ]

    def resume(self, **options: Any) -> "Run":
        """Go on with it; `xql.resume` says with which options."""
        # By name, since training stands above the runs that it makes.
        module = importlib.import_module("xql.training.resume")
        run: Run = module.resume(self.path, **options)
        return run

    def ope(self, data: Any = None, **options: Any) -> Any:
        """Say from logged data whether it is better than what acted there, as `xql.ope` does."""
        module = importlib.import_module("xql.training.ope")
        return module.ope(self.path, data, **options)

    def report(self, path: Path | str | None = None) -> Path:
        """Write an HTML page of it that needs no network and no other file.

        Args:
            path: the page, which is replaced; report.html in the run's folder where None.

        Returns:
            The page.

        Raises:
            InputError: it cannot be written.
            MissingExtra: a package of the extra `report` is not installed.
        """
        # By name, since reports stand above the runs that they show.
        module = importlib.import_module("xql.reports.page")
        page: Path = module.write_page([self.path], path or self.path / module.FILE)
        return page

    @property
    def evaluations(self) -> list[Evaluation]:
        """Every episode that was played, on the way and at the end."""
        return self.folder.read_evaluations()

    @property
    def results(self) -> list[Result]:
        """The score over seeds, at the last step and at each seed's best evaluation.

        One for each combination of the swept hyperparameters.
        """
        rows = self.evaluations
        return results(rows, self.config.members) if rows else []

    def to_dataframe(self, what: Literal["metrics", "evaluations"] = "metrics") -> Any:
        """What was logged, or every evaluation episode, as a pandas data frame.

        Args:
            what: "metrics", a row per step and member and a column per metric; or "evaluations", a
                row per episode. Both have the columns step, member, seed and the swept
                hyperparameters.

        Raises:
            InputError: another word, or a damaged file.
            MissingExtra: pandas is not installed.
        """
        pandas = require("pandas", "pandas")
        members = self.config.members
        if what == "metrics":
            rows = [
                self._row(line.step, index)
                | {
                    name: values[index if len(values) > 1 else 0]
                    for name, values in line.values.items()
                }
                for line in self.folder.read_metrics()
                for index in range(len(members))
            ]
        elif what == "evaluations":
            rows = [
                self._row(one.step, one.member)
                | {
                    "episode": one.episode,
                    "return": one.episode_return,
                    "length": one.length,
                    "score": one.score,
                    "success": one.success,
                }
                for one in self.evaluations
            ]
        else:
            raise InputError(
                f"there are no '{what}'", hint=nearest(what, ("metrics", "evaluations"))
            )
        return pandas.DataFrame(rows)

    def _row(self, step: int, index: int) -> dict[str, Any]:
        member = self.config.members[index]
        return {"step": step, "member": index, "seed": member.seed, **member.changes}

    def describe(self) -> str:
        """The scores in words, one line each."""
        lines = []
        for result in self.results:
            head = f"{result.label}: " if result.changes else ""
            for summary in (result.last, result.best):
                lines.append(f"{head}{_score(result, summary)}, {summary.label}, {summary.sample}")
        for index, one in self.folder.read_rolled_back().items():
            lines.append(
                f"member {index} diverged by step {one.noticed:,} and was put back to step "
                f"{one.step:,}, with learning rates divided by {SMALLER}: it has {one.lost:,} "
                "fewer updates"
            )
        for index, step in self.folder.read_frozen().items():
            lines.append(f"member {index} diverged: it is evaluated as it was at step {step:,}")
        return "\n".join(lines) or "not evaluated"


def _score(result: Result, summary: Summary) -> str:
    return f"{format_interval(summary.interval)} {UNITS[result.quantity]}"
