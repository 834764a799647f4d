"""The online agents' presets against the source tables."""

import csv
import importlib.resources
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from worlds import register_line
from xql.agents import ONLINE
from xql.agents.hyperparameters import inactive
from xql.cli.train import online
from xql.errors import InputError
from xql.presets import preset_names, preset_warmup, resolve
from xql.runs.config import OnlineLoop
from xql.training.online import loop_for, plan_online

DATA = Path(os.environ.get("XQL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
TABLES = DATA.parent / "research" / "tables"
LINE = register_line()

# task: β of X-SAC, of X-TD3 with two critics, and with one
BETAS = {
    "cheetah-run": (2.0, 5.0, 4.0),
    "walker-run": (1.0, 2.0, 4.0),
    "hopper-hop": (2.0, 2.0, 3.0),
    "quadruped-run": (5.0, 5.0, 20.0),
}
SAC = {"batch_size": 1024, "hidden": (1024, 1024), "critics": 2, "discount": 0.99, "polyak": 0.005}
SAC |= {f"{name}_learning_rate": 1e-4 for name in ("value", "critic", "policy", "temperature")}
# Not in the paper's tables, but in the published configuration beside it.
SAC |= {"initial_temperature": 0.1, "target_delay": 2}
WARMUP = {"sac": 5_000, "x-sac": 5_000, "td3": 25_000, "x-td3": 25_000}
TD3 = {"batch_size": 256, "hidden": (256, 256), "critics": 2, "discount": 0.99, "polyak": 0.005}
TD3 |= {"critic_learning_rate": 1e-3, "policy_learning_rate": 1e-3, "policy_delay": 2}
TD3 |= {"target_noise": 0.2, "target_noise_clip": 0.5}
GUMBEL = {"clip": 8.0, "loss": "official", "max_gradient_norm": None}


def read_table(name: str) -> list[dict[str, str]]:
    if not (TABLES / name).is_file():
        pytest.skip(f"the source table {name} is not here")
    with (TABLES / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def file_of(agent: str) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    text = importlib.resources.files("xql.presets").joinpath(f"{agent}.yaml").read_text()
    return yaml.safe_load(text)


def values(
    agent: str, preset: str, environment: str, names: dict[str, object]
) -> dict[str, object]:
    config = resolve(agent, preset, environment).config
    return {name: getattr(config, name) for name in names}


def test_the_golden_temperatures_are_the_source_table_s() -> None:
    columns = ("beta_X-SAC", "beta_X-TD3", "beta_X-TD3-DQ")
    rows = read_table("hyperparameters_online.csv")
    found = {row["env"].lower(): tuple(float(row[name]) for name in columns) for row in rows}
    assert found == BETAS


def test_the_golden_shared_values_are_the_source_table_s() -> None:
    rows = {row["name"]: row for row in read_table("hyperparameters_online_shared.csv")}
    for column, golden in (("SAC", SAC), ("TD3", TD3)):
        assert int(rows["batch"][column]) == golden["batch_size"]
        assert float(rows["lr"][column]) == golden["critic_learning_rate"]
        width, layers = rows["hidden"][column].split("x")
        assert (int(width),) * int(layers) == golden["hidden"]
    assert int(rows["actor update freq"]["TD3"]) == TD3["policy_delay"]
    assert int(rows["actor update freq"]["SAC"]) == 1
    assert float(rows["target noise"]["TD3"]) == TD3["target_noise"]
    assert rows["exploration noise"]["TD3"] == "0.1 (0.05 Hopper)"
    assert float(rows["loss clip"]["TD3"]) == GUMBEL["clip"]
    assert rows["loss clip"]["SAC"].startswith("8 (paper)")


@pytest.mark.parametrize("task", BETAS)
def test_the_paper_s_settings_of_each_task(task: str) -> None:
    environment = f"dm_control/{task}"
    x_sac, x_td3, _ = BETAS[task]
    noise = {"exploration_noise": 0.05 if task == "hopper-hop" else 0.1}
    for agent, golden in (
        ("sac", SAC | {"value": "soft"}),
        ("x-sac", SAC | GUMBEL | {"value": "gumbel", "target_network": "value", "beta": x_sac}),
        ("td3", TD3 | noise | {"loss": "squared"}),
        ("x-td3", TD3 | GUMBEL | noise | {"beta": x_td3}),
    ):
        assert values(agent, "paper", environment, golden) == golden, agent
        assert preset_warmup(agent, "paper", environment) == WARMUP[agent]


@pytest.mark.parametrize("task", BETAS)
def test_the_default_presets_take_the_paper_s_temperatures_where_it_has_them(task: str) -> None:
    x_sac, x_td3, _ = BETAS[task]
    for agent, beta in (("x-sac", x_sac), ("x-td3", x_td3)):
        assert resolve(agent, "default", f"dm_control/{task}").config.beta == beta


def test_the_temperatures_without_double_q_are_named_beside_the_others() -> None:
    text = importlib.resources.files("xql.presets").joinpath("x-td3.yaml").read_text()
    head = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    for task, (_, _, beta) in BETAS.items():
        assert f"{task} {beta:g}" in head


def test_a_preset_s_warm_up_is_the_loop_s_where_none_is_given() -> None:
    def warmup(preset: str, steps: int, **more: Any) -> int:
        loop = plan_online(LINE, agent="td3", preset=preset, steps=steps, **more).loop
        assert loop is not None
        return loop.warmup

    assert warmup("default", 300_000) == 5_000
    assert warmup("default", 60_000) == 3_000
    assert preset_warmup("td3", "default", LINE) is None
    assert preset_warmup("td3", "no such preset", LINE) is None
    assert preset_warmup("a" * 300, "default", LINE) is None
    environment = "dm_control/hopper-hop"
    for steps, expected in ((300_000, 25_000), (40_000, 20_000), (1, 1)):
        loop = loop_for(steps, preset_warmup("x-td3", "paper", environment))
        assert loop.warmup == expected
    # No hyperparameter: it cannot be set as one.
    with pytest.raises(InputError, match="unknown option 'warmup' of agent td3"):
        resolve("td3", "paper", environment, {"warmup": 3})


def test_the_command_takes_the_preset_s_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[OnlineLoop] = []
    monkeypatch.setattr(
        "xql.training.online.train_online", lambda *_, **given: loops.append(given["loop"])
    )
    monkeypatch.setattr("xql.cli.train.finish", lambda *_: None)
    monkeypatch.setattr("xql.training.population.use_all_cores", lambda: None)
    for more in ({}, {"preset": "paper"}, {"preset": "paper", "warmup": 7}):
        online("dm_control/hopper-hop", steps=100_000, **more)
    assert [loop.warmup for loop in loops] == [5_000, 25_000, 7]


@pytest.mark.parametrize("agent", ["sac", "x-sac"])
def test_sac_by_default_fits_a_laptop(agent: str) -> None:
    laptop = {"hidden": (256, 256), "batch_size": 256}
    laptop |= {f"{name}_learning_rate": 3e-4 for name in ("value", "critic", "policy")}
    laptop |= {"temperature_learning_rate": 3e-4}
    for environment in ("HalfCheetah-v5", "dm_control/hopper-hop", "anything"):
        assert values(agent, "default", environment, laptop) == laptop


@pytest.mark.parametrize("agent", ONLINE)
def test_every_value_names_its_source(agent: str) -> None:
    for preset, sections in file_of(agent).items():
        for section, entries in sections.items():
            for key, entry in entries.items():
                assert set(entry) == {"value", "source"}, (preset, section, key)
                assert str(entry["source"]).strip(), (preset, section, key)


@pytest.mark.parametrize("agent", ONLINE)
def test_the_default_preset_has_settings_for_any_environment(agent: str) -> None:
    for environment in ("anything", "HalfCheetah-v5", "dm_control/cartpole-swingup"):
        chosen = resolve(agent, "default", environment)
        assert ("beta" in chosen.sources) == (agent in ("x-sac", "x-td3"))
        assert ("beta" in inactive(chosen.config)) == (agent not in ("x-sac", "x-td3"))


def test_what_the_paper_s_presets_do_not_know_they_say() -> None:
    with pytest.raises(InputError, match="preset 'paper' has no settings for 'HalfCheetah-v5'"):
        resolve("x-td3", "paper", "HalfCheetah-v5")
    with pytest.raises(
        InputError,
        match=r"has no beta for 'dm_control/cartpole-swingup'; give `options=\{'beta': …\}`",
    ):
        resolve("x-sac", "paper", "dm_control/cartpole-swingup")
    assert {name: preset_names(name) for name in ONLINE} == {
        "sac": ["default", "paper"],
        "x-sac": ["default", "paper"],
        "td3": ["default", "paper"],
        "x-td3": ["default", "paper"],
        "ddpg": ["default"],
    }


@pytest.mark.parametrize(
    ("agent", "option", "value"),
    [
        ("td3", "policy_delay", 0),
        ("td3", "target_noise", -0.1),
        ("td3", "exploration_noise", float("inf")),
        ("td3", "loss", "huber"),
        ("sac", "initial_temperature", 0.0),
        ("sac", "value", "V"),
    ],
)
def test_settings_out_of_range_are_refused(agent: str, option: str, value: object) -> None:
    with pytest.raises(InputError, match=f"option {option} cannot be"):
        resolve(agent, "default", "HalfCheetah-v5", {option: value})
