"""How a table of the paper reads, as Markdown for people and as CSV with one row per number."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from xql.agents.hyperparameters import to_dict
from xql.evaluation.statistics import Summary, format_interval
from xql.experiments.paper_tables import Kept, Method, Place, Training, comparable
from xql.experiments.published import Benchmark, Number, numbers
from xql.experiments.sources import LABELS, Data
from xql.reports.tables import as_csv, as_markdown
from xql.runs.config import RunConfig
from xql.runs.summary import UNITS, Result, label_of

TITLES = {
    "table1": "Table 1: offline learning on D4RL, normalised score",
    "table2": "Table 2: fine-tuning on AntMaze, normalised score before and after 1M steps online",
    "table3": "Table 3: offline learning on D4RL's Adroit, normalised score",
}
_BEST = (
    "*best?*: the step is not given. Others report that the published X-QL numbers are each seed's "
    "best evaluation over training (Sikchi et al., arXiv 2302.08560; Dragon-Zhuang/BPPO issue 1). "
    "Compare them with our *best*, and our *last* with columns that say last."
)
NOTES = {
    "table1": (
        _BEST,
        "Policies of D4RL's MuJoCo files act in version 4 of the simulators, the nearest to D4RL's "
        "own; version 5 changed rewards and friction. AntMaze's score is its success rate.",
        "On data made here a score is on another scale than D4RL's: 100 is, for MuJoCo, what the "
        "last policy of the run that made the data returns, and for Kitchen all four tasks.",
        "The paper's minutes, of an unnamed machine (NeurIPS 2022 submission, Table 1): X-QL, BC "
        "and 10 % BC 10; IQL, AWAC, Onestep RL and TD3+BC 20; CQL 80; DT 960. Ours are in each "
        "cell's metrics.jsonl.",
    ),
    "table2": (
        "Theirs is after 1M updates offline and 1M environment steps. Ours acts for up to 5,000 "
        "steps before its first update online, theirs updates from the first.",
    ),
    "table3": (
        "*smoothed*: the published X-QL numbers are smoothed over training with 0.7.",
        "The simulators' rewards of door, hammer and relocate are no longer D4RL's, so ours there "
        "is the success rate and no score: it cannot be laid beside the published one.",
    ),
}
_TAGS = {"as printed": "", "said to be best": " (best?)"}
_APART = (
    "These are on other data, or by another measure, than the numbers above: **none can be "
    "compared with them**, only with each other where data, measure and updates are the same."
)
_WHEN = {
    ("last", "best"): (
        "of the last evaluation; *best* takes each seed's best one, and is biased upwards"
    ),
    ("before", "after"): "before the first environment step and after the last",
}
_IN_PART = (
    "On D4RL's own file a score can be compared with the numbers above, *last* with those that are "
    "of the last step. **Nothing else can**, but with each other where data, measure and updates "
    "are the same."
)


def markdown(
    table: str, rows: Sequence[Benchmark], places: Sequence[Place], training: Training
) -> str:
    """The published table and ours, how to get what is absent, and what others measured.

    Args:
        table: table1, table2 or table3.
        rows: the datasets.
        places: what `tables.fill` found.
        training: how ours were trained.
    """
    parts = [f"# {TITLES[table]}\n", _how(training)]
    parts.append(as_markdown(*_main(table, rows, places)))
    parts += [f"{note}\n" for note in NOTES[table]]
    own = _apart(places)
    if own:
        parts += [f"## Ours\n\n{_APART}\n", _own_table(table, own)]
    absent = [
        [row.name, LABELS[data.source], data.get] for row in rows for data in _absent(row, places)
    ]
    if absent:
        parts.append("## Not run: dataset absent, get it with\n")
        parts.append(as_markdown(["dataset", "source", "get it with"], absent))
    if any(place.problem for place in places):
        parts += ["## Not run: other reasons\n", _reasons(places)]
    return "\n".join(parts + _end(table, rows))


def _reasons(places: Sequence[Place]) -> str:
    """Why, with all datasets that it is true of."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for place in places:
        if place.problem:
            source, why = LABELS[place.data.source], place.problem
            what = source if why == place.data.barrier else f"{source}, {place.method.label}"
            found.setdefault((what, why), {})[place.benchmark.name] = None
    return "".join(
        f"- {', '.join(names)} ({what}): {why}\n" for (what, why), names in found.items()
    )


