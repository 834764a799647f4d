"""What the HTML page draws lines of: runs, their swept settings and their seeds."""

from collections.abc import Sequence
from typing import NamedTuple

from xql.reports.page_figures import Key, colour_of, dash_of
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.summary import label_of

SEEDS = 16
"""Of one setting, that are drawn one by one."""
FAINT = 48
"""Lines of single seeds in one figure, at most; with more there are none."""


class Series(NamedTuple):
    """Members of one run that share their settings, drawn as one line."""

    key: Key
    run: RunFolder
    members: list[int]
    seeds: dict[int, Key]
    """Of those members that a reader can switch on and off by themselves."""
    rows: list[Evaluation]
    """What was played."""

    def key_of(self, member: int) -> Key:
        """What a member's own line belongs to."""
        return self.seeds.get(member, self.key)


def series_of(runs: Sequence[RunFolder]) -> list[Series]:
    """The lines of the page: one for each run and combination of swept hyperparameters."""
    groups: list[tuple[RunFolder, str, list[int], list[Evaluation]]] = []
    names = names_of(runs)
    for run, name in zip(runs, names, strict=True):
        every, played = run.config.members, run.read_evaluations()
        swept: dict[tuple[tuple[str, float], ...], list[int]] = {}
        for place, one in enumerate(every):
            swept.setdefault(tuple(one.changes.items()), []).append(place)
        for changes, own in swept.items():
            words = (name * (len(runs) > 1), label_of(dict(changes)))
            label, mine = ", ".join(filter(None, words)), set(own)
            groups.append((run, label, own, [row for row in played if row.member in mine]))
    if len(groups) == 1:
        run, _, members, rows = groups[0]
        if len(members) == 1:
            seed = run.config.members[0].seed
            return [Series(Key("s0", f"seed {seed}", colour_of(0)), run, members, {}, rows)]
        seeds = {
            place: Key(f"m{place}", f"seed {one.seed}", colour_of(place), dash_of(place))
            for place, one in enumerate(run.config.members[:SEEDS])
        }
        return [Series(Key("s0", f"{len(members)} seeds", "var(--ink)"), run, members, seeds, rows)]
    return [
        Series(Key(f"s{place}", label, colour_of(place), dash_of(place)), run, members, {}, rows)
        for place, (run, label, members, rows) in enumerate(groups)
    ]


def names_of(runs: Sequence[RunFolder]) -> list[str]:
    """The folders' names; where two are equal, with the folder above."""
    paths = [run.path.resolve() for run in runs]
    names = [path.name for path in paths]
    return [
        path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}"
        for path in paths
    ]


def keys_of(shown: Sequence[Series]) -> list[Key]:
    """Every key of the page, those of seeds after that of their series."""
    return [key for one in shown for key in (one.key, *one.seeds.values())]
