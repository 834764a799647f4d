"""The model card: what someone must know of an exported policy before it acts, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from xql.runs.config import part_of

MOST_ROWS = 60
"""Numbers of an observation that the card lists; NAME.json has all of them."""


def model_card(about: Mapping[str, Any], name: str) -> str:
    """The text of NAME.card.md.

    Args:
        about: from `about_policy`.
        name: of the files.
    """
    parts = [
        f"# {name}",
        _summary(about),
        "## Scores",
        _scores(about["scores"]),
        "## On logged data",
        _verdict(about),
        "## Data",
        _data(about),
        "## What goes in",
        _observation(about["observation"], about["data"]),
        "## What comes out",
        _action(about["action"]),
        "## Limits",
        _limits(about),
        "## Made with",
        _made_with(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(about: Mapping[str, Any]) -> str:
    changes = "".join(f", {key} = {value:g}" for key, value in about["changes"].items())
    count = about["members"]
    which = f"member {about['member']} of {count}" if count > 1 else "one member"
    return (
        f"The policy of the run `{about['run']}` ({which}, seed {about['seed']}{changes}) at step "
        f"{about['step']:,} of {about['steps']:,}: agent `{about['agent']}`, preset "
        f"`{about['preset']}`. For raw observations it gives its most likely actions. "
        f"SHA-256 of its numbers: `{about['sha256']}`."
    )


def _scores(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return "It was not evaluated in an environment."
    rows = []
    if own := scores["this_policy"]:
        mean = _number(own["mean"])
        rows.append(
            (
                "this policy",
                f"{mean} {scores['unit']}",
                f"step {own['step']:,}, its own "
                f"{own['episodes']} episodes; one seed has no interval",
            )
        )
    for kind in ("last", "best"):
        if found := scores[kind]:
            interval = f"{_number(found['estimate'])}"
            if found["low"] is not None:
                interval += f" [{_number(found['low'])}, {_number(found['high'])}]"
            seeds = f"{found['seeds']} seed{'s' * (found['seeds'] != 1)}"
            note = f"{found['label']}; {seeds} × {found['episodes']} episodes"
            biased = "; biased upwards, not this policy's" if kind == "best" else ""
            rows.append((f"run, {kind}", f"{interval} {scores['unit']}", note + biased))
    brackets = "\n\nIn brackets, the 95 % interval over the seeds." * any("[" in r[1] for r in rows)
    return _table(("", "", "of"), rows) + brackets


def _verdict(about: Mapping[str, Any]) -> str:
    found = about["ope"]
    if found is None:
        return (
            "It was not compared with what acted in the log. `xql ope RUN` does, and says whether "
            "the log holds enough to tell; export it again afterwards."
        )
    of = (found.get("member"), found.get("step"))
    same = of == (about["member"], about["step"])
    other = "" if same else f" That was member {of[0]} at step {of[1]}, another policy than this."
    lines = [
        f"Is it better than what acted in the log? **{found.get('verdict')}**, by fitted Q "
        f"evaluation on {found.get('data', {}).get('name')}.{other}"
    ]
    rows = [
        (name, _estimate(found[key]))
        for name, key in (
            ("policy", "policy"),
            ("what acted in the log", "behaviour"),
            ("difference", "difference"),
        )
        if isinstance(found.get(key), Mapping)
    ]
    if rows:
        head = f"discounted return (discount {found.get('discount')}), 95 % interval"
        lines.append(_table(("", head), rows))
    lines += [f"- {warning}" for warning in found.get("warnings") or ()]
    return "\n\n".join(lines)


def _estimate(found: Mapping[str, Any]) -> str:
    numbers = [found.get(name) for name in ("estimate", "low", "high")]
    texts = ["not finite" if one is None else f"{one:.4g}" for one in numbers]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _data(about: Mapping[str, Any]) -> str:
    data = about["data"]
    lines = [f"- name: {data['name']}", f"- source: `{data['source']}`"]
    if data["transitions"] is not None:
        part = part_of(data["subset"], data["hold_out"])
        lines.append(
            f"- {data['transitions']:,} transitions in {data['episodes']:,} episodes"
            f"{', ' * bool(part)}{part}; mean return {_number(data['mean_return'])}"
        )
    if about["environment"]:
        lines.append(f"- evaluated in: `{about['environment']}`")
    if data["fingerprint"]:
        lines.append(f"- fingerprint: `{data['fingerprint']}`")
    lines.append(f"- licence: {data['license'] or 'not known to xql; ask whoever owns the data'}")
    return "\n".join(lines)


def _observation(observation: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    size, columns, seen = observation["size"], observation["columns"], observation["seen"]
    head = f"{size} numbers, float32, in the units and the order of the data."
    names, offsets = [str(place) for place in range(size)], [0.0] * size
    if columns:
        head += " By name: one row of the table, a category as its text."
        names, offsets = list(observation["names"]), []
        for column in columns:
            offsets += [column["offset"]] * max(1, len(column["categories"]))
    if seen is None:
        why = f" ({data['not_seen']})" if data["not_seen"] else ""
        listing = (
            "" if not columns else "\n\n" + "\n".join(f"- {name}" for name in names[:MOST_ROWS])
        )
        return f"{head} The ranges seen in training are not known{why}.{listing}"
    ends = [seen[key] for key in ("low", "low_1_percent", "high_99_percent", "high")]
    rows = [
        (names[place], *(f"{end[place] + offsets[place]:.6g}" for end in ends))
        for place in range(min(size, MOST_ROWS))
    ]
    more = f"\n\n{size - MOST_ROWS} more in the JSON." if size > MOST_ROWS else ""
    return f"{head}\n\n{_table(('', 'lowest', '1 %', '99 %', 'highest'), rows)}{more}"


def _action(action: Mapping[str, Any]) -> str:
    columns = action["columns"]
    if action["kind"] == "discrete":
        text = f"One of {action['size']} actions, by its number from 0."
        categories = columns[0]["categories"] if columns else []
        return text + "".join(f"\n- {number}: {name}" for number, name in enumerate(categories))
    names = action["names"] or [str(place) for place in range(action["size"])]
    offsets = [column["offset"] for column in columns] if columns else [0.0] * action["size"]
    pairs = zip(names, action["low"], action["high"], offsets, strict=True)
    rows = [(name, f"{low + off:.6g}", f"{high + off:.6g}") for name, low, high, off in pairs]
    return (
        f"{action['size']} numbers, float32, in the units of the data, always within these "
        f"bounds.\n\n{_table(('', 'lowest', 'highest'), rows[:MOST_ROWS])}"
    )


def _limits(about: Mapping[str, Any]) -> str:
    lines = []
    if about["observation"]["seen"] is not None:
        lines.append(
            "- Outside the ranges above the policy has learned nothing. It answers all the same, "
            "within the bounds of the actions: a network extrapolates without saying so. Check "
            "inputs before (`policy.unfamiliar`), and fall back on what acted before."
        )
    else:
        lines.append(
            "- It answers for any finite observation, also for such as it has never seen: a "
            "network extrapolates without saying so."
        )
    if about["data"]["source"] != "online" and about["data"]["transitions"] is not None:
        lines.append(
            "- It was learned from logged data: a score in a simulator, or an estimate from a "
            "log, is no guarantee of what it does elsewhere."
        )
    lines.append("- NaN and infinities are refused, or have no meaning: fill in what is missing.")
    lines.append("- Its most likely action is a function of the observation: it never explores.")
    return "\n".join(lines)


def _made_with(about: Mapping[str, Any]) -> str:
    packages = "".join(f", {name} {version}" for name, version in about["versions"].items())
    return f"xql {about['xql']}{packages}."


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(one) for one in row) + " |" for row in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
