"""Kill runs at random times, resume them, and compare them with runs that were left alone.

    python tests/soak/kills.py --kills 100 --out results/kills

Each run trains in a process of its own, is killed by SIGKILL, resumed by `xql resume`, killed again
and so on; its last process is left alone. Then it must be the same as a run of the same settings
that was never killed: every array of its last checkpoint, its logs and its replay buffer.

What a kill may cost: a checkpoint is written while training goes on, and the next one waits for it.
So a kill loses at most the interval between two checkpoints, and, where one is being written, what
was trained since that one was begun. Steps that are lost are made again by the resumed process.
"""

import contextlib
import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_type_hints

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import gymnasium
import numpy as np
import tyro

from soak import reporting
from soak.reporting import Phase, prepare, read_notes
from xql.files import save_figure, write_text
from xql.reports.style import COLUMN, GREY, look, note, one_legend, panels, styled
from xql.runs import origin
from xql.runs.checkpoints import flatten, latest_step, load_extra
from xql.runs.folder import RunFolder
from xql.runs.policy import load_population

SHARE_ONLINE = 0.3
KILLS_EACH = 10
"""Of one run, before it is left alone."""
LONGEST = 0.25
"""Of the time that the training of the run that is left alone took: the latest time of a kill."""
START_SECONDS = 600
"""Until a process must train; the machine may be busy."""

SHOWN = ("training", "saving", "evaluating", "logging or ending")
"""What a kill interrupted, as the table and the figure count it."""

SMALL = ["--set", "hidden=[16]", "batch_size=16"]
DATA = "pendulum.npz"


@dataclass(frozen=True)
class Task:
    """What is trained."""

    kind: Literal["offline", "online"]
    agent: str
    env: str
    steps: int
    interval: int
    """Steps between two checkpoints."""
    more: tuple[str, ...] = ()

    def words(self, out: Path) -> list[str]:
        """The command line that trains it."""
        source = ["--data", f"d4rl:{DATA}"] if self.kind == "offline" else []
        words = ["train", self.kind, *source, "--env", self.env, "--agent", self.agent]
        words += ["--steps", str(self.steps), "--checkpoint-every", str(self.interval)]
        words += ["--seeds", "2", *SMALL, "--no-plot", "--out", str(out), *self.more]
        return words


def offline_task(agent: str, steps: int = 6_000, interval: int = 150) -> Task:
    """An agent that learns from random actions on a pendulum, 8 evaluations of 1 episode."""
    more = ("--evaluations", "8", "--episodes", "1", "--last-episodes", "2")
    return Task("offline", agent, "Pendulum-v1", steps, interval, more)


def online_task(agent: str, env: str, steps: int = 2_500, interval: int = 100) -> Task:
    """An agent that learns in an environment, 8 evaluations of 1 episode; its replay is kept."""
    more = ("--evaluations", "8", "--episodes", "1", "--last-episodes", "1")
    return Task("online", agent, env, steps, interval, (*more, "--warmup", "150", "--keep-replay"))


OFFLINE = [offline_task(agent) for agent in ("xql", "iql", "td3-bc")]
ONLINE = [
    online_task("x-td3", "InvertedPendulum-v5"),
    online_task("sac", "Pendulum-v1"),
    online_task("td3", "dm_control/cartpole-swingup"),
]


class Kill(NamedTuple):
    """One kill, and what was there afterwards."""

    kind: str
    agent: str
    env: str
    run: str
    number: int
    """Of this run."""
    seconds: float
    """Since the process had done its first update, or begun the evaluation that was due."""
    phase: str
    """What the main thread did; see `reporting.Phase`."""
    writing: bool
    """Whether a checkpoint was being written, or copied to be."""
    start: int
    """The step that the process had started from."""
    step: int
    """The last step that was done."""
    begun: int
    """The step of the last save that was begun."""
    saved: int
    """The step of the last save that was finished."""
    drafts: int
    """Half-written files and folders in the run's folder."""
    logged: int
    """The last step in metrics.jsonl; 0 where there is none."""
    cut: bool
    """Whether a log ends in the middle of a row."""
    resumed: int
    """The step that the next process started from; 0 where it was trained from the start."""
    lost: int
    """`step - resumed`."""
    most: int
    """What may be lost: the interval, and what was trained since a save in writing was begun."""
    fault: str
    """What was not as it should be; mostly nothing."""

    @property
    def shown(self) -> str:
        """The phase as the table and the figure count it."""
        if self.phase == Phase.evaluating.name:
            return "evaluating"
        if self.writing or self.phase == Phase.saving.name:
            return "saving"
        return "logging or ending" if self.phase in ("logging", "ending") else "training"


