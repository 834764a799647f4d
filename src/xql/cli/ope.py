"""`xql ope` and `xql select`: policies on logged data, without a simulator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from xql.cli.console import plain_console, print_words, result, sign_of_life
from xql.errors import decoration

if TYPE_CHECKING:
    from xql.training.ope import PolicyValue


def ope(
    run: tyro.conf.Positional[Path],
    data: str | None = None,
    member: int = 0,
    step: int | None = None,
    discount: float | None = None,
    sample: bool = False,
    updates: int | None = None,
    replicates: int = 20,
    seed: int = 0,
) -> None:
    """Say from logged data whether a run's policy is better than what acted in the log.

    What was found is left in the run's folder too, as ope.json.

    Args:
        run: the run's folder.
        data: a SOURCE to evaluate on, best one that the run has not learned from. Without it, the
            episodes that it held out (train offline --hold-out), or else the data that it learned
            from.
        member: whose policy.
        step: of the checkpoint or the kept policy; the latest without it.
        discount: of the returns that are estimated; the run's without it.
        sample: let the policy draw its actions, in place of its most likely ones.
        updates: of each critic; without it as many as the discount needs.
        replicates: resamples of the episodes, with a critic each.
        seed: of the resamples, the critics and the batches.
    """
    sign_of_life(f"evaluating {run} on logged data")
    from xql.training.ope import ope as evaluate

    found = evaluate(
        run,
        data,
        member=member,
        step=step,
        discount=discount,
        sample=sample,
        updates=updates,
        replicates=replicates,
        seed=seed,
    )
    print_words(found.describe())
    # It was said: a folder of somebody else's, or a full disk, takes nothing from it.
    with decoration("ope.json"):
        found.write()
    result(run=str(run), **found.to_dict())


def select(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
    data: str | None = None,
    discount: float | None = None,
    sample: bool = False,
    updates: int | None = None,
    replicates: int = 20,
    seed: int = 0,
) -> None:
    """Rank the policies of runs, of every member and kept step, by their value on logged data.

    Args:
        runs: run folders; a folder of run folders, or of a sweep, is all of them.
        data: a SOURCE to evaluate on, best one that no run has learned from. Without it, the
            episodes that all of them held out, or else the data that they learned from.
        discount: of the returns that are estimated; the runs' without it.
        sample: let the policies draw their actions, in place of their most likely ones.
        updates: of each critic; without it as many as the discount needs.
        replicates: resamples of the episodes, with a critic for each policy.
        seed: of the resamples, the critics and the batches.
    """
    sign_of_life("evaluating the policies of these runs on logged data")
    from xql.evaluation.ope import interval, verdict
    from xql.runs.config import RunConfig
    from xql.runs.summary import label_of
    from xql.training.ope import about_data
    from xql.training.ope import select as rank

    found, policies = rank(
        runs,
        data,
        discount=discount,
        sample=sample,
        updates=updates,
        replicates=replicates,
        seed=seed,
    )
    first = policies[0]
    configs = {run: RunConfig.load(run) for run in {one.run for one in policies}}
    print_words(about_data(found, configs[first.run].data))
    changes = [configs[one.run].members[one.member].changes for one in policies]
    swept = ("swept",) if any(changes) else ()
    heads = ("estimate [95 % interval]", "than the behaviour", "behind the first", "")
    _table(
        ("run", "member", *swept, "step", *heads),
        [
            (
                str(one.run),
                str(one.member),
                *(label_of(own) for _ in swept),
                f"{one.step:,}",
                str(one.value),
                verdict(one.difference),
                "" if one is first else str(one.behind(first)),
                "little support" if one.warnings else "",
            )
            for one, own in zip(policies, changes, strict=True)
        ],
    )
    print_words(f"behaviour policy: {interval(found.behaviour)}")
    close = sum(one.behind(first).low <= 0 for one in policies[1:])
    print_words(_trust(first, close, len(policies) - 1))
    result(
        policies=[
            _plain(one) | {"changes": dict(own)} for one, own in zip(policies, changes, strict=True)
        ],
        behaviour=interval(found.behaviour)._asdict(),
    )


def _plain(one: "PolicyValue") -> dict[str, object]:
    """For JSON."""
    from xql.evaluation.ope import verdict

    return {
        "run": str(one.run),
        "member": one.member,
        "step": one.step,
        "value": one.value._asdict(),
        "difference": one.difference._asdict(),
        "verdict": verdict(one.difference),
    }


def _trust(first: "PolicyValue", close: int, others: int) -> str:
    """How far a ranking can be relied on, in a sentence."""
    text = f"first: {first.run}, member {first.member}, step {first.step:,}"
    if others:
        text += f"; {close} of the {others} others may be as good (the interval holds 0)"
    if first.warnings:
        text += f"; but {first.warnings[0]}"
    return text


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*row)
    console = plain_console()
    if not console.is_terminal:
        console.width = 200  # of a file: no path is cut
    console.print(table)
