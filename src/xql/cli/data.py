"""`xql data ...`: describe data, check it, and convert it to the schema of docs/data.md."""

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from xql.cli.console import is_terminal, print_words, with_flags
from xql.cli.train import Words
from xql.errors import InputError, printable

if TYPE_CHECKING:
    import numpy as np

    from xql.data.check import Finding
    from xql.data.dataset import Dataset

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def info(source: tyro.conf.Positional[str]) -> None:
    """Describe a source: sizes, returns, how episodes end, action bounds, environment.

    Args:
        source: minari:ID, d4rl:FILE, ogbench:FILE, neorl2:FILE, or a .npz, .hdf5, .h5, .parquet or
            .csv file.
    """
    from rich.table import Table

    from xql.cli.console import plain_console
    from xql.data.sources import open_dataset

    dataset = open_dataset(source)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in describe(dataset):
        table.add_row(name, value)
    plain_console().print(table)


def describe(dataset: "Dataset") -> list[tuple[str, str]]:
    """What `info` prints, line by line."""
    from xql.envs.kitchen import KITCHEN
    from xql.evaluation.scores import normalised_score, reference_score

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
        ends = f"0 at a return of {reference.minimum:g}, 100 at {reference.maximum:g}"
        if KITCHEN in (dataset.environment or ""):
            says = "of evaluation; the recording has the reward of a task at every step"
        else:
            says = f"the mean return scores {normalised_score(returns.mean(), reference):.1f}"
        lines.append(("score", f"{ends}; {says}"))
    if dataset.environment is not None:
        lines.append(("environment", _environment_name(dataset.environment)))
    if "validation_source" in dataset.metadata:
        lines.append(("validation", printable(str(dataset.metadata["validation_source"]))))
    return lines


def _observation(dataset: "Dataset") -> str:
    layout = dataset.metadata.get("observation_layout")
    parts = f": {', '.join(f'{path} {size}' for path, size in layout)}" if layout else ""
    return printable(f"{dataset.observation_size} numbers{parts or _names(dataset, 'observation')}")


def _names(dataset: "Dataset", part: Literal["observation", "action"]) -> str:
    """What the table that the data was made of calls them."""
    from xql.data.columns import TableColumns

    if dataset.metadata.get("columns") is None:
        return ""
    columns = TableColumns.from_dict(dataset.metadata["columns"], dataset.name)
    return printable(f": {', '.join(columns.names(part))}")


def _action(dataset: "Dataset") -> str:
    numbers = f"{dataset.action_size} numbers{_names(dataset, 'action')}"
    low, high = dataset.action_low, dataset.action_high
    if dataset.discrete:
        return f"{dataset.action_spec.words}{_names(dataset, 'action')}"
    if low is None or high is None:
        return f"{numbers}, bounds not stated"
    if (low == low[0]).all() and (high == high[0]).all():
        return f"{numbers} in [{low[0]:g}, {high[0]:g}]"
    return f"{numbers}, each within its own bounds, all in [{low.min():g}, {high.max():g}]"


def _spread(values: "np.ndarray") -> str:
    import numpy as np

    return (
        f"mean {values.mean():,.1f}, median {np.median(values):,.1f}, "
        f"from {values.min():,.1f} to {values.max():,.1f}"
    )


def _environment_name(specification: str) -> str:
    """The id that a specification states; a plain Gymnasium id is one already."""
    from xql.data.reading import parse_json

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
    from xql.data.check import check_dataset
    from xql.data.sources import open_dataset

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


def _wrapped(finding: "Finding", width: int = 80) -> str:
    text = with_flags(f"{finding.what} ({finding.where}); {finding.hint}")
    indent = " " * 9
    lines = textwrap.wrap(text, width - len(indent), break_on_hyphens=False)
    return " " + f"\n{indent}".join(lines)


Columns = Annotated[Words, tyro.conf.arg(metavar="COLUMN...")]
Values = Annotated[Words, tyro.conf.arg(metavar="VALUE...")]