def kept_markdown(
    table: str, rows: Sequence[Benchmark], kept: Sequence[Kept], folders: Sequence[Path]
) -> str:
    """The published table, and below it the runs that some folders hold.

    Args:
        table: table1, table2 or table3.
        rows: the datasets.
        kept: what `paper_tables.find_kept` found.
        folders: where.
    """
    named = ", ".join(f"`{folder}`" for folder in folders)
    compared = any(comparable(one.benchmark, one.data) for one in kept)
    without = [row.name for row in rows if all(one.benchmark != row for one in kept)]
    parts = [
        f"# {TITLES[table]}\n",
        f"`{_command(table, folders)}`\n",
        "Nothing was trained for this page. First the published numbers, then the runs in "
        f"{named} that learned from data of these names.\n",
        "## Published\n",
        as_markdown(*_main(table, rows, ())),
        *(f"{note}\n" for note in NOTES[table]),
        f"## Ours\n\n{_IN_PART if compared else _APART} Each has settings of its own, which are in "
        "its config.yaml. The numbers are interquartile means over seeds with 95 % bootstrap "
        f"intervals over seeds, {_WHEN[_kinds(table)]}.\n",
        _own_table(table, kept),
    ]
    if without:
        parts.append(f"**No run of ours**: {', '.join(without)}.\n")
    return "\n".join(parts + _end(table, rows))


def _command(table: str, folders: Sequence[Path]) -> str:
    return f"xql paper {table} --cells {' '.join(map(str, folders))}"


def _end(table: str, rows: Sequence[Benchmark]) -> list[str]:
    """What others measured, and where every number is."""
    others = _others(rows) if table != "table2" else []
    return [*others, f"Every number of this page is a row of {table}.csv, with its source.\n"]


def csv_lines(table: str, rows: Sequence[Benchmark], ours: Sequence[Place | Kept]) -> str:
    """Every number and every gap in a line of its own, published ones with their source."""
    header = ["dataset", "column", "of", "score", "low", "high", "spread", "seeds", "measure"]
    header += ["data", "source"]
    lines = []
    for row in rows:
        for name in (table, "reruns", "corl") if table != "table2" else (table,):
            lines += [_published_line(row, number) for number in _numbers(name, row)]
        for one in (one for one in ours if one.benchmark == row):
            lines += _our_lines(one) if isinstance(one, Place) else _kept_lines(one)
    return as_csv(header, lines)


def _how(training: Training) -> str:
    """The line above the table: what ours are."""
    options = ", ".join(f"{key}={value}" for key, value in training.options.items())
    over = f" Settings over the presets: {options}." if options else ""
    if training.online_steps is not None:
        return (
            f"Ours are **before**, after {training.steps:,} updates offline, and **after**, "
            f"{training.online_steps:,} environment steps later (`--replay {training.replay}`): "
            f"the interquartile mean of {training.seeds} seeds, {training.last_episodes} episodes "
            "each, with its 95 % bootstrap interval over seeds. Minari's ports and data made here "
            f"are other data than D4RL's, and have a table of their own.{over}\n"
        )
    return (
        f"Ours are the **last** of {training.evaluations} evaluations, after {training.steps:,} "
        f"updates: the interquartile mean of {training.seeds} seeds, {training.last_episodes} "
        "episodes each, with its 95 % bootstrap interval over seeds. Beside it each seed's "
        f"**best** evaluation, of {min(training.episodes, training.last_episodes)} episodes or "
        "more, which is biased upwards. Minari's ports and data made here are other data than "
        f"D4RL's, and have a table of their own.{over}\n"
    )


