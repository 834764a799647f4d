"""The HTML page: what stands in it, that no name is more than text, and that a browser draws it."""

import base64
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xql.agents import XQLConfig
from xql.data.actions import Box, Discrete
from xql.data.columns import Column, TableColumns
from xql.data.scaling import Scaling
from xql.errors import InputError, MissingExtra
from xql.evaluation.scores import Reference
from xql.reports import (
    page,
    page_curves,
    page_figures,
    page_metrics,
    page_scores,
    page_series,
)
from xql.reports.page import write_page
from xql.reports.page_tables import _bounds
from xql.runs.config import DataConfig, EvaluationPlan, Extent, Member, OnlineLoop, RunConfig
from xql.runs.folder import Divergence, Evaluation, RunFolder
from xql.training.diagnostics import Diagnostics, load, save

VERDICT: dict[str, Any] = {
    "format": 1,
    "member": 0,
    "step": 3000,
    "data": {"name": "maze", "learned_from": False},
    "discount": 0.99,
    "policy": {"estimate": 12.5, "low": 11.0, "high": 14.0},
    "behaviour": {"estimate": 10.0, "low": 9.0, "high": None},
    "difference": {"estimate": 2.5, "low": 1.0, "high": 4.0},
    "support": {"distance": 0.5, "far": 0.4, "effective": 0.62},
    "critic": {"value": 7.0, "returns": 6.5, "error": 0.1, "unit": "the data's unit"},
    "warnings": ["in 40% of the states its action is far"],
    "verdict": "better",
}
NASTY = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>{{ 7 * 7 }}'
STEPS = 3000


def configured(*members: Member, name: str = "maze", steps: int = STEPS) -> RunConfig:
    zeros = np.zeros(2, np.float32)
    return RunConfig(
        agent="xql",
        preset="default",
        steps=steps,
        members=members,
        hyperparameters=XQLConfig(beta=2.0),
        sources={"beta": "given", "loss": "preset default: ours"},
        scaling=Scaling("auto", "raw", 0.5, 0.0, zeros, zeros + 1),
        data=DataConfig(
            name,
            "/home/somebody/logs/maze.npz",
            2,
            Box((-1.0,), (1.0,)),
            reference=Reference(0.0, 10.0, "here"),
            extent=Extent(1000, 50, 4.0),
        ),
        environment=None,
        evaluation=EvaluationPlan(evaluations=3, episodes=2, last_episodes=2),
    )


def run_at(path: Path, config: RunConfig, steps: int = STEPS) -> RunFolder:
    """A run with metrics and three evaluations, and none of the networks."""
    folder = RunFolder.create(path, config)
    count = len(config.members)
    random = np.random.default_rng(0)
    for step in range(100, steps + 1, 100):
        noise = 0.1 * random.normal(size=count)
        metrics = {
            "beta": 2.0 + noise + 5 * np.exp(-step / 500),
            "kl": 0.05 + 0.01 * noise,
            "effective_sample_size": 0.9 + 0.01 * noise,
            "v": step / 100 + noise,
            "critic_loss": np.exp(noise),
            "unheard_of": noise,
            "seconds": np.array([step / 10]),
        }
        folder.log_metrics(step, metrics)
    for step in range(1000, steps + 1, 1000):
        rows = [
            Evaluation(step, place, one.seed, episode, step / 400 + place + episode, 5, None, None)
            for place, one in enumerate(config.members)
            for episode in range(2)
        ]
        folder.log_evaluations(step, [row._replace(score=folder.score_of(row)) for row in rows])
    return folder