class Outcome(NamedTuple):
    """What became of a run."""

    run: str
    kills: int
    faults: list[str]
    """How it differs from the run that was left alone, and what else went wrong."""


def make_data(path: Path) -> None:
    """Ten episodes of random actions on a pendulum."""
    env, random = gymnasium.make("Pendulum-v1"), np.random.default_rng(0)
    rows: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "rewards", "terminals", "timeouts")
    }
    for episode in range(10):
        observation, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            action = random.uniform(-2, 2, 1).astype(np.float32)
            after, reward, terminated, ended, _ = env.step(action)
            values = (observation, action, np.float32(reward), terminated, ended)
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
            observation = after
    env.close()
    columns: dict[str, Any] = {name: np.array(values) for name, values in rows.items()}
    np.savez(path, **columns)


class Campaign:
    """Runs tasks in a folder, and keeps what happened.

    Attributes:
        kills: all of them, in the order in which they happened.
    """

    def __init__(self, work: Path, seed: int, say: Callable[[str], None] = print) -> None:
        self._work, self._seed, self._say = work, seed, say
        self.kills: list[Kill] = []
        self._lock = threading.Lock()
        source = Path(__file__).parents[2] / "src"
        self._environment = {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(work / "programs"),
            **os.environ,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]),
        }
        make_data(work / DATA)

    def run(self, tasks: Sequence[tuple[Task, int]], workers: int) -> list[Outcome]:
        """Kill each task's runs so many times, so many side by side as there are workers."""
        with ThreadPoolExecutor(workers) as pool:
            distinct = dict.fromkeys(task for task, _ in tasks)
            wholes = {task: pool.submit(self._whole, task) for task in distinct}
            lanes = [
                pool.submit(self._lane, place, task, kills, wholes[task])
                for place, (task, kills) in enumerate(tasks)
            ]
            return [one for lane in lanes for one in lane.result()]

    def _whole(self, task: Task) -> Outcome:
        """A run that is left alone."""
        whole = self._work / f"whole-{task.kind}-{task.agent}"
        code, said = self._plain(task.words(whole))
        return Outcome(whole.name, 0, [f"exit {code}: {said}"] if code != 0 else [])

    def _lane(self, place: int, task: Task, kills: int, wanted: Future[Outcome]) -> list[Outcome]:
        """Runs, one after the other, until all kills are done."""
        random = np.random.default_rng([self._seed, place])
        home = self._work / f"{place}-{task.agent}"
        home.mkdir()
        if wanted.result().faults:
            return [wanted.result()]
        whole = self._work / wanted.result().run
        outcomes: list[Outcome] = []
        longest = LONGEST * training_seconds(whole)
        while kills > 0:
            run = home / f"run{len(outcomes)}"
            count, faults = self._killed(task, run, min(kills, KILLS_EACH), random, longest)
            if not faults or run.is_dir():
                faults += differences(run, whole)
            outcomes.append(Outcome(f"{home.name}/{run.name}", count, faults))
            self._say(f"{outcomes[-1].run}: {count} kills, {faults or 'the same'}")
            kills -= count
            if count == 0:
                longest /= 2  # the machine is faster than it was
            shutil.rmtree(run, ignore_errors=bool(faults))
        return outcomes

    def _killed(
        self, task: Task, run: Path, kills: int, random: np.random.Generator, longest: float
    ) -> tuple[int, list[str]]:
        """Train, kill and resume a run until it is complete; how many kills, what is wrong."""
        faults: list[str] = []
        before: Kill | None = None
        done = 0
        while True:
            resumed = latest_step(run / "checkpoints")
            if resumed is None:
                shutil.rmtree(run, ignore_errors=True)
            words = task.words(run) if resumed is None else ["resume", str(run), "--no-plot"]
            if done == kills:
                sessions = len(origin.read(run))
                code, said = self._plain(words)
                added = origin.read(run)[sessions:]
                after = added[0]["step"] if added else -1
                kill = None
            else:
                seconds = float(random.uniform(0, longest))
                code, said, kill = self._kill_after(words, run, task, done, seconds)
                after = read_notes(run.with_suffix(".notes")).start
            if kill is None and code == 0 and after < 0:
                after = latest_step(run / "checkpoints") or 0  # nothing was left to do
            if before is not None:
                self._keep(before, after)
            if kill is None:
                if code != 0:
                    faults.append(f"exit {code}: {said}")
                elif "damaged" in said:
                    faults.append(f"something is damaged: {said}")
                return done, faults
            done, before = done + 1, kill

    def _keep(self, kill: Kill, resumed: int) -> None:
        """Add a kill, now that it is known where its run went on."""
        lost = kill.step - resumed
        fault = ""
        if resumed < 0:
            fault = "the next process did not train"
        elif lost > kill.most:
            fault = "more is lost than the interval allows"
        elif resumed not in (kill.saved, kill.begun):
            fault = "it went on from another step than the last save"
        with self._lock:
            self.kills.append(kill._replace(resumed=resumed, lost=lost, fault=fault))
            self._say(f"{len(self.kills)} {self.kills[-1]}")

    def _start(self, command: list[str], said: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self._work,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # an interruption of this script is not one of its runs
        )

    def _plain(self, words: list[str]) -> tuple[int, str]:
        """Run a command to its end; its exit status, and what it said."""
        with tempfile.TemporaryFile() as said:
            process = self._start(["-m", "xql", *words], said)
            try:
                return process.wait(), _text(said)
            finally:
                process.kill()

    def _kill_after(
        self, words: list[str], run: Path, task: Task, number: int, seconds: float
    ) -> tuple[int, str, Kill | None]:
        """Run a command, and kill it so many seconds after it has begun to train.

        Returns:
            Its exit status, what it said, and the kill; None where it ended before that.
        """
        path = run.with_suffix(".notes")
        prepare(path)
        with tempfile.TemporaryFile() as said:
            process = self._start([reporting.__file__, str(path), *words], said)
            try:
                started = time.monotonic()
                while process.poll() is None and read_notes(path).start < 0:
                    if time.monotonic() - started > START_SECONDS:
                        break
                    time.sleep(0.005)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=seconds)
            finally:
                process.kill()
                code = process.wait()
            if code != -signal.SIGKILL:
                return code, _text(said), None
            return code, _text(said), _examine(run, task, number, seconds)


