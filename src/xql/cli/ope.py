"""`xql ope` and `xql select`: policies on logged data, without a simulator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from xql.cli.console import plain_console, print_words, result, sign_of_life
from xql.errors import decoration

if TYPE_CHECKING:
    from xql.evaluation.ope import Estimate, OffPolicy
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
    from xql.evaluation.ope import FQE, interval, verdict
    from xql.training.ope import (
        check_critic,
        evaluate_policies,
        newest,
        verdict_on,
        write_verdict,
    )

    found, (policy,) = evaluate_policies(
        [run],
        data=data,
        index=member,
        step=newest(run) if step is None else step,
        discount=discount,
        sample=sample,
        settings=FQE(replicates=replicates, updates=updates),
        seed=seed,
    )
    critic = check_critic(run, found.dataset, member, policy.step)
    print_words(f"{run}, member {member}, step {policy.step:,}, on {_about(found, run)}")
    _table(
        ("discounted return", "estimate", "95 % interval"),
        [
            ("policy", *_cells(policy.value)),
            ("behaviour policy", *_cells(interval(found.behaviour))),
            ("difference", *_cells(policy.difference)),
            ("episodes, as far as the log goes", *_cells(found.logged_return())),
        ],
    )
    near = policy.support
    if near is not None:
        print_words(
            f"its actions: {near.distance:.2f} × as far from the usual one in similar states as "
            f"logged actions; {near.far:.0%} farther than 95 % of them; effective sample size "
            f"{near.effective:.0%} of the transitions"
        )
    if critic is not None:
        trained = critic.trained_error
        beside = "" if trained is None else f" ({trained:.4g} on what it learned from)"
        print_words(
            f"its critic, in {critic.unit}: mean Q {critic.value:.4g} beside returns-to-go of "
            f"{critic.returns:.4g} in the log; temporal-difference error {critic.error:.4g}{beside}"
        )
    warnings = [*policy.warnings, *(critic.warnings if critic is not None else [])]
    for text in warnings:
        print_words(f"warning: {text}")
    said = verdict(policy.difference)
    than = "the policy that acted in the log"
    print_words(
        f"it cannot be said whether the policy is better than {than}: the interval of the "
        "difference contains 0"
        if said == "cannot be said"
        else f"the policy is {said} than {than}" + ", as far as the warnings allow" * bool(warnings)
    )
    leaves = verdict_on(found, policy, critic, sample=sample, seed=seed)
    # It was said: a folder of somebody else's, or a full disk, takes nothing from it.
    with decoration("ope.json"):
        write_verdict(run, leaves)
    result(run=str(run), **leaves)


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
    from xql.evaluation.ope import FQE, interval, verdict
    from xql.reports.compare import run_folders
    from xql.training.ope import evaluate_policies

    found, policies = evaluate_policies(
        run_folders(runs),
        data=data,
        discount=discount,
        sample=sample,
        settings=FQE(replicates=replicates, updates=updates),
        seed=seed,
    )
    first = policies[0]
    print_words(_about(found, first.run))
    heads = ("estimate", "95 % interval", "than the behaviour", "behind the first", "")
    _table(
        ("run", "member", "step", *heads),
        [
            (
                str(one.run),
                str(one.member),
                f"{one.step:,}",
                *_cells(one.value),
                verdict(one.difference),
                "" if one is first else _interval(one.behind(first)),
                "little support" if one.warnings else "",
            )
            for one in policies
        ],
    )
    print_words(f"behaviour policy: {' '.join(_cells(interval(found.behaviour)))}")
    close = sum(one.behind(first).low <= 0 for one in policies[1:])
    print_words(_trust(first, close, len(policies) - 1))
    result(
        policies=[_plain(one) for one in policies],
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


def _about(data: "OffPolicy", run: Path) -> str:
    from xql.runs.config import RunConfig

    dataset, own = data.dataset, RunConfig.load(run).data
    said = {own.held_out: ", held out from training", own.fingerprint: ", learned from"}
    return (
        f"{dataset.name}: {dataset.transitions:,} transitions in {len(dataset):,} episodes"
        f"{said.get(dataset.fingerprint(), '')}; discount {data.discount:g}"
    )


def _cells(one: "Estimate") -> tuple[str, str]:
    return f"{one.estimate:.4g}", _interval(one)


def _interval(one: "Estimate") -> str:
    return f"[{one.low:.4g}, {one.high:.4g}]"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*row)
    console = plain_console()
    if not console.is_terminal:
        console.width = 200  # of a file: no path is cut
    console.print(table)