def diagnosed(folder: RunFolder, discrete: bool = False) -> None:
    """Diagnostics as training leaves them, with numbers of our own; the last member diverged."""
    random = np.random.default_rng(1)
    count = len(folder.config.members)
    values = random.gumbel(size=(count, 400))
    values[-1, :390] = np.nan
    numbers = 0 if discrete else 1
    save(
        folder,
        Diagnostics(
            step=STEPS,
            differences=values,
            beta=np.full(count, 2.0),
            values=values + 3,
            returns=random.normal(size=(1, 400)),
            distances=np.abs(random.normal(size=(count, 0 if discrete else 100))),
            logged=np.abs(0.5 * random.normal(size=0 if discrete else 100)),
            chosen=np.full((count, 4 if discrete else 0), 0.25),
            taken=np.full(4 if discrete else 0, 0.25),
            agreement=np.full(count if discrete else 0, 0.5),
            edges=np.linspace([-1.0] * numbers, 1.0, 41, axis=-1),
            acted=np.full((count, numbers, 40), 1 / 40),
            recorded=np.full((numbers, 40), 1 / 40),
            episode_returns=random.normal(4, 1, size=50),
            episode_lengths=np.full(50, 20),
            rewards=np.array([0.0, 0.1, 0.2, 0.3, 1.0]),
            terminated=0.5,
            truncated=0.5,
            unit="return",
        ),
    )


class Page(HTMLParser):
    """The elements of a page, and what its scripts and its text say."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside = ""
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.raw = path.read_text(encoding="utf-8")
        self.feed(self.raw)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def figures(self) -> dict[str, Any]:
        (data,) = (one for one in self.scripts if one.lstrip().startswith("["))
        return {one["name"]: one for one in json.loads(data)}

    def tags(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture
def without_vega(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vega takes a second to bundle, and only a browser needs it."""
    monkeypatch.setattr(page, "_bundle", lambda: "// Vega")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = run_at(tmp_path / "run", configured(Member(0), Member(1)))
    diagnosed(folder)
    return folder


pytestmark = pytest.mark.usefixtures("with_jinja")


@pytest.fixture
def with_jinja() -> None:
    pytest.importorskip("jinja2")


@pytest.mark.usefixtures("without_vega")
def test_what_stands_in_a_page(run: RunFolder, tmp_path: Path) -> None:
    path = write_page([run.path], tmp_path / "report.html")
    found = Page(path)
    assert [one["lang"] for one in found.tags("html")] == ["en"]
    assert len(found.tags("h1")) == 1
    names = [one["data-figure"] for one in found.tags("div") if "data-figure" in one]
    assert set(names) == set(found.figures) and len(set(names)) == len(names)
    assert {"score0", "differences", "values", "actions", "returns"} <= set(names)
    assert "unheard of" in found.text  # a metric that the page knows nothing of
    ids = [one["id"] for _, one in found.elements if "id" in one]
    assert len(ids) == len(set(ids))
    labels = [each.get("aria-labelledby", "") for _, each in found.elements]
    labelled = {one for each in labels for one in each.split()}
    assert labelled <= set(ids)
    tools = [one for one in found.tags("button") if "data-do" in one]
    assert len(tools) == 4 * len(names) and all("aria-label" in one for one in tools)
    # Last and best: (3000/400 + member + ½)/10 of the score, over two seeds.
    assert "85.0 [80.0, 90.0] score" in found.text
    assert "mean of the data" in json.dumps(found.figures["score0"])
    assert "complete" in found.text and "xql reproduce run" in found.text
    assert "maze.npz" in found.text and "/home/somebody" not in found.raw


@pytest.mark.usefixtures("without_vega")
def test_settings_say_who_chose_them(run: RunFolder, tmp_path: Path) -> None:
    text = Page(write_page([run.path], tmp_path / "report.html")).text
    assert "beta 2 you" in text
    assert "loss bounded preset default: ours" in text
    assert "critics 2 default" in text


@pytest.mark.usefixtures("without_vega")
def test_a_kl_is_compared_with_the_bound_that_the_members_have(tmp_path: Path) -> None:
    for kls, levels in (([], ["0.05"]), ([0.1], ["0.1"]), ([0.1, 0.2], [])):
        swept = [Member(seed, {"beta_kl": kl}) for seed, kl in enumerate(kls)]
        folder = run_at(tmp_path / f"{len(kls)}", configured(*(swept or [Member(0)])), 300)
        shown = page_series.series_of([folder])
        figures = page_metrics.metrics_of(shown, [one.key for one in shown])["temperature"]
        (drawn,) = [json.dumps(one.spec) for one in figures if one.title == "KL from the data"]
        assert sorted(set(re.findall(r'"level": ([\d.]+)', drawn))) == levels