def _text(said: Any) -> str:
    said.seek(0)
    return " | ".join(said.read().decode(errors="replace").split("\n")[-12:])[-600:]


def _examine(run: Path, task: Task, number: int, seconds: float) -> Kill:
    """What a killed process left; where its run goes on from is not known yet."""
    notes = read_notes(run.with_suffix(".notes"))
    logs = [run / name for name in ("metrics.jsonl", "evaluations.csv")]
    texts = [one.read_text(encoding="utf-8") if one.exists() else "" for one in logs]
    rows = texts[0].split("\n")[:-1]
    writing = notes.begun != notes.saved
    return Kill(
        kind=task.kind,
        agent=task.agent,
        env=task.env,
        run=f"{run.parent.name}/{run.name}",
        number=number,
        seconds=round(seconds, 3),
        phase=notes.phase.name,
        writing=writing,
        start=notes.start,
        step=notes.step,
        begun=notes.begun,
        saved=notes.saved,
        drafts=len(list_drafts(run)),
        logged=json.loads(rows[-1])["step"] if rows else 0,
        cut=any(text and not text.endswith("\n") for text in texts),
        resumed=-1,
        lost=0,
        most=task.interval + (notes.step - notes.begun if writing else 0),
        fault="",
    )


def list_drafts(run: Path) -> list[Path]:
    """Files and folders of a run that are not whole yet, or were to be removed."""
    folders = [run, run / "checkpoints"]
    return [
        path
        for folder in folders
        for pattern in (".*.part*", ".*.old", "*.orbax-checkpoint-tmp*")
        for path in folder.glob(pattern)
    ]


def training_seconds(run: Path) -> float:
    """How long a run trained, as its log says, without the first row: it has the compilation."""
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]
    took: float = last["seconds"][0] - first["seconds"][0]
    return took * last["step"] / (last["step"] - first["step"])


def differences(run: Path, whole: Path) -> list[str]:
    """Where a run is not the same as another, bit for bit; nowhere, if all is well."""
    found = []
    try:
        for name in ("evaluations.csv", "config.yaml", "frozen.csv", "divergence.jsonl"):
            one, other = (home / name for home in (run, whole))
            if one.exists() != other.exists():
                found.append(f"{name} is there in one alone")
            elif one.exists() and one.read_bytes() != other.read_bytes():
                found.append(name)
        if _metrics(run) != _metrics(whole):
            found.append("metrics.jsonl")
        found += _differing("checkpoint", _last_checkpoint(run), _last_checkpoint(whole))
        if (whole / "replay.npz").exists():
            kept, wanted = (dict(np.load(home / "replay.npz")) for home in (run, whole))
            found += _differing("replay.npz", kept, wanted)
    except Exception as error:
        found.append(f"it cannot be compared: {error!r}")
    found += [f"{path.name} is left" for path in list_drafts(run)]
    return found