def _main(
    table: str, rows: Sequence[Benchmark], places: Sequence[Place]
) -> tuple[list[str], list[list[str]]]:
    """Theirs, ours on D4RL's own files where the scores compare, and what was not run."""
    theirs = list(dict.fromkeys((one.method, one.protocol) for one in numbers(table)))
    ours = list(
        dict.fromkeys(
            (place.method, place.data.source)
            for place in places
            if comparable(place.benchmark, place.data)
            and (place.result or (place.data.opened is not None and not place.data.barrier))
        )
    )
    header = ["dataset", *(f"{method}{_tag(protocol)}" for method, protocol in theirs)]
    for method, source in ours:
        of = f"ours: {method.label}, {LABELS[source]}"
        header += [f"{of}, {kind}" for kind in _kinds(table)]
    lines = []
    for row in rows:
        found = {(one.method, one.protocol): one for one in _numbers(table, row)}
        line = [row.name, *(_score(found.get(column)) for column in theirs)]
        own = {
            (place.method, place.data.source): place
            for place in places
            if place.benchmark == row and comparable(row, place.data)
        }
        for column in ours:
            result = own[column].result if column in own else None
            line += (
                ["", ""]
                if result is None
                else [_ours(result, one) for one in _summaries(own[column]).values()]
            )
        lines.append([*line, _gaps(row, places)] if places else line)
    return [*header, "not run"] if places else header, lines


def _apart(places: Sequence[Place]) -> list[Kept]:
    """What cannot stand beside the published numbers."""
    return [
        Kept(row, data, run, result, before, run.config.steps)
        for row, data, _, result, _, before, run in places
        if run is not None and result is not None and not comparable(row, data)
    ]


def _own_table(table: str, kept: Sequence[Kept]) -> str:
    """One row for each run and setting that it sweeps."""
    kinds = _kinds(table)
    steps = ["updates", "then online"] if table == "table2" else ["updates"]
    header = ["dataset", "data", "agent", "β", *steps, "seeds × episodes", "measure", *kinds, "run"]
    lines = []
    for one in kept:
        config = one.run.config
        start = config.finetune
        counts = [one.step] if start is None else [start.step, one.step]
        lines.append(
            [
                one.benchmark.name,
                LABELS[one.data.source],
                _agent(config, one.result),
                _beta(config, one.result),
                *(f"{count:,}" for count in counts),
                f"{one.result.last.interval.seeds} × {one.result.last.episodes}",
                UNITS[one.result.quantity],
                *(format_interval(each.interval) for each in _summaries(one).values()),
                f"`{one.run.path}`",
            ]
        )
    return as_markdown(header, lines)


def _agent(config: RunConfig, result: Result) -> str:
    """Of a run: its agent, the part of the data that it learned from, and what it sweeps but β."""
    swept = {name: value for name, value in result.changes.items() if name != "beta"}
    return ", ".join(filter(None, (config.agent, config.data.part, label_of(swept))))


def _beta(config: RunConfig, result: Result) -> str:
    beta = {**to_dict(config.hyperparameters), **result.changes}.get("beta", "")
    return f"{beta:g}" if isinstance(beta, float) else str(beta)


def _kinds(table: str) -> tuple[str, str]:
    """The two numbers of ours in a column."""
    return ("before", "after") if table == "table2" else ("last", "best")


def _summaries(one: Place | Kept) -> dict[str, Summary]:
    """The two numbers of a place or a run, by kind; none where it has no result."""
    if one.result is None:
        return {}
    if one.before is not None:
        return {"before": one.before, "after": one.result.last}
    return {"last": one.result.last, "best": one.result.best}