def test_a_name_is_text_and_nothing_else(tmp_path: Path) -> None:
    folder = run_at(tmp_path / "a'b<b>&c", configured(Member(0), name=NASTY))
    origin = {"sessions": [{"command": f"xql train {NASTY}", "git": NASTY, "python": [NASTY]}]}
    (folder.path / "origin.json").write_text(json.dumps(origin))
    verdict = {"verdict": NASTY, "warnings": [NASTY], "data": {"name": NASTY}}
    (folder.path / "ope.json").write_text(json.dumps(verdict))
    other = run_at(tmp_path / "other", configured(Member(1), name=NASTY))
    plain = Page(write_page([other.path], tmp_path / "one.html"))
    for runs in ([folder.path], [folder.path, other.path]):
        found = Page(write_page(runs, tmp_path / "report.html"))
        assert found.tags("img") == [] and len(found.scripts) == len(plain.scripts) == 3
        assert not [name for _, one in found.elements for name in one if name.startswith("on")]
        assert "49" not in found.raw.split("<h1>")[1][:200]
        assert NASTY in found.raw.replace("&lt;", "<").replace("&gt;", ">").replace("&#34;", '"')


@pytest.mark.usefixtures("without_vega")
def test_only_its_own_scripts_run_and_nothing_is_loaded(run: RunFolder, tmp_path: Path) -> None:
    found = Page(write_page([run.path], tmp_path / "report.html"))
    (policy,) = (one["content"] for one in found.tags("meta") if "http-equiv" in one)
    code = [one for one in found.scripts if not one.lstrip().startswith("[")]
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in code]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert re.findall(r"sha256-([\w+/=]+)", policy) == digests
    loaded = [one[name] for _, one in found.elements for name in ("src", "href") if name in one]
    assert all(one.startswith(("data:", "#")) for one in loaded)


@pytest.mark.usefixtures("without_vega")
def test_several_runs_are_compared(tmp_path: Path) -> None:
    first = run_at(tmp_path / "first", configured(Member(0), Member(1)))
    second = run_at(tmp_path / "second", configured(Member(2), Member(3)))
    found = Page(write_page([first.path, second.path], tmp_path / "report.html"))
    assert "2 runs" in found.text and "first maze: xql: complete" in found.text
    assert "85.0 [75.0, 95.0]" not in found.text  # they are one method: four seeds in one row
    keys = [one["value"] for one in found.tags("input") if "value" in one]
    assert keys == ["s0", "s1"]
    lines = [one["shared"] for one in found.figures["score0"]["data"]]
    assert [one["k"] for one in lines] == ["s0", "s1", "s0", "s0", "s1", "s1"]
    assert [one["faint"] for one in lines] == [False] * 2 + [True] * 4
    # Seeds of one run share its key and its colour, and are lines of their own.
    assert len({one["m"] for one in lines}) == 6
    (seeds,) = (
        one
        for one in found.figures["score0"]["spec"]["layer"]
        if {"filter": "datum.faint && seeds"} in one.get("transform", [])
    )
    assert seeds["encoding"]["detail"] == {"field": "m"}
    third = run_at(tmp_path / "third", configured(Member(0), steps=4000))
    found = Page(write_page([first.path, third.path], tmp_path / "report.html"))
    assert "No table compares these runs" in found.text
    assert str(tmp_path) not in found.text
    assert "third maze: xql: interrupted at step 3,000 of 4,000" in found.text


def test_runs_are_called_by_their_names_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [RunFolder(Path(name), configured(Member(0))) for name in ("runs/a", ".")]
    said = "runs/a: a was played less. See runs/ab, /home/runs/a and .; runs/a.b has 1.5."
    assert page._without_folders(said, runs) == (
        f"a: a was played less. See runs/ab, /home/runs/a and {tmp_path.name}; runs/a.b has 1.5."
    )


