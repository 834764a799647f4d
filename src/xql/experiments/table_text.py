"""How a table of the paper reads, as Markdown for people and as CSV with one row per number."""

from collections.abc import Sequence

from xql.evaluation.statistics import Summary, format_interval
from xql.experiments.paper_tables import Method, Place, Training
from xql.experiments.published import Benchmark, Number, numbers
from xql.experiments.sources import LABELS, Data
from xql.reports.tables import as_csv, as_markdown
from xql.runs.summary import UNITS, Result

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


def markdown(
    table: str, rows: Sequence[Benchmark], places: Sequence[Place], training: Training
) -> str:
    """The table with ours beside theirs, how to get what is absent, and what others measured.

    Args:
        table: table1, table2 or table3.
        rows: the datasets.
        places: what `tables.fill` found.
        training: how ours were trained.
    """
    parts = [f"# {TITLES[table]}\n", _how(training)]
    parts.append(as_markdown(*_main(table, rows, places)))
    parts += [f"{note}\n" for note in NOTES[table]]
    absent = [
        [row.name, LABELS[data.source], data.get] for row in rows for data in _absent(row, places)
    ]
    if absent:
        parts.append("## Not run: dataset absent, get it with\n")
        parts.append(as_markdown(["dataset", "source", "get it with"], absent))
    reasons = [
        f"- {place.benchmark.name}, {place.method.label}, {LABELS[place.data.source]}: "
        f"{place.problem}\n"
        for place in places
        if place.problem
    ]
    if reasons:
        parts += ["## Not run: other reasons\n", "".join(reasons)]
    if table != "table2":
        parts += _others(rows)
    parts.append(f"Every number of this page is a row of {table}.csv, with its source.\n")
    return "\n".join(parts)


def csv_lines(table: str, rows: Sequence[Benchmark], places: Sequence[Place]) -> str:
    """Every number and every gap in a line of its own, published ones with their source."""
    header = ["dataset", "column", "of", "score", "low", "high", "spread", "seeds", "measure"]
    header += ["data", "source"]
    lines = []
    for row in rows:
        for name in (table, "reruns", "corl") if table != "table2" else (table,):
            lines += [_published_line(row, number) for number in _numbers(name, row)]
        for place in (place for place in places if place.benchmark == row):
            lines += _our_lines(place)
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
            "each, with its 95 % bootstrap interval over seeds. D4RL's files, Minari's ports and "
            f"data made here are different data and have columns of their own.{over}\n"
        )
    return (
        f"Ours are the **last** of {training.evaluations} evaluations, after {training.steps:,} "
        f"updates: the interquartile mean of {training.seeds} seeds, {training.last_episodes} "
        "episodes each, with its 95 % bootstrap interval over seeds. Beside it each seed's "
        f"**best** evaluation, of {min(training.episodes, training.last_episodes)} episodes or "
        "more, which is biased upwards. D4RL's files, Minari's ports and data made here are "
        f"different data and have columns of their own.{over}\n"
    )


def _main(
    table: str, rows: Sequence[Benchmark], places: Sequence[Place]
) -> tuple[list[str], list[list[str]]]:
    """Theirs, ours for every method and source that is here, and what was not run."""
    theirs = list(dict.fromkeys((one.method, one.protocol) for one in numbers(table)))
    ours = list(
        dict.fromkeys(
            (place.method, place.data.source)
            for place in places
            if place.result or (place.data.opened is not None and not place.data.barrier)
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
            (place.method, place.data.source): place for place in places if place.benchmark == row
        }
        for column in ours:
            result = own[column].result if column in own else None
            line += (
                ["", ""]
                if result is None
                else [_ours(result, one) for one in _summaries(own[column]).values()]
            )
        line.append(_gaps(row, places))
        lines.append(line)
    return [*header, "not run"], lines


def _kinds(table: str) -> tuple[str, str]:
    """The two numbers of ours in a column."""
    return ("before", "after") if table == "table2" else ("last", "best")


def _summaries(place: Place) -> dict[str, Summary]:
    """The two numbers of a place, by kind; none where it has no result."""
    if place.result is None:
        return {}
    if place.before is not None:
        return {"before": place.before, "after": place.result.last}
    return {"last": place.result.last, "best": place.result.best}


def _others(rows: Sequence[Benchmark]) -> list[str]:
    """What others measured on these datasets: XQL and its variants, and the rivals of CORL."""
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
                f"## CORL's rivals, {words} (tinkoff-ai/CORL; mind the data's versions)\n",
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
    lines = []
    for kind, summary in _summaries(place).items():
        found = [f"{value:.6g}" for value in summary.interval[:3]]
        of = f"{kind}: {summary.label}"
        head = [name, _column(method), of, *found, "", str(summary.interval.seeds)]
        lines.append([*head, UNITS[place.result.quantity], *where])
    return lines


def _column(method: Method) -> str:
    return f"ours: {method.label}"