def convert(
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE... OUT")],
    observation: Columns = (),
    action: Columns = (),
    reward: str | None = None,
    episode: str | None = None,
    time: str | None = None,
    terminated: str | None = None,
    truncated: str | None = None,
    categorical: Columns = (),
    missing: Literal["error", "ffill", "drop"] = "error",
    missing_values: Values = (),
    reward_at: Literal["same", "next"] = "same",
    like: str | None = None,
    yes: Annotated[bool, tyro.conf.arg(aliases=["-y"])] = False,
) -> None:
    """Write a source, or your own table, as one file in the schema of docs/data.md.

    With --observation, --action and --reward, SOURCE is a table with one row per time step and
    columns of any names: a .csv, .parquet, .jsonl or .ndjson file, or several. What was made of it
    is shown first; on a terminal you are then asked. An existing file is never written over.

    Args:
        paths: minari:ID, d4rl:FILE, ogbench:FILE, neorl2:FILE, or a .npz, .hdf5, .h5, .parquet or
            .csv file, or tables; and last the file to write, ending in .npz, .hdf5, .h5 or
            .parquet.
        observation: the columns that the policy sees, such as t_in 'sensor_*'.
        action: the columns that it sets, such as 'valve_*'; or one column of categories.
        reward: the column with the reward of the row's action, see --reward-at.
        episode: the column with the label of the row's episode; each file is one without.
        time: the column that orders the rows of an episode: numbers or ISO 8601 dates.
        terminated: the column that is 1 where the process itself ended with the row's action.
        truncated: the column that is 1 where the episode was cut at the row.
        categorical: the columns whose values are categories: of the observation, or the only
            action. An action of texts is one anyway.
        missing: refuse missing values, fill them from the row before in the same episode, or drop
            their rows.
        missing_values: what stands for a missing value beside empty cells, such as -999 '?'; in one
            column only as flow=-1.
        reward_at: same, where a row has the reward of its own action; next, where that reward, and
            terminated, stand in the next row.
        like: a file that another table was converted to: take the same columns, categories and
            offsets, without any of the above.
        yes: write without asking.
    """
    from xql.data.convert import open_table, open_table_like
    from xql.data.files import check_destination, save_dataset
    from xql.data.sources import open_dataset

    if len(paths) < 2:
        raise InputError("there is no file to write", hint="give the source and then the new file")
    *sources, last = paths
    out = check_destination(Path(last))
    given: dict[str, Any] = {
        "observation": sum(observation, ()),
        "action": sum(action, ()),
        "reward": reward,
        "episode": episode,
        "time": time,
        "terminated": terminated,
        "truncated": truncated,
        "categorical": sum(categorical, ()),
    }
    how: dict[str, Any] = {
        "missing": missing,
        "missing_values": sum(missing_values, ()),
        "reward_at": reward_at,
    }
    standard = {"missing": "error", "missing_values": (), "reward_at": "same"}
    changed = {name: how[name] for name in how if how[name] != standard[name]}
    dataset: "Dataset | None" = None
    if like is not None:
        if found := [name for name, value in (given | changed).items() if value]:
            hint = f"leave out {', '.join(f'`{name}`' for name in found)}"
            raise InputError("`like` says what each column is", hint=hint)
        dataset = open_table_like(sources, open_dataset(like), name=out.stem)
    elif any(given.values()):
        for name in ("observation", "action", "reward"):
            if not given[name]:
                hint = "a table needs `observation`, `action` and `reward`"
                raise InputError(f"`{name}` is not given", hint=hint)
        dataset = open_table(sources, **given, **how, name=out.stem)
    elif changed:
        what = f"`{next(iter(changed))}` is for a table with columns of any names"
        raise InputError(what, hint="name its `observation`, `action` and `reward`")
    if dataset is not None:
        shown = with_flags(dataset.metadata["_preview"])
        print_words("\n".join(map(printable, shown.splitlines())), indent=4)
        if not yes and is_terminal(sys.stdin) and is_terminal(sys.stdout) and not _agreed(out):
            print("nothing was written")
            return
    elif len(sources) > 1:
        hint = "a table's columns are named by `observation`, `action` and `reward`"
        raise InputError("there is more than one source", where=sources[1], hint=hint)
    else:
        dataset = open_dataset(sources[0])
    path = save_dataset(dataset, out)
    counts = f"{dataset.episodes:,} episodes, {dataset.transitions:,} transitions"
    print(f"{printable(str(path))}: {counts}, {path.stat().st_size / (1 << 20):.1f} MiB")


def _agreed(out: Path) -> bool:
    try:
        answer = input(f"Write {printable(str(out))}? [Y/n] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("", "y", "yes")


def list_() -> None:
    """The datasets on this machine, and those that can be made here."""
    from xql.cli.make import MADE
    from xql.data.local import local_names, local_root

    names = local_names()
    print(f"Minari datasets in {local_root()}:")
    for name in names:
        print(f"  minari:{printable(name)}")
    if not names:
        print("  none; fetch one with 'minari download NAME'")
    print("Made here from a simulator, with 'xql data make NAME':")
    for name, needs_policy in MADE.items():
        print(f"  {name}{' --policy FILE' * needs_policy}")
    print("  greenhouse --out LOG.csv, a table (docs/guides/greenhouse.md)")
    print("  mujoco --env hopper --kind medium, and the like (docs/data.md)")
