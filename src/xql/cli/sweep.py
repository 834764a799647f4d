"""`xql sweep SPEC.yaml`: many runs, on this machine or a cluster."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from xql.cli.console import note, print_words, result, sign_of_life
from xql.cli.train import Address

if TYPE_CHECKING:
    from xql.experiments.sweep import Entry, Plan


def sweep(
    spec: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SPEC.yaml")],
    out: Path | None = None,
    address: Address = None,
    jobs: int | None = None,
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Train many runs: agents, data sets, presets, settings and seeds, each once.

    After Ctrl-C, or when the process was killed, the same command goes on: what is trained is not
    trained again, and what was begun is resumed.

    Args:
        spec: what to train, as YAML (docs/cluster.md).
        out: the folder of the sweep; sweeps/NAME without it, by the name of the file.
        address: a Ray cluster to train on; this machine without it.
        jobs: how many populations train at a time, each on its share of the cores; as many as there
            is room for without it.
        dry_run: check everything, show what would be trained, and write nothing.
    """
    sign_of_life(f"opening {spec}")
    from xql.experiments.executors import OnRay, Share, executor_for, workers_of
    from xql.experiments.sweep import new_session, plan_sweep, run_sweep
    from xql.experiments.sweep_board import Board
    from xql.experiments.sweep_spec import read_spec
    from xql.jax_config import cores
    from xql.training.interrupt import interruption
    from xql.training.population import use_all_cores

    use_all_cores()
    chosen = read_spec(spec)
    folder = Path("sweeps") / spec.stem if out is None else out
    share = Share(chosen.resources.cpus, chosen.resources.gpus)
    if jobs is None and address is None:
        jobs = max(1, cores() // (share.cpus or 1))
    executor = executor_for(jobs, address, share)
    try:
        plan = plan_sweep(chosen, folder, workers_of(executor))
        for line in plan.notes:
            note(line)
        if dry_run:
            _show(plan)
            return
        if address is None:
            # Fewer cells than workers leave each more cores.
            at_a_time = max(1, min(workers_of(executor), plan.left))
            if isinstance(executor, OnRay):
                executor.close()
            executor = executor_for(at_a_time, None, share)
        if isinstance(executor, OnRay):
            executor.start()  # first, since Ray handles SIGTERM in its own way
        session = new_session()
        with interruption() as stop:
            try:
                known = len(plan.notes)
                with Board(plan, session) as board:
                    run_sweep(plan, executor, say=board.say, session=session)
                for line in plan.notes[known:]:
                    note(line)
            except KeyboardInterrupt:
                done = sum(one.folder is not None for one in plan.entries)
                note(
                    f"interrupted: {done} of {plan.total} cells are done, and {folder} keeps what "
                    "was begun; the same command goes on"
                )
                if stop.requested is not None:
                    stop.end()  # Ray makes a Ctrl-C of every signal
                raise
    finally:
        if isinstance(executor, OnRay):
            executor.close()
    _finish(plan)


def _show(plan: "Plan") -> None:
    """Say what would be trained."""
    for entry in plan.entries:
        state: str = "there already" if entry.folder else entry.state
        if entry.state == "waiting" and (plan.out / "work" / entry.job.run).is_dir():
            state = "begun"
        print_words(f"{entry.label}: {state}", indent=2)
    for study in plan.studies:
        print_words(f"{study.source} {study.method.label}: {study.total} trials of Optuna")
    print_words(f"{plan.left} of {plan.total} cells are left to train, in {plan.out}")
    result(out=str(plan.out), cells=[_plain(one) for one in plan.entries], left=plan.left)


def _finish(plan: "Plan") -> None:
    """Say what came out.

    Raises:
        SystemExit: a cell failed.
    """
    failed = [one for one in plan.entries if one.state == "failed"]
    is_done = [one for one in plan.entries if one.state == "done"]
    done = len(is_done)
    early = sum(one.state == "ended early" for one in plan.entries)
    text = f"{done} of {plan.total} cells done"
    text += f", {early} ended early" * bool(early) + f", {len(failed)} failed" * bool(failed)
    print_words(text)
    for one in failed:
        print(f"{one.label}: {one.problem}", file=sys.stderr)
    print(f"{plan.out / 'summary.csv'}")
    if any(one.group.config.environment is not None for one in is_done):
        note(f"xql compare {plan.out} compares them")
    elif is_done:
        note(f"nothing was evaluated; xql select {plan.out} ranks them by logged data")
    result(out=str(plan.out), cells=[_plain(one) for one in plan.entries])
    if failed:
        raise SystemExit(1)


def _plain(entry: "Entry") -> dict[str, object]:
    folder = None if entry.folder is None else str(entry.folder)
    return {"cell": entry.label, "state": entry.state, "run": folder, "problem": entry.problem}