def _metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _last_checkpoint(run: Path) -> dict[str, np.ndarray]:
    """All of a run's last checkpoint but the time that it took."""
    folder = RunFolder.open(run)
    _, population, step = load_population(folder)
    extra, notes = load_extra(folder.checkpoints, step)
    notes.pop("seconds")
    said = np.frombuffer(json.dumps(notes, sort_keys=True).encode(), np.uint8)
    return {"step": np.array(step), "notes": said, **flatten(population, "population"), **extra}


def _differing(
    what: str, arrays: dict[str, np.ndarray], wanted: dict[str, np.ndarray]
) -> list[str]:
    if arrays.keys() != wanted.keys():
        return [f"{what}: other arrays, {sorted(arrays.keys() ^ wanted.keys())}"]
    return [
        f"{what}: {name}"
        for name, array in wanted.items()
        if arrays[name].dtype != array.dtype
        or arrays[name].shape != array.shape
        or arrays[name].tobytes() != array.tobytes()
    ]


def share(tasks: Sequence[Task], kills: int) -> list[tuple[Task, int]]:
    """So many kills, shared among tasks: those of one run to each, in turn."""
    counts = [min(KILLS_EACH, kills - done) for done in range(0, kills, KILLS_EACH)]
    return list(zip(itertools.cycle(tasks), counts, strict=False))


def write_csv(kills: Sequence[Kill], path: Path) -> None:
    """A row for each kill."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Kill._fields)
        for kill in kills:
            writer.writerow(int(one) if isinstance(one, bool) else one for one in kill)


def read_csv(path: Path) -> list[Kill]:
    """What `write_csv` wrote."""
    read: dict[Any, Callable[[str], Any]] = {bool: lambda text: bool(int(text)), int: int}
    read[float] = float
    kinds = get_type_hints(Kill)
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Kill(**{name: read.get(kinds[name], str)(text) for name, text in row.items()})
            for row in csv.DictReader(file)
        ]


def table(
    kills: Sequence[Kill],
    outcomes: Sequence[Outcome],
    tasks: Sequence[Task],
    command: str,
    more: str,
) -> str:
    """What was found, in Markdown."""
    rows = []
    for kind, shown in itertools.product(("offline", "online"), SHOWN):
        those = [one for one in kills if (one.kind, one.shown) == (kind, shown)]
        if those:
            lost, ratio = [one.lost for one in those], max(one.lost / one.most for one in those)
            numbers = f"{len(those)} | {np.mean(lost):.0f} | {max(lost)} | {ratio:.2f}"
            rows.append(f"| {kind} | {shown} | {numbers} |\n")
    faults = [(one.run, one.fault) for one in kills if one.fault]
    faults += [(one.run, fault) for one in outcomes for fault in one.faults]
    differing = sum(bool(one.faults) for one in outcomes)
    beyond = sum(one.lost > one.most for one in kills)
    settings = sorted({(one.kind, one.steps, one.interval) for one in tasks})
    lengths = "; ".join(
        f"{kind} {steps:,} steps with a checkpoint every {interval}"
        for kind, steps, interval in settings
    )
    count = Counter(one.kind for one in kills)
    session = origin.this_session()
    packages = ", ".join(f"{name} {release}" for name, release in session["packages"].items())
    tried = ", ".join(f"{one.agent} ({one.env})" for one in tasks)
    commit = str(session["git"].get("revision", "unknown"))[:10]
    text = f"""# Kills

`{command}`: {len(kills)} times SIGKILL ({count["offline"]} offline, {count["online"]} online) at
random times, uniform in seconds from a process's first update on. {len(outcomes)} runs, each
resumed after every kill until it was complete, then compared with a run of the same settings that
was never killed: every array of the last checkpoint, metrics.jsonl without `seconds`,
evaluations.csv, and online replay.npz.

- Runs that differ from the one that was never killed, or otherwise failed: **{differing} of
  {len(outcomes)}**.
- Kills that lost more than they may: **{beyond} of {len(kills)}**.

A kill may lose the interval between two checkpoints and, where one is being written, what was
trained since that one was begun, since training goes on meanwhile. Lost steps are trained again, to
the same bits. *Saving* is every kill while a checkpoint was copied or written. *Steps lost* are
those done at the kill, by a note that each process makes of its step, less the step that the next
process started from.

