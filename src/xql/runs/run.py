"""A finished run: its folder, its scores, its policies."""

from pathlib import Path

from xql.agents import TrainState, member
from xql.data.scaling import Scaling
from xql.evaluation.statistics import format_interval
from xql.runs.folder import Evaluation, RunFolder
from xql.runs.policy import Policy, agent_of, load_population
from xql.runs.summary import UNITS, Result, results


class Run:
    """What `train_offline` returns, and `Run.open` brings back.

    Attributes:
        folder: the files.
        population: the whole training state at the last step, every member.
    """

    def __init__(self, folder: RunFolder, population: TrainState) -> None:
        self.folder, self.population = folder, population

    @classmethod
    def open(cls, path: Path | str, step: int | None = None) -> "Run":
        """Come back to a run on disk, at `step` or else its latest checkpoint.

        Raises:
            InputError: no run, or no checkpoint.
        """
        folder = RunFolder.open(Path(path))
        return cls(folder, load_population(folder, step)[1])

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def policy(self) -> Policy:
        """The first member's policy at the last step."""
        return self.policies[0]

    @property
    def policies(self) -> list[Policy]:
        """Every member's policy at the last step, in the order of config.yaml."""
        agent, _ = agent_of(self.folder.config)
        scaling = Scaling.from_dict(self.folder.config["scaling"])
        networks = self.population.policy.network
        return [
            Policy(member(networks, index), agent.act, scaling)
            for index in range(len(self.folder.config["members"]))
        ]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Every episode that was played, on the way and at the end."""
        return self.folder.read_evaluations()

    @property
    def results(self) -> list[Result]:
        """Per β the score over seeds, at the last step and at each seed's best evaluation."""
        return results(self.evaluations) if self.evaluations else []

    def describe(self) -> str:
        """The scores in words, one line per β."""
        lines = []
        for result in self.results:
            beta = "" if result.beta is None else f"β = {result.beta:g}: "
            for summary in (result.last, result.best):
                score = f"{format_interval(summary.interval)} {UNITS[result.quantity]}"
                count = f"{summary.interval.seeds} seeds × {summary.episodes} episodes"
                lines.append(f"{beta}{score}, {summary.label}, {count}")
        for index, step in self.folder.read_frozen().items():
            lines.append(f"member {index} diverged: it is judged as it was at step {step:,}")
        return "\n".join(lines) or "not evaluated"
