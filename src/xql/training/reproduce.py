"""Make a run again from its folder, and compare the two."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from xql.envs.given import NO_ENVIRONMENT, Given
from xql.errors import InputError
from xql.runs import origin
from xql.runs.config import VERSION
from xql.runs.differences import Outcome, Part, compare_outcomes, outcome_of
from xql.runs.folder import RunFolder
from xql.runs.run import Run
from xql.training.offline import execute_offline
from xql.training.online import execute_online
from xql.training.reopen import Source, plan_again
from xql.version import __version__


class Reproduction(NamedTuple):
    """A run that was made again, and how it compares with the first."""

    run: Run
    """The new one."""
    parts: tuple[Part, ...]
    """What was compared."""
    making: tuple[str, ...]
    """What was different in how they were made, or is not known of it, a line each."""

    @property
    def same(self) -> bool:
        """Whether every number is the same, bit for bit."""
        return all(part.same for part in self.parts)

    def describe(self) -> str:
        """The comparison in words, one line for each part."""
        if self.same:
            lines = ["the same bits:", *(f"  {part.name}: {part.text}" for part in self.parts)]
        else:
            lines = ["not the same:"]
            for part in self.parts:
                text = f"the same ({part.text})" if part.same else part.text
                lines.append(f"  {part.name}: {text}")
        if self.making:
            lines += ["how they were made:", *(f"  {one}" for one in self.making)]
        else:
            lines.append("made with the same versions, on the same kind of machine")
        return "\n".join(lines)


def reproduce(
    run: Path | str,
    *,
    out: Path | str | None = None,
    data: Source | None = None,
    env: Given | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    progress: bool = True,
) -> Reproduction:
    """Make a run again from its config.yaml, and compare the two.

    Nothing is resolved again: neither a preset, nor scaling, nor bounds. The same machine, versions
    and number of cores give the same bits; `making` says how these differ.

    Args:
        run: the run's folder, which is only read.
        out: the new run's folder, which must not exist; where None, runs/DATA-AGENT-N.
        data: an offline run's data, where it lies elsewhere now or was given as arrays.
        env: the run's own environment, named again: needed where it was an instance or a nameless
            factory, or "module:id", which no run folder is trusted with.
        env_kwargs: its arguments; those of the run where None.
        trust: packages and ids of environments that the run may name besides those of
            `xql.envs.trusted.PACKAGES`.
        progress: show a progress bar on standard error.

    Raises:
        InputError: no run, or one that was not finished; or its data or environment cannot be used.
            Nothing is written then.
        EnvironmentFault: the environment failed in an evaluation; the new run is kept.
    """
    folder = RunFolder.open(Path(run))
    if out is not None:
        RunFolder.require_free(Path(out))
    if folder.config.finetune is not None:
        raise InputError(
            "a fine-tuned run began with the networks of another one",
            where=str(run),
            hint="fine-tune that one again, and compare the two",
        )
    then = _finished(folder)
    config = replace(folder.config, trust=tuple(trust), xql=__version__, version=VERSION)
    if isinstance(env, str) and env == NO_ENVIRONMENT:
        raise InputError(
            "no simulator: no scores, and a run is compared by its scores too",
            where="`env=none`",
            hint="leave it out",
        )
    config = config.with_environment(str(run), env, env_kwargs)
    if config.online:
        if data is not None:
            raise InputError("an online run has no data", where=str(run), hint="leave out `data`")
        again = execute_online(config, out, progress=progress, report=False)
    else:
        plan = plan_again(config, folder.path, data)
        opened = replace(
            config.data, source=plan.dataset.source, fingerprint=plan.dataset.fingerprint()
        )
        plan = plan._replace(config=replace(config, data=opened))
        again = execute_offline(plan, out, progress=progress, report=False)
    parts = compare_outcomes(then, outcome_of(RunFolder.open(again.path)))
    return Reproduction(again, tuple(parts), tuple(_making(folder, again)))


def _finished(folder: RunFolder) -> Outcome:
    """A run's outcome at its last step.

    Raises:
        InputError: it has not got there, or only a part of its log is kept.
    """
    if not (folder.path / "metrics.jsonl").is_file():
        raise InputError(
            "only a part of this run's log is kept, so that nothing can be compared",
            where=str(folder.path),
            hint="give the folder that the run wrote",
        )
    outcome = outcome_of(folder)
    if outcome.step != folder.config.steps:
        raise InputError(
            f"its latest checkpoint is of step {outcome.step:,} of {folder.config.steps:,}",
            where=str(folder.path),
            hint="resume it first: what is compared is a whole run",
        )
    return outcome


def _making(folder: RunFolder, again: Run) -> list[str]:
    """What was different in how two runs were made, or is not known of it, a line each."""
    sessions, new_sessions = origin.read(folder.path), origin.read(again.path)
    found = []
    if not sessions:
        found.append(
            f"{folder.path} has no {origin.FILE} (xql {folder.config.xql or 'unknown'} made it): "
            "with which versions, and on which machine, is not known"
        )
    if not folder.config.online and folder.config.data.fingerprint is None:
        found.append("its data has no fingerprint: only counts and the mean return were compared")
    if len(sessions) > 1:
        found.append(f"the first run was made in {len(sessions)} sessions")
    if any(map(origin.is_uncommitted, (*sessions, *new_sessions))):
        found.append("xql ran from a checkout with changes that are in no commit")
    return found + origin.differences(sessions, new_sessions)
