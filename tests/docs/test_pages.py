"""README and the pages of docs/ are true: their Python runs, their commands parse, links lead on.

The Python blocks of one page run in order, in one namespace and in a temporary folder, which holds
the files that the pages name: `log.npz` and `log.parquet`, five episodes of random actions in
Pendulum, and `runs/`, a run trained on them for a few updates. A block that cannot run here, since
it downloads something or trains for minutes, follows an HTML comment that says so.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import io
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gymnasium
import numpy as np
import pytest
import tyro

import xql
from xql.agents import OFFLINE
from xql.cli import _OPTIONS, COMMANDS, _deferred, _load
from xql.data.files import save_dataset

ROOT = Path(__file__).parents[2]
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "repository" not in page.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md", *DOCS]
NOT_RUN = 3
"""Blocks that may be left out in all; each is one that a reader may find broken."""


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of the file, counted from 1, where the text begins."""
    not_run: str
    """The reason why, empty where it runs."""


def blocks(page: Path) -> Iterator[Block]:
    language, begin, lines, reason = "", 0, list[str](), ""
    fence = None
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        found = re.match(r"^\s*(`{3,}|:{3,})(.*)$", line)
        if fence is None and found:
            fence, language, begin, lines = found[1], found[2].strip(), number + 1, []
        elif fence is not None and found and found[1] == fence and not found[2].strip():
            yield Block(language, "\n".join(lines), begin, reason)
            fence, reason = None, ""
        elif fence is not None:
            lines.append(line)
        elif comment := re.match(r"^<!-- not run: (.+) -->$", line):
            reason = comment[1]
        elif line.strip():
            reason = ""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def log() -> dict[str, Any]:
    random, env = np.random.default_rng(0), gymnasium.make("Pendulum-v1")
    rows = []
    for episode in range(5):
        before, _ = env.reset(seed=episode)
        truncated = False
        while not truncated:
            action = random.uniform(-2, 2, 1).astype(np.float32)
            after, reward, terminated, truncated, _ = env.step(action)
            rows.append((before, action, reward, terminated, truncated, after))
            before = after
    env.close()
    names = "observations", "actions", "rewards", "terminated", "truncated", "next_observations"
    return {
        name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


@pytest.fixture(scope="module")
def files(log: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every page finds itself in a copy of."""
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "log.npz", **log)
    save_dataset(xql.open_dataset(log), folder / "log.parquet")
    first = folder / "runs" / "log-xql-1"
    xql.train_offline(
        folder / "log.npz",
        steps=2,
        beta=[1.0, 2.0],
        env="Pendulum-v1",
        out=first,
        options={"hidden": [8], "batch_size": 8},
        evaluations=1,
        last_episodes=1,
        progress=False,
    )
    for maze in ("umaze", "medium"):
        shutil.copytree(first, folder / "runs" / f"pointmaze-{maze}-play-v0-xql-1")
    return folder


PYTHON = {
    name_of(page): [block for block in blocks(page) if block.language == "python"] for page in PAGES
}


@pytest.mark.parametrize("page", [name for name, found in PYTHON.items() if found])
def test_python_blocks_run(
    page: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    shutil.copytree(files, here)
    monkeypatch.chdir(here)
    before = set(OFFLINE)
    namespace: dict[str, Any] = {"__name__": "__page__"}
    try:
        for block in PYTHON[page]:
            if not block.not_run:
                padded = "\n" * (block.line - 1) + block.text
                exec(compile(padded, str(ROOT / page), "exec"), namespace)
    finally:
        for name in set(OFFLINE) - before:  # an agent that the page added
            del OFFLINE[name]


def test_few_blocks_are_left_out() -> None:
    left_out = [block for found in PYTHON.values() for block in found if block.not_run]
    assert len(left_out) <= NOT_RUN


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def command_lines(page: Path) -> Iterator[tuple[str, bool]]:
    """Every command line in a page, and whether it stands in a sentence or a table."""
    text = page.read_text("utf-8")
    for block in blocks(page):
        if block.language in ("", "bash", "console", "text"):
            for line in block.text.splitlines():
                yield line.strip().removeprefix("$ "), False
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"^    (\S.*)$", outside, flags=re.MULTILINE):
        yield line, False
    for code in re.findall(r"`([^`\n]+)`", outside):
        yield code, True


def commands() -> list[tuple[str, str, bool]]:
    found = []
    for page in PAGES:
        for line, in_text in command_lines(page):
            plain = line.removeprefix(".venv/bin/")
            if plain.startswith("xql ") or plain == "xql":
                found.append((name_of(page), plain, in_text))
    return found


def option_names(command: Callable[..., Any]) -> set[str]:
    """The options of a command as Python spells them; some are called otherwise than in Python."""
    names = set()
    for one in inspect.signature(command).parameters.values():
        notes = getattr(one.annotation, "__metadata__", ())
        names |= {one.name, *filter(None, (getattr(note, "name", None) for note in notes))}
        kind = next(iter(get_args(one.annotation)), None)
        if dataclasses.is_dataclass(kind):  # options that several commands share
            names |= {field.name for field in dataclasses.fields(kind)}
    return names


def parse(line: str, in_text: bool) -> None:
    """Parse a command line as `xql` would, without running it."""
    arguments = words(line)[1:]
    place: Any = COMMANDS
    while isinstance(place, dict):
        if not arguments or arguments[0] in ("COMMAND", *_OPTIONS):
            return  # a group, in a sentence, or what xql itself does
        word = arguments.pop(0)
        assert word in place, f"there is no command {word!r}"
        place = place[word]
    if in_text:  # a part of a command line: the name of the command, perhaps an option or two
        known = option_names(_deferred(_load(place)))
        for word in arguments:
            name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
            assert not word.startswith("--") or name in known, f"there is no option {word}"
        return
    complaint = io.StringIO()
    with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
        try:
            tyro.cli(_deferred(_load(place)), args=arguments, prog="xql")
        except SystemExit as end:
            if end.code not in (0, None):
                pytest.fail(complaint.getvalue())


COMMAND_LINES = sorted(set(commands()))


def test_pages_hold_commands() -> None:
    assert len(COMMAND_LINES) > 60


@pytest.mark.parametrize("page", sorted({page for page, _, _ in COMMAND_LINES}))
def test_commands_parse(page: str) -> None:
    for where, line, in_text in COMMAND_LINES:
        if where == page:
            try:
                parse(line, in_text)
            except (AssertionError, pytest.fail.Exception) as error:
                raise AssertionError(f"{page}: {line}\n{error}") from None


def test_a_wrong_command_is_found() -> None:
    for line in ("xql trian", "xql train offline --dat x", "xql evaluate"):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            parse(line, False)


def test_modules_and_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        for line, _ in command_lines(page):
            if module := re.match(r"(?:\.venv/bin/)?python -m ([\w.]+)", line):
                if module[1].startswith("benchmarks."):
                    assert (ROOT / f"{module[1].replace('.', '/')}.py").exists(), (page, line)
                else:
                    assert importlib.util.find_spec(module[1]), (page, line)
            if target := re.match(r"make ([a-z]+)$", line.split("#")[0].strip()):
                assert target[1] in targets, (page, line)


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def headings(page: Path) -> set[str]:
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {slug(one) for one in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", sorted({*PAGES, *ROOT.glob("*.md")}), ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in headings(file), f"{name_of(page)}: {target}"


VERDICTS = {"reproduced", "partly", "not reproduced", "not tested"}


def test_every_verdict_is_its_section_s_and_every_number_has_its_results() -> None:
    page = ROOT / "docs" / "the-paper-beside-us.md"
    text = page.read_text("utf-8")
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    said = {
        slug(heading): re.findall(r"^\*\*Verdict: ([^.*]+)", part, flags=re.MULTILINE)
        for heading, part in zip(parts[1::2], parts[2::2], strict=True)
    }
    rows = re.findall(r"^\| \[[^]]+\]\(#([^)]+)\) \| \*\*(.+)\*\* \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) >= 15
    for section, verdict, reason in rows:
        assert verdict in VERDICTS and said.pop(section) == [verdict], section
        homes = re.findall(r"\]\(\.\./results/([\w-]+)/", reason)
        assert all((ROOT / "results" / home).is_dir() for home in homes), section
        assert homes or not re.search(r"\d", reason), f"{section}: a number without its results"
    assert not any(said.values()), "a section has a verdict and no row of the table"


def test_every_interval_of_the_claims_is_a_committed_one() -> None:
    interval = r"\d[\d.]* \[−?[\d.]+, −?[\d.]+\]"
    said = set(re.findall(interval, (ROOT / "docs" / "the-paper-beside-us.md").read_text("utf-8")))
    sources = [*ROOT.glob("results/*/*.md"), ROOT / "docs" / "where-xql-wins.md"]
    found = "\n".join(page.read_text("utf-8") for page in sources).replace("[-", "[−")
    found = found.replace(", -", ", −")
    assert len(said) > 40
    assert not said - set(re.findall(interval, found))