def _others(rows: Sequence[Benchmark]) -> list[str]:
    """What others measured on these datasets: XQL and its variants, and the methods in CORL."""
    parts = []
    names = {number.method: number.protocol for number in numbers("reruns")}
    lines = []
    for row in rows:
        found = {one.method: one for one in _numbers("reruns", row)}
        if found:
            lines.append([row.name, *(_score(found.get(method)) for method in names)])
    if lines:
        header = [f"{name}{_tag(protocol)}" for name, protocol in names.items()]
        parts += [
            "## XQL and its variants, as others ran them\n",
            as_markdown(["dataset", *header], lines),
        ]
    for protocol, words in (("last", "last step"), ("best", "best over training")):
        methods = list(dict.fromkeys(one.method for one in numbers("corl")))
        lines = []
        for row in rows:
            found = {one.method: one for one in _numbers("corl", row) if one.protocol == protocol}
            if found:
                name = next(iter(found.values())).dataset
                lines.append([name, *(_score(found.get(method)) for method in methods)])
        if lines:
            parts += [
                f"## Other methods in CORL, {words} (tinkoff-ai/CORL; mind the data's versions)\n",
                as_markdown(["dataset", *methods], lines),
            ]
    return parts


def _numbers(name: str, row: Benchmark) -> list[Number]:
    """A row's published numbers; CORL's are of the same data's later versions, too."""
    if name != "corl":
        return [one for one in numbers(name) if one.dataset == row.name]
    stem = row.name.rpartition("-v")[0]
    return [one for one in numbers(name) if one.dataset.rpartition("-v")[0] == stem]


def _tag(protocol: str) -> str:
    return _TAGS.get(protocol, f" ({protocol})")


def _score(number: Number | None) -> str:
    if number is None:
        return ""
    return f"{number.score:.1f}" + ("" if number.spread is None else f" ± {number.spread:.1f}")


def _ours(result: Result, summary: Summary) -> str:
    unit = "" if result.quantity == "score" else f" {UNITS[result.quantity]}"
    return f"{format_interval(summary.interval)}{unit}"


def _absent(row: Benchmark, places: Sequence[Place]) -> list[Data]:
    """What it would help to get."""
    found = [place.data for place in places if place.benchmark == row and place.result is None]
    return list(dict.fromkeys(data for data in found if data.opened is None and not data.barrier))


def _gaps(row: Benchmark, places: Sequence[Place]) -> str:
    """What was not run in a row, and why."""
    absent = ", ".join(LABELS[data.source] for data in _absent(row, places))
    words = [f"dataset absent: {absent}"] if absent else []
    for place in places:
        if place.benchmark == row and place.problem:
            words.append(f"{place.method.label}, {LABELS[place.data.source]}: see below")
    return "; ".join(words)


def _published_line(row: Benchmark, number: Number) -> list[str]:
    spread = "" if number.spread is None else f"{number.spread:g}"
    head = [number.dataset, number.method, number.protocol, f"{number.score:g}", "", "", spread]
    return [*head, "", "score", "D4RL", number.source]


def _our_lines(place: Place) -> list[list[str]]:
    name, data, method = place.benchmark.name, place.data, place.method
    where = [LABELS[data.source], data.opened or data.name]
    if place.result is None:
        why = place.problem or f"dataset absent, get it with {data.get}"
        return [[name, _column(method), f"not run: {why}", *[""] * 6, *where]]
    return list(_number_lines(place, place.result, _column(method), where))


def _kept_lines(kept: Kept) -> list[list[str]]:
    config, beta = kept.run.config, _beta(kept.run.config, kept.result)
    column = f"ours: {_agent(config, kept.result)}" + (f", β = {beta}" if beta else "")
    where = [f"{LABELS[kept.data.source]}: {kept.data.name}", str(kept.run.path)]
    return list(_number_lines(kept, kept.result, column, where))


def _number_lines(
    one: Place | Kept, result: Result, column: str, where: Sequence[str]
) -> Iterable[list[str]]:
    for kind, summary in _summaries(one).items():
        found = [f"{value:.6g}" for value in summary.interval[:3]]
        head = [one.benchmark.name, column, f"{kind}: {summary.label}", *found]
        yield [*head, "", str(summary.interval.seeds), UNITS[result.quantity], *where]


def _column(method: Method) -> str:
    return f"ours: {method.label}"