@pytest.mark.usefixtures("without_vega")
def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", configured(Member(0)))
    found = Page(write_page([folder.path], tmp_path / "report.html"))
    assert "Nothing was evaluated" in found.text
    assert "What the networks make of the data is missing" in found.text
    (folder.path / "ope.json").write_text("[1, 2")
    (folder.path / "diagnostics.npz").write_text("no archive")
    folder.log_divergence(Divergence(0, 0, 100, "frozen", 100), {})
    found = Page(write_page([folder.path], tmp_path / "report.html"))
    assert "ope.json is damaged" in found.text
    assert "diagnostics.npz is damaged" in found.text
    assert "member 0 diverged: it is evaluated as it was at step 0" in found.text


@pytest.mark.usefixtures("without_vega")
def test_an_online_run_has_no_data_to_compare_with(tmp_path: Path) -> None:
    offline = configured(Member(0))
    online = replace(
        offline,
        loop=OnlineLoop(environments=3),
        data=replace(offline.data, source="online", extent=None),
    )
    found = Page(write_page([run_at(tmp_path / "run", online).path], tmp_path / "report.html"))
    assert (
        "An online run has no logged data to compare with. Its replay buffer is looked at"
        in found.text
    )
    assert "is missing" not in found.text and "3 environments" in found.text
    assert "Environment steps" in json.dumps(found.figures["score0"])


@pytest.mark.usefixtures("without_vega")
@pytest.mark.parametrize("gumbel", [True, False])
def test_an_online_run_is_compared_with_its_replay_buffer(tmp_path: Path, gumbel: bool) -> None:
    config = configured(Member(0))
    data = replace(config.data, source="online", extent=None)
    folder = run_at(tmp_path / "run", replace(config, loop=OnlineLoop(), data=data))
    diagnosed(folder)
    own = load(folder)
    assert own is not None
    own = own._replace(source="replay", difference="z = (y − Q) / β", episode_returns=np.zeros(0))
    save(folder, own if gumbel else own._replace(differences=np.zeros((1, 0)), beta=np.zeros(0)))
    found = Page(write_page([folder.path], tmp_path / "report.html"))
    assert "Of the last transitions in the replay buffer, at the last step." in found.text
    assert ("Distribution of z = (y − Q) / β" in found.text) == gumbel
    missing = "xql: (Q − V) / β is not drawn, since this agent has no Gumbel loss and so no β."
    assert (missing in found.text) == (not gumbel)
    assert "Value Q(s, a)" in json.dumps(found.figures["values"], ensure_ascii=False)
    assert "returns" not in found.figures and "replay buffer: mean" in found.text


@pytest.mark.usefixtures("without_vega")
def test_a_verdict_from_logged_data_stands_in_the_page(run: RunFolder, tmp_path: Path) -> None:
    (run.path / "ope.json").write_text(json.dumps(VERDICT))
    text = Page(write_page([run.path], tmp_path / "report.html")).text
    assert "The policy is better than the one that acted in the log." in text
    assert "policy 12.5 [11, 14]" in text and "behaviour policy 10 [9, n/a]" in text
    assert "which it has not learned from" in text and "in 40% of the states" in text
    # Beside the scores in a tile, and right after them.
    assert "From logged data 12.5 [11, 14] discounted return, estimated: better; behaviour" in text
    assert text.index("Scores") < text.index("From logged data alone") < text.index("Temperatures")
    assert (
        "0.5 × that of logged actions" in text and "40 % (the behaviour policy: about 5 %)" in text
    )
    assert "(effective sample size) 62 %" in text and "7, 6.5 (the data's unit)" in text
    (run.path / "ope.json").write_text(json.dumps(VERDICT | {"support": None, "critic": None}))
    text = Page(write_page([run.path], tmp_path / "report.html")).text
    assert "How much the data says of it" not in text


@pytest.mark.usefixtures("without_vega")
@pytest.mark.parametrize(
    ("episodes", "reason"),
    [(1, "there is one episode."), (7, "the interval of the difference contains 0.")],
)
def test_the_page_says_why_nothing_can_be_said(
    run: RunFolder, tmp_path: Path, episodes: int, reason: str
) -> None:
    data = {**VERDICT["data"], "episodes": episodes}
    (run.path / "ope.json").write_text(
        json.dumps(VERDICT | {"verdict": "cannot be said", "data": data})
    )
    text = Page(write_page([run.path], tmp_path / "report.html")).text
    assert f"is better than the one that acted in the log: {reason}" in text