| kind | killed while | kills | mean steps lost | most steps lost | the most, of what may be lost |
|---|---|---|---|---|---|
{"".join(rows)}
After {sum(one.drafts > 0 for one in kills)} kills something half-written lay in the run's folder,
and after {sum(one.cut for one in kills)} a log ended in the middle of a row.
{sum(one.resumed == 0 for one in kills)} kills came before the run's first checkpoint, and it was
trained from its start. {sum(one.lost == 0 for one in kills)} kills lost nothing.

Tasks: {lengths}; two seeds each, networks of one layer of 16, batch 16, 8 evaluations: {tried}.
Every kill is in kills.csv. [Figure](kills.png): steps lost in intervals, beside what may be lost.
{more}

xql {session["xql"]} ({commit}), Python {session["python"]}, {packages}; {session["cores"]} core of
an {session["processor"]}.
"""
    if faults:
        text += "\n## Faults\n\n" + "".join(f"- {run}: {fault}\n" for run, fault in faults)
    return text


@styled
def draw(kills: Sequence[Kill], tasks: Sequence[Task], path: Path) -> Path:
    """What each kill lost, in intervals, beside what it may lose."""
    interval: dict[str, int] = {one.kind: one.interval for one in tasks}
    figure, (axes,) = panels(1, 1, COLUMN, 2.3)
    ordered = sorted(kills, key=lambda one: one.kind)
    for place, one in enumerate(ordered):
        axes.plot(place + 1, one.most / interval[one.kind], "_", color="#999999", ms=4)
    axes.plot([], [], "_", color="#999999", label="may be lost")
    for index, shown in enumerate(SHOWN):
        those = [(at + 1, one) for at, one in enumerate(ordered) if one.shown == shown]
        own = look(index)
        axes.plot(
            [at for at, _ in those],
            [one.lost / interval[one.kind] for _, one in those],
            own["marker"],
            color=own["color"],
            ms=2.6,
            label=f"{shown} ({len(those)})",
        )
    axes.axhline(1, color=GREY, lw=1.0, ls=(0, (5, 3)))
    first_online = sum(one.kind == "offline" for one in kills) + 0.5
    axes.axvline(first_online, color="#cccccc", lw=0.8)
    axes.set_xlabel("Kill: first offline, then online runs")
    axes.set_ylabel("Lost (checkpoint intervals)")
    axes.set_ylim(-0.05, None)
    axes.margins(x=0.02)
    axes.grid(axis="y")
    one_legend(figure, [axes], columns=2)
    note(figure, "Colours and markers: what the run did when it was killed.")
    return save_figure(figure, path, vector=True)


def main(
    kills: int = 100,
    out: Path | None = None,
    workers: int = 1,
    seed: int = 0,
    kill: bool = True,
) -> None:
    """Kill runs at random times; exit 1 where anything is lost or differs.

    Args:
        kills: how many, three of ten online.
        out: where kills.csv, table.md and the figure go; nothing is written without it.
        workers: runs side by side.
        seed: of the times.
        kill: without, only draw the figure again from the kills.csv in `out`.
    """
    if not kill and out is not None:
        draw(read_csv(out / "kills.csv"), [*OFFLINE, *ONLINE], out / "kills.png")
        return
    online = round(SHARE_ONLINE * kills)
    shared = [*share(OFFLINE, kills - online), *share(ONLINE, online)]
    tasks = list(dict.fromkeys(task for task, _ in shared))
    began, load = time.monotonic(), os.getloadavg()[1]
    with tempfile.TemporaryDirectory() as work:
        campaign = Campaign(Path(work), seed, lambda text: print(text, flush=True))
        outcomes = campaign.run(shared, workers)
    took = (time.monotonic() - began) / 60
    command = f"python tests/soak/kills.py --kills {kills} --workers {workers} --seed {seed}"
    more = (
        f"It took {took:.0f} minutes; other programs ran on the machine (a load of {load:.0f} at "
        f"the beginning, {os.getloadavg()[1]:.0f} at the end)."
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(campaign.kills, out / "kills.csv")
        text = table(campaign.kills, outcomes, tasks, f"{command} --out {out}", more)
        write_text(out / "table.md", text)
        draw(campaign.kills, tasks, out / "kills.png")
    wrong = [one for one in campaign.kills if one.fault] + [one for one in outcomes if one.faults]
    print(f"{len(campaign.kills)} kills, {len(outcomes)} runs, {len(wrong)} with faults")
    for one in wrong:
        print(one)
    sys.exit(1 if wrong or len(campaign.kills) != kills else 0)


if __name__ == "__main__":
    tyro.cli(main)
