"""`xql data ...`: describe data, check it, and convert it to the schema of docs/data.md."""

import textwrap
from pathlib import Path

import numpy as np
import tyro

from xql.data.check import Finding, check_dataset
from xql.data.dataset import Dataset
from xql.data.files import check_destination, save_dataset
from xql.data.minari import local_names
from xql.data.minari_metadata import local_root
from xql.data.reading import parse_json
from xql.data.sources import open_dataset
from xql.errors import printable
from xql.evaluation.scores import normalised_score, reference_score

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def info(source: tyro.conf.Positional[str]) -> None:
    """Describe a source: sizes, returns, how episodes end, action bounds, environment.

    Args:
        source: minari:ID, d4rl:FILE, ogbench:FILE, neorl2:FILE, or a .npz, .hdf5, .h5, .parquet or
            .csv file.
    """
    from rich.table import Table

    from xql.cli.console import plain_console

    dataset = open_dataset(source)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in describe(dataset):
        table.add_row(name, value)
    plain_console().print(table)


def describe(dataset: Dataset) -> list[tuple[str, str]]:
    """What `info` prints, line by line."""
    lengths, returns = dataset.lengths, dataset.returns
    neither = int((~dataset.terminated & ~dataset.truncated).sum())
    megabytes = sum(
        getattr(dataset, key).nbytes for key in ("observations", "actions", "rewards")
    ) / (1 << 20)
    lines = [
        ("name", dataset.name),
        ("source", printable(dataset.source)),
        ("episodes", f"{dataset.episodes:,}"),
        ("transitions", f"{dataset.transitions:,} ({megabytes:.1f} MiB)"),
        ("observation", _observation(dataset)),
        ("action", _action(dataset)),
        ("length", _spread(lengths.astype(float))),
        ("return", _spread(returns)),
        (
            "endings",
            f"{int(dataset.terminated.sum()):,} terminated, {int(dataset.truncated.sum()):,} cut "
            f"by a time limit, {neither:,} where the log stops",
        ),
    ]
    reference = reference_score(dataset.name, dataset.metadata)
    if reference is not None:
        mean = normalised_score(returns.mean(), reference)
        ends = f"0 at a return of {reference.minimum:g}, 100 at {reference.maximum:g}"
        lines.append(("score", f"{ends}; the mean return scores {mean:.1f}"))
    if dataset.environment is not None:
        lines.append(("environment", _environment_name(dataset.environment)))
    if "validation_source" in dataset.metadata:
        lines.append(("validation", printable(str(dataset.metadata["validation_source"]))))
    return lines


def _observation(dataset: Dataset) -> str:
    layout = dataset.metadata.get("observation_layout")
    parts = f": {', '.join(f'{path} {size}' for path, size in layout)}" if layout else ""
    return printable(f"{dataset.observation_size} numbers{parts}")


def _action(dataset: Dataset) -> str:
    numbers, low, high = f"{dataset.action_size} numbers", dataset.action_low, dataset.action_high
    if dataset.discrete:
        return dataset.action_spec.words
    if low is None or high is None:
        return f"{numbers}, bounds not stated"
    if (low == low[0]).all() and (high == high[0]).all():
        return f"{numbers} in [{low[0]:g}, {high[0]:g}]"
    return f"{numbers}, each within its own bounds, all in [{low.min():g}, {high.max():g}]"


def _spread(values: np.ndarray) -> str:
    return (
        f"mean {values.mean():,.1f}, median {np.median(values):,.1f}, "
        f"from {values.min():,.1f} to {values.max():,.1f}"
    )


def _environment_name(specification: str) -> str:
    """The id that a specification states; a plain Gymnasium id is one already."""
    if not specification.lstrip().startswith("{"):
        return printable(specification)[:200]
    try:
        return printable(str(parse_json(specification)["id"]))[:200]
    except (ValueError, KeyError, TypeError):
        return "stated, but not readable"


def check(source: tyro.conf.Positional[str]) -> None:
    """Check a source and report rows and reasons of what is wrong. Exit status 1 on errors.

    Args:
        source: minari:ID, d4rl:FILE, ogbench:FILE, neorl2:FILE, or a .npz, .hdf5, .h5, .parquet or
            .csv file.
    """
    from rich.text import Text

    from xql.cli.console import plain_console

    console = plain_console()
    dataset = open_dataset(source, finite=False)
    found = check_dataset(dataset)
    size = f"{dataset.episodes:,} episodes, {dataset.transitions:,} transitions"
    console.print(Text.assemble((dataset.name, "bold"), f": {size}"))
    for finding in found:
        style = _STYLES[finding.severity]
        console.print(f"{finding.severity:8}", style=style, end="")
        console.print(_wrapped(finding), soft_wrap=True)
    if not found:
        console.print("nothing found: the data is sound")
    if any(finding.severity == "error" for finding in found):
        raise SystemExit(1)


def _wrapped(finding: Finding, width: int = 80) -> str:
    text = f"{finding.what} ({finding.where}); {finding.hint}"
    indent = " " * 9
    lines = textwrap.wrap(text, width - len(indent), break_on_hyphens=False)
    return " " + f"\n{indent}".join(lines)


def convert(source: tyro.conf.Positional[str], out: tyro.conf.Positional[Path]) -> None:
    """Write a source as one file in the schema of docs/data.md; never over an existing file.

    Args:
        source: minari:ID, d4rl:FILE, ogbench:FILE, neorl2:FILE, or a .npz, .hdf5, .h5, .parquet or
            .csv file.
        out: the file to write, ending in .npz, .hdf5, .h5 or .parquet.
    """
    check_destination(out)
    dataset = open_dataset(source)
    path = save_dataset(dataset, out)
    counts = f"{dataset.episodes:,} episodes, {dataset.transitions:,} transitions"
    print(f"{printable(str(path))}: {counts}, {path.stat().st_size / (1 << 20):.1f} MiB")


def list_() -> None:
    """The datasets on this machine, and those that can be made here."""
    from xql.cli.make import kinds

    names = local_names()
    print(f"Minari datasets in {local_root()}:")
    for name in names:
        print(f"  minari:{printable(name)}")
    if not names:
        print("  none; fetch one with 'minari download NAME'")
    print("Made here from a simulator, with 'xql data make NAME':")
    for name, kind in kinds().items():
        print(f"  {name}{' --policy FILE' if kind.policy and kind.needs_policy else ''}")
    print("  mujoco --env hopper --kind medium, and the like (docs/data.md)")