@pytest.mark.usefixtures("without_vega")
def test_the_commands_name_a_run_that_was_called_by_a_dot(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.path)
    text = Page(write_page([Path()], tmp_path / "report.html")).text
    assert f"xql reproduce {run.path.name}" in text


@pytest.mark.usefixtures("without_vega")
def test_without_scores_the_verdict_comes_first(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", configured(Member(0)))
    (folder.path / "ope.json").write_text(json.dumps(VERDICT))
    text = Page(write_page([folder.path], tmp_path / "report.html")).text
    assert text.index("From logged data alone") < text.index("Nothing was evaluated.")


@pytest.mark.usefixtures("without_vega")
def test_each_number_of_an_action_has_a_figure_under_its_name(tmp_path: Path) -> None:
    columns = TableColumns((Column("height"), Column("speed")), (Column("<dose>"),), "reward")
    config = configured(Member(0), Member(1))
    named = replace(config, data=replace(config.data, columns=columns))
    folder = run_at(tmp_path / "run", named)
    diagnosed(folder)
    found = Page(write_page([folder.path], tmp_path / "report.html"))
    (figure,) = (one for name, one in found.figures.items() if name.startswith("action0"))
    assert figure["spec"]["description"].startswith("<dose>. Histograms. seed 0: mean ")
    assert [one["shared"] for one in figure["data"]] == [{"kind": "bar"}, {"k": "m0"}, {"k": "m1"}]
    assert len(figure["data"][0]["columns"]["x"]) == 40


@pytest.mark.usefixtures("without_vega")
def test_discrete_actions_have_the_names_of_their_categories(tmp_path: Path) -> None:
    grades = Column("grade", ("low", "middle", "high", "top"))
    columns = TableColumns((Column("height"), Column("speed")), (grades,), "reward")
    config = configured(Member(0))
    data = replace(config.data, actions=Discrete(4), columns=columns)
    folder = run_at(tmp_path / "run", replace(config, data=data))
    diagnosed(folder, discrete=True)
    found = Page(write_page([folder.path], tmp_path / "report.html"))
    shares = [one["shared"]["action"] for one in found.figures["action-shares"]["data"]]
    assert shares == [*grades.categories] * 2
    assert "action0" not in found.figures


@pytest.mark.usefixtures("without_vega")
def test_a_small_video_is_inside_and_a_large_one_is_linked(run: RunFolder, tmp_path: Path) -> None:
    (run.path / "video-1.mp4").write_bytes(b"small")
    (run.path / "video-2 #.mp4").write_bytes(bytes(page.EMBEDDED))
    found = Page(write_page([run.path], tmp_path / "report.html"))
    (inside,) = found.tags("video")
    assert inside["src"] == "data:video/mp4;base64," + base64.b64encode(b"small").decode()
    assert [one["href"] for one in found.tags("a")][-1] == "run/video-2%20%23.mp4"


@pytest.mark.usefixtures("without_vega")
def test_a_page_of_a_run_that_trains_loads_itself_again(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = Page(write_page([run.path], path, refresh=7))
    (live,) = (one for one in found.tags("input") if one.get("id") == "live")
    assert live["data-seconds"] == "7"
    assert not [one for one in Page(write_page([run.path], path)).tags("input") if "id" in one]


def test_a_missing_package_is_named(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page._bundle.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra, match=r"extreme-q-learning\[report\]"):
        write_page([run.path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("without_vega")
def test_a_page_that_cannot_be_written_is_one_line(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="no page can be written here"):
        write_page([run.path], tmp_path / "taken")
    with pytest.raises(InputError, match="no such run folder"):
        write_page([tmp_path / "none"], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        ((-1.0,) * 8, (1.0,) * 8, "within [-1, 1]"),
        ((0.0, 0.0), (100.0, 3.5), "within [0, 100], [0, 3.5]"),
        ((0.0,) * 7, (1.0,) * 6 + (2.0,), "within bounds from 0 to 2"),
    ],
)
def test_each_number_of_an_action_has_its_own_bounds(
    low: tuple[float, ...], high: tuple[float, ...], said: str
) -> None:
    assert _bounds(Box(low, high)) == said


def test_neighbours_are_averaged() -> None:
    steps, values = page_curves.thinned([1, 2, 3, 4, 5], np.arange(10.0).reshape(2, 5), points=2)
    assert steps == [2, 5]
    np.testing.assert_allclose(values, [[0.5, 3.0], [5.5, 8.0]])
    assert page_figures.numbers([1 / 3, np.nan, np.inf]) == [0.33333, None, None]


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("vl_convert")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


LABELS = (
    "[...document.querySelectorAll('#score0 .role-axis-label text')]"
    ".map(one => one.textContent).sort().join()"
)
LINES = "document.querySelectorAll('#score0 .mark-line path').length"
MARKS = (
    "[...document.querySelectorAll('.chart')].map(one => one.querySelectorAll("
    "'svg .mark-line path, svg .mark-symbol path, svg .mark-rect path').length)"
)
INK = "getComputedStyle(document.querySelector('.chart .role-axis-label text')).fill"


def until(opened: Any, expression: str) -> None:
    """Wait for the page; playwright's own waiting needs the evaluation that the page forbids."""
    for _ in range(600):
        if opened.evaluate(expression):
            return
        opened.wait_for_timeout(100)
    raise AssertionError(expression)


def test_a_browser_draws_every_figure(browser: Any, run: RunFolder, tmp_path: Path) -> None:
    one = write_page([run.path], tmp_path / "report.html")
    # Names that would be read as markup, and lines of all kinds, the dashed ones too.
    members = [Member(seed, {"discount": 0.9 + seed / 100}) for seed in range(9)]
    other = run_at(tmp_path / "a'b\"<b>&c{{7}}", configured(*members, name=NASTY))
    diagnosed(other, discrete=True)
    several = write_page([run.path, other.path], tmp_path / "several.html")
    assert one.stat().st_size < 4_000_000 and several.stat().st_size < 4_000_000
    inks = {}
    views = [(one, 1280, "light"), (one, 1280, "dark"), (one, 390, "light"), (several, 390, "dark")]
    for path, width, scheme in views:
        heard: list[str] = []
        opened = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        opened.on("console", lambda one, heard=heard: heard.append(one.text))
        opened.on("pageerror", lambda one, heard=heard: heard.append(str(one)))
        opened.on("request", lambda one, heard=heard: heard.append(one.url))
        opened.goto(path.as_uri())
        opened.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        count = opened.locator(".chart").count()
        until(opened, f"document.documentElement.dataset.drawn === '{count}'")
        # Requests are of the page itself and of what stands in it.
        assert [one for one in heard if not one.startswith(("file:", "data:"))] == []
        assert count > 8 and all(opened.evaluate(MARKS))
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        inks[scheme] = opened.evaluate(INK)
        if (width, scheme) == (1280, "light"):
            _check_switches(opened)
        opened.close()
    assert inks == {"light": "rgb(89, 99, 110)", "dark": "rgb(163, 173, 184)"}


def _check_switches(opened: Any) -> None:
    """A seed that is switched off is not drawn; zooming changes an axis, and back."""
    lines = opened.evaluate(LINES)
    opened.locator("#keys input").first.uncheck()
    until(opened, f"{LINES} < {lines}")
    labels = json.dumps(opened.evaluate(LABELS))
    opened.locator("#score0 [data-do=in]").click()
    until(opened, f"{LABELS} !== {labels}")
    opened.locator("#score0 [data-do=reset]").click()
    until(opened, f"{LABELS} === {labels}")


def test_the_data_has_a_level_only_in_the_unit_of_the_scores(tmp_path: Path) -> None:
    config = configured(Member(0))
    assert page_scores._level(RunFolder.create(tmp_path / "maze", config), "score") is not None
    kitchen = replace(config, environment='{"id": "FrankaKitchen-v1"}')
    assert page_scores._level(RunFolder.create(tmp_path / "kitchen", kitchen), "score") is None
