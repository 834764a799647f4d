"""Every preset value against the source tables, and what is refused."""

import csv
import importlib.resources
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from xql.agents import AGENTS, ONLINE, XQLConfig, configure
from xql.agents.hyperparameters import to_dict
from xql.errors import InputError
from xql.presets import DATA_OPTIONS, WARMUP, preset_names, resolve, suite

DATA = Path(os.environ.get("XQL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
TABLES = DATA.parent / "research" / "tables"

# dataset: (β of the paper's table, its clip), (script: β, clip, batch, V updates, its extra flag)
GOLDEN = {
    "halfcheetah-medium-v2": ((1.0, 7), (1.0, 7, 1024, 1, "noise=True")),
    "hopper-medium-v2": ((5.0, 7), (5.0, 7, 1024, 1, "")),
    "walker2d-medium-v2": ((10.0, 7), (10.0, 7, 1024, 1, "")),
    "halfcheetah-medium-replay-v2": ((1.0, 7), (1.0, 5, 256, 1, "")),
    "hopper-medium-replay-v2": ((2.0, 7), (2.0, 7, 256, 1, "")),
    "walker2d-medium-replay-v2": ((5.0, 7), (5.0, 5, 1024, 1, "")),
    "halfcheetah-medium-expert-v2": ((1.0, 7), (1.0, 5, 1024, 1, "")),
    "hopper-medium-expert-v2": ((1.0, 7), (2.0, 7, 1024, 1, "sample_random_times=1")),
    "walker2d-medium-expert-v2": ((2.0, 7), (2.0, 5, 256, 1, "")),
    "antmaze-umaze-v0": ((2.0, 7), (2.0, 7, 256, 1, "")),
    "antmaze-umaze-diverse-v0": ((5.0, 7), (5.0, 7, 256, 1, "sample_random_times=1")),
    "antmaze-medium-play-v0": ((0.8, 5), (0.8, 5, 256, 1, "")),
    "antmaze-medium-diverse-v0": ((1.0, 5), (0.6, 7, 256, 4, "")),
    "antmaze-large-play-v0": ((0.8, 5), (0.6, 5, 1024, 1, "")),
    "antmaze-large-diverse-v0": ((0.5, 5), (0.55, 5, 1024, 1, "")),
    "kitchen-complete-v0": ((2.0, 7), (2.0, 7, 1024, 1, "")),
    "kitchen-partial-v0": ((5.0, 7), (5.0, 7, 1024, 1, "")),
    "kitchen-mixed-v0": ((2.0, 7), (8.0, 7, 1024, 1, "")),
}
# suite: β of the one-β-per-suite runs, κ, policy schedule, reward scaling
SUITES = {
    "mujoco": (2.0, 3.0, "cosine", "return_range"),
    "antmaze": (0.6, 10.0, "constant", "minus_one"),
    "kitchen": (5.0, 0.5, "cosine", "raw"),
    "adroit": (5.0, 0.5, "cosine", "raw"),
}
DROPOUT = {"mujoco": 0.0, "antmaze": 0.0, "kitchen": 0.1, "adroit": 0.1}
SHARED = {
    "value_learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "policy_learning_rate": 3e-4,
    "hidden": (256, 256),
    "discount": 0.99,
    "polyak": 0.005,
    "value_layer_norm": True,
    "critic_layer_norm": False,
    "critic_loss": "huber",
    "huber_delta": 20.0,
    "weight_cap": 100.0,
    "critics": 2,
}
PUBLISHED = ("consistent", "tuned", "official")


def read_table(name: str) -> list[dict[str, str]]:
    if not (TABLES / name).is_file():
        pytest.skip(f"the source table {name} is not here")
    with (TABLES / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def file_of(agent: str) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    text = importlib.resources.files("xql.presets").joinpath(f"{agent}.yaml").read_text()
    return yaml.safe_load(text)


def extras(flag: str) -> dict[str, float]:
    return {
        "value_action_noise": 0.1 if flag == "noise=True" else 0.0,
        "value_random_actions": 1 if flag == "sample_random_times=1" else 0,
    }


def expect(config: XQLConfig, **values: object) -> None:
    assert {name: getattr(config, name) for name in values} == values


def test_the_golden_numbers_are_the_source_table_s() -> None:
    found = {}
    for row in read_table("hyperparameters_offline.csv"):
        found[row["dataset"]] = (
            (float(row["beta_paper"]), int(row["clip_paper"])),
            (
                float(row["beta_script"]),
                int(row["clip_script"]),
                int(row["batch_script"]),
                int(row["v_updates_script"]),
                row["extra_script_flags"],
            ),
        )
    assert found == GOLDEN


def test_the_golden_suites_are_the_source_table_s() -> None:
    rows = {row["suite"]: row for row in read_table("hyperparameters_offline_consistent.csv")}
    for name, (beta, inverse_temperature, _, _) in SUITES.items():
        row = rows[name]
        assert float(row["beta"]) == beta
        assert float(row["actor_temperature(1/AWR)"]) == inverse_temperature
        assert (row["clip"], row["batch"], row["v_updates"]) == ("7", "256", "1")


def test_the_golden_shared_values_are_the_source_table_s() -> None:
    rows = {row["name"]: row["value"] for row in read_table("hyperparameters_offline_shared.csv")}
    assert float(rows["actor/critic/value lr"]) == SHARED["value_learning_rate"]
    assert yaml.safe_load(rows["hidden"].replace("(", "[").replace(")", "]")) == [256, 256]
    assert float(rows["gamma"]) == SHARED["discount"]
    assert float(rows["tau"]) == SHARED["polyak"]
    assert (rows["value net LayerNorm"], rows["critic LayerNorm"]) == ("True", "False")
    assert rows["Q loss"] == "Huber, delta=20"
    assert float(rows["exp-advantage cap"]) == SHARED["weight_cap"]
    assert rows["actor schedule"] == "cosine (not antmaze)"
    assert rows["mujoco reward transform"] == "r*1000/(max_ret-min_ret)"
    assert rows["antmaze reward transform"] == "r-1"


@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_tuned_preset_is_the_paper_s_row(dataset: str) -> None:
    (beta, clip), _ = GOLDEN[dataset]
    _, inverse_temperature, schedule, rewards = SUITES[str(suite(dataset))]
    chosen = resolve("xql", "tuned", dataset)
    expect(chosen.config, beta=beta, clip=clip, batch_size=256, v_updates=1, loss="bounded")
    expect(chosen.config, inverse_temperature=inverse_temperature, policy_schedule=schedule)
    expect(chosen.config, policy_dropout=DROPOUT[str(suite(dataset))])
    expect(chosen.config, **SHARED, **extras(""))
    assert (chosen.rewards, chosen.observations) == (rewards, "raw")


@pytest.mark.parametrize("dataset", GOLDEN)
def test_the_official_preset_is_the_script_s_row(dataset: str) -> None:
    _, (beta, clip, batch, v_updates, flag) = GOLDEN[dataset]
    _, inverse_temperature, schedule, rewards = SUITES[str(suite(dataset))]
    chosen = resolve("xql", "official", dataset)
    expect(chosen.config, beta=beta, clip=clip, batch_size=batch, v_updates=v_updates)
    expect(chosen.config, loss="official", max_gradient_norm=None, **extras(flag))
    expect(chosen.config, inverse_temperature=inverse_temperature, policy_schedule=schedule)
    expect(chosen.config, policy_dropout=DROPOUT[str(suite(dataset))])
    expect(chosen.config, **SHARED)
    assert (chosen.rewards, chosen.observations) == (rewards, "raw")


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("hopper-medium-v2", "mujoco"),
        ("antmaze-large-play-v2", "antmaze"),
        ("D4RL/kitchen/mixed-v2", "kitchen"),
        ("door-human-v0", "adroit"),
    ],
)
def test_the_consistent_preset_is_its_suite_s_row(dataset: str, name: str) -> None:
    beta, inverse_temperature, schedule, rewards = SUITES[name]
    chosen = resolve("xql", "consistent", dataset)
    expect(chosen.config, beta=beta, clip=7.0, batch_size=256, v_updates=1)
    expect(chosen.config, inverse_temperature=inverse_temperature, policy_schedule=schedule)
    expect(chosen.config, policy_dropout=DROPOUT[str(suite(dataset))])
    expect(chosen.config, **SHARED, **extras(""))
    assert chosen.rewards == rewards


@pytest.mark.parametrize(
    ("preset", "dataset", "as_measured"),
    [
        ("fixed", "pointmaze/medium-play-v0", True),
        ("fixed", "antmaze/umaze-v0", True),
        ("fixed", "door-human-v0", True),
        ("consistent", "door-human-v0", True),
        ("default", "door-human-v0", False),
        ("default", "my-data", False),
        ("fixed", "hopper-medium-v2", False),
        ("consistent", "hopper-medium-v2", False),
    ],
)
def test_where_results_were_measured_the_loss_is_the_one_they_had(
    preset: str, dataset: str, as_measured: bool
) -> None:
    config = resolve("xql", preset, dataset).config
    expected = ("linear", 1.0) if as_measured else ("bounded", None)
    assert (config.loss, config.max_gradient_norm) == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_value_of_a_published_preset_goes_unchecked(name: str) -> None:
    rows = file_of("xql")[name]
    checked = {*SHARED, "beta", "clip", "batch_size", "v_updates", "loss", "max_gradient_norm"}
    checked |= {"inverse_temperature", "policy_schedule", "rewards", "observations"}
    checked |= {"value_action_noise", "value_random_actions", "policy_dropout"}
    assert set(rows) <= {"any", *SUITES, *GOLDEN}
    assert {key for section in rows.values() for key in section} <= checked


@pytest.mark.parametrize("agent", ["xql", "bc"])
def test_every_value_names_its_source(agent: str) -> None:
    for preset, sections in file_of(agent).items():
        for section, entries in sections.items():
            for key, entry in entries.items():
                assert set(entry) == {"value", "source"}, (preset, section, key)
                assert str(entry["source"]).strip(), (preset, section, key)


@pytest.mark.parametrize("dataset", ["my-data", "pointmaze/medium-v0", "hopper-medium-v2", "x"])
@pytest.mark.parametrize("agent", ["xql", "bc"])
def test_the_default_preset_has_settings_for_any_data(agent: str, dataset: str) -> None:
    chosen = resolve(agent, "default", dataset)
    assert {"rewards", "observations"} <= set(chosen.sources)


@pytest.mark.parametrize(("agent", "preset"), [("xql", "fixed"), ("iql", "default")])
@pytest.mark.parametrize("dataset", ["door-human-v0", "kitchen-mixed-v0"])
def test_what_door_peers_was_trained_with_has_no_dropout(
    agent: str, preset: str, dataset: str
) -> None:
    chosen = resolve(agent, preset, dataset)
    assert chosen.config.policy_dropout == 0.0
    assert "policy_dropout" in chosen.sources


def test_later_sections_win_and_the_user_wins_over_all() -> None:
    tuned = resolve("xql", "tuned", "antmaze-medium-play-v0")
    assert tuned.config.clip == 5.0  # the row's, over the 7 of `any`
    assert tuned.sources["clip"] == "preset tuned: paper"
    given = resolve("xql", "tuned", "antmaze-medium-play-v0", {"clip": 3, "rewards": "raw"})
    assert (given.config.clip, given.rewards) == (3.0, "raw")
    assert given.sources["clip"] == given.sources["rewards"] == "given"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("pointmaze/medium-v0", "pointmaze"),
        ("D4RL/door/human-v2", "adroit"),
        ("antmaze-umaze-v0", "antmaze"),
        ("walker2d-medium-v2", "mujoco"),
        ("openings", None),
        ("outdoor-v0", None),
    ],
)
def test_suites_are_known_by_whole_words(name: str, known: str | None) -> None:
    assert suite(name) == known


def test_a_version_more_or_less_is_the_same_row() -> None:
    assert resolve("xql", "tuned", "antmaze-large-play-v2").config.beta == 0.8


REFUSED = [
    ("xqll", "default", {}, "unknown agent 'xqll'; did you mean 'xql'?"),
    ("xql", "tunned", {}, "unknown preset 'tunned' of agent xql; did you mean 'tuned'?"),
    ("bc", "zzz", {}, "unknown preset 'zzz' of agent bc; choose from default"),
    ("xql", "default", {"bta": 1.0}, "unknown option 'bta' of agent xql; did you mean 'beta'?"),
    ("xql", "default", {"reward": "raw"}, "did you mean 'rewards'?"),
    ("bc", "default", {"beta": 1.0}, "unknown option 'beta' of agent bc"),
    (
        "xql",
        "default",
        {"beta": "high"},
        "option beta cannot be 'high'; it takes a number or 'auto'",
    ),
    ("xql", "default", {"beta": True}, "option beta cannot be True; it takes a number or"),
    ("xql", "default", {"beta": None}, "option beta cannot be None; it takes a number or"),
    ("xql", "default", {"beta": np.array([1.0, 2.0])}, "option beta cannot be array([1., 2.])"),
    ("xql", "default", {"critics": 2.5}, "option critics cannot be 2.5; it takes int"),
    ("xql", "default", {"critics": True}, "option critics cannot be True; it takes int"),
    ("xql", "default", {"value_layer_norm": 1}, "cannot be 1; it takes bool"),
    ("xql", "default", {"hidden": 256}, "option hidden cannot be 256"),
    ("xql", "default", {"hidden": []}, "option hidden cannot be []"),
    ("xql", "default", {"hidden": ["a"]}, "option hidden cannot be 'a'; it takes int"),
    ("xql", "default", {"loss": "gumble"}, "option loss cannot be 'gumble'; it takes 'plain' or"),
    ("xql", "default", {"max_gradient_norm": "x"}, "it takes float or None"),
    ("xql", "tuned", {}, "preset 'tuned' has no settings for 'my-data'; use `preset='default'`"),
    ("iql", "matched", {}, "'matched' knows mujoco, antmaze, kitchen, adroit, pointmaze"),
    ("x-sac", "paper", {}, "'paper' knows dm_control"),
    # Of the right type, but no number that the algorithm can run with.
    ("xql", "default", {"beta": 0.0}, "option beta cannot be 0"),
    ("xql", "default", {"beta": -1.0}, "option beta cannot be -1"),
    ("xql", "default", {"beta": float("nan")}, "option beta cannot be nan"),
    ("xql", "default", {"critics": 0}, "option critics cannot be 0"),
    ("xql", "default", {"batch_size": 0}, "option batch_size cannot be 0"),
    ("bc", "default", {"batch_size": 0}, "option batch_size cannot be 0"),
    ("xql", "default", {"v_updates": 0}, "option v_updates cannot be 0"),
    ("xql", "default", {"hidden": [64, 0]}, "option hidden cannot be (64, 0)"),
    ("xql", "default", {"discount": 1.5}, "option discount cannot be 1.5"),
    ("xql", "default", {"polyak": 0.0}, "option polyak cannot be 0"),
    ("xql", "default", {"maclaurin_order": 3}, "option maclaurin_order cannot be 3"),
    ("xql", "default", {"policy_learning_rate": -1e-3}, "option policy_learning_rate cannot be"),
    ("xql", "default", {"max_gradient_norm": 0.0}, "option max_gradient_norm cannot be 0"),
    ("xql", "default", {"policy_dropout": 1.0}, "option policy_dropout cannot be 1.0"),
    ("iql", "default", {"policy_dropout": -0.1}, "option policy_dropout cannot be -0.1"),
]


@pytest.mark.parametrize(("agent", "preset", "options", "line"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(
    agent: str, preset: str, options: dict[str, object], line: str
) -> None:
    with pytest.raises(InputError) as refusal:
        resolve(agent, preset, "my-data", options)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_data_options_are_no_hyperparameters_and_have_defaults() -> None:
    plain = resolve("td3-bc", "default", "my-data", {"observations": "raw"})
    assert {"rewards": plain.rewards, "observations": plain.observations} | {
        "subset": plain.subset
    } == DATA_OPTIONS
    assert "subset" not in plain.sources  # the library's own default
    given = resolve(
        "td3-bc", "default", "my-data", {"subset": "top:0.1", "observations": "standardised"}
    )
    assert (given.subset, given.observations) == ("top:0.1", "standardised")
    assert given.config == plain.config
    assert given.sources["subset"] == "given"


@pytest.mark.parametrize("agent", ["xql", "iql", "bc"])
def test_observations_are_scaled_by_need_where_no_suite_has_its_own(agent: str) -> None:
    assert resolve(agent, "default", "my-data").observations == "auto"
    fixed = "default" if agent != "xql" else "fixed"
    for known in ("pointmaze/medium-play-v0", "door-human-v0", "hopper-medium-v2"):
        assert resolve(agent, fixed, known).observations == "raw"


def test_a_population_brings_its_own_values_of_what_it_sweeps() -> None:
    with pytest.raises(InputError, match=r"has no beta"):
        resolve("xql", "tuned", "hopper-random-v2", swept={"discount"})
    chosen = resolve("xql", "tuned", "hopper-random-v2", swept={"beta"})
    assert "beta" not in chosen.sources


@pytest.mark.parametrize("agent", ["sac", "td3"])
def test_a_beta_is_refused_where_no_loss_has_one(agent: str) -> None:
    with pytest.raises(
        InputError, match=f"beta has no effect on agent {agent} as it is configured; leave"
    ):
        resolve(agent, "default", "Pendulum-v1", {"beta": 1.0})


@pytest.mark.parametrize("agent", AGENTS)
def test_no_preset_sets_what_it_could_not_set(agent: str) -> None:
    # Every section of every preset: the names are known, the values of the right type, in range.
    for preset, sections in file_of(agent).items():
        for section in sections:
            values = {key: entry["value"] for key, entry in sections[section].items()}
            config = {k: one for k, one in values.items() if k not in (*DATA_OPTIONS, WARMUP)}
            configure(agent, config)
            allowed = {WARMUP} if agent in ONLINE else {"rewards", "observations"}
            assert set(values) - set(config) <= allowed, (preset, section)


@pytest.mark.parametrize(
    ("agent", "dataset", "options", "idle"),
    [
        ("xql", "pointmaze/medium-play-v0", {"policy": "flow"}, "inverse_temperature"),
        ("cql", "antmaze-umaze-v2", {"lagrange": False}, "target_gap"),
    ],
)
def test_what_a_preset_sets_without_effect_is_read_back_as_it_was(
    agent: str, dataset: str, options: dict[str, object], idle: str
) -> None:
    assert idle in resolve(agent, "default", dataset).sources
    chosen = resolve(agent, "default", dataset, options)
    assert idle not in chosen.sources
    assert configure(agent, to_dict(chosen.config)) == chosen.config


def test_a_suite_without_a_beta_for_this_data_says_so() -> None:
    with pytest.raises(
        InputError, match=r"has no beta for 'hopper-random-v2'; give `options=\{'beta': …\}`"
    ):
        resolve("xql", "tuned", "hopper-random-v2")
    assert resolve("xql", "tuned", "hopper-random-v2", {"beta": 2.0}).config.beta == 2.0


def test_a_configuration_survives_yaml() -> None:
    config = resolve("xql", "official", "kitchen-mixed-v0").config
    stored = yaml.safe_load(yaml.safe_dump({**to_dict(config), "hidden": list(config.hidden)}))
    assert configure("xql", stored) == config


def test_preset_names() -> None:
    assert preset_names("xql") == ["default", "fixed", *PUBLISHED]
    assert preset_names("bc") == ["default"]


@pytest.mark.parametrize(
    ("name", "environment", "known"),
    [
        ("mine/ant-v0", '{"id": "xql/AntMaze_UMaze-v0", "kwargs": {}}', "antmaze"),
        ("mine/logs", '{"id":"FrankaKitchen-v1"}', "kitchen"),
        ("play", "PointMaze_Medium-v3", "pointmaze"),
        ("robot", "AdroitHandPen-v1", "adroit"),
        ("legs", "Ant-v5", "mujoco"),
        # An environment of no suite leaves it to the name.
        ("door-human-v0", "Pendulum-v1", "adroit"),
        ("hopper-medium-v2", '{"id": "xql/GoalAnt-v0"}', "mujoco"),
        ("dm_control/hopper-hop", "dm_control/hopper-hop", "dm_control"),
        ("mine/logs", "Pendulum-v1", None),
    ],
)
def test_the_environment_of_the_data_decides_the_suite(
    name: str, environment: str, known: str | None
) -> None:
    assert suite(name, environment) == known


def test_antmaze_data_of_any_name_gets_antmaze_s_settings() -> None:
    by_name = resolve("xql", "default", "antmaze-umaze-v0")
    by_task = resolve("xql", "default", "mine/ant-v0", task='{"id": "xql/AntMaze_UMaze-v0"}')
    assert by_task == by_name


@pytest.mark.parametrize(
    "dataset",
    ["pointmaze/medium-play-v0", "pointmaze/large-play-v0", *GOLDEN, "door-human-v0"],
)
def test_the_matched_preset_of_iql_is_xql_s_fixed_in_all_but_the_loss(dataset: str) -> None:
    ours, theirs = resolve("xql", "fixed", dataset), resolve("iql", "matched", dataset)
    of_xql, of_iql = to_dict(ours.config), to_dict(theirs.config)
    shared = of_xql.keys() & of_iql.keys()
    assert of_iql.keys() - shared == {"expectile"}
    assert {name: of_iql[name] for name in shared} == {name: of_xql[name] for name in shared}
    assert (theirs.rewards, theirs.observations) == (ours.rewards, ours.observations)
    published = resolve("iql", "default", dataset).config
    assert theirs.config.expectile == published.expectile


ANY_SUITE = [
    "my-data",
    "neorl2/DMSD",
    "pointmaze/medium-play-v0",
    "pointmaze/large-play-v0",
    "antmaze-umaze-v2",
    "door-human-v0",
    "hopper-medium-v2",
    "kitchen-mixed-v0",
]


@pytest.mark.parametrize("dataset", ANY_SUITE)
def test_by_default_everything_of_a_scale_tunes_itself_on_every_suite(dataset: str) -> None:
    chosen = resolve("xql", "default", dataset)
    assert chosen.config.beta == chosen.config.inverse_temperature == "auto"
    assert (chosen.rewards, chosen.observations, chosen.preset) == ("auto", "auto", "default")
    assert (chosen.config.loss, chosen.config.max_gradient_norm) == ("bounded", None)
    assert "choosing-beta" in chosen.sources["beta"]
    large = "pointmaze/large" in dataset
    assert chosen.config.discount == (0.995 if large else 0.99)
    # Saying so oneself changes nothing but the source.
    said = resolve("xql", "default", dataset, {"beta": "auto"})
    assert said.sources.pop("beta") == "given" and chosen.sources.pop("beta")
    assert said == chosen
    # Other agents have their own papers' settings.
    assert resolve("iql", "default", dataset).rewards != "auto"


@pytest.mark.parametrize("dataset", ANY_SUITE)
def test_where_a_beta_is_given_the_default_preset_is_fixed(dataset: str) -> None:
    # A β belongs to a unit of the rewards.
    given = resolve("xql", "default", dataset, {"beta": 2.0})
    assert given == resolve("xql", "fixed", dataset, {"beta": 2.0})
    assert given.preset == "fixed" and given.config.beta == 2.0
    assert given.sources["inverse_temperature"].startswith("preset fixed: ")
    swept = resolve("xql", "default", dataset, swept=["beta"])
    assert swept == resolve("xql", "fixed", dataset, swept=["beta"])
    assert swept._replace(config=None, sources={}) == given._replace(config=None, sources={})
    assert swept.config.inverse_temperature == given.config.inverse_temperature != "auto"
    # A β that tunes itself among the fixed settings can be asked for.
    mixed = resolve("xql", "fixed", dataset, {"beta": "auto"})
    assert (mixed.config.beta, mixed.rewards) == ("auto", given.rewards)


def test_a_bound_in_the_unit_of_returns_comes_only_with_rewards_in_it() -> None:
    bounded = resolve("xql", "default", "my-data")
    assert bounded.config.beta_optimism == 3.0 and "beta_optimism" in bounded.sources
    raw = resolve("xql", "default", "my-data", {"rewards": "raw"})
    assert raw.config.beta_optimism is None and "beta_optimism" not in raw.sources
    assert resolve("xql", "fixed", "door-x-v0", {"beta": "auto"}).config.beta_optimism is None
    given: dict[str, Any] = {"beta_optimism": 2.0, "rewards": "raw"}
    assert resolve("xql", "default", "my-data", given).config.beta_optimism == 2.0
    for none in (None, "none", "None"):
        free = resolve("xql", "default", "my-data", {"beta_optimism": none})
        assert free.config.beta_optimism is None and free.sources["beta_optimism"] == "given"


def test_fixed_has_a_beta_for_suites_alone() -> None:
    with pytest.raises(InputError) as refusal:
        resolve("xql", "fixed", "my-data")
    assert str(refusal.value) == (
        "preset 'fixed' has no beta for 'my-data'; give `options={'beta': …}`, or use "
        "`preset='default'`; 'fixed' has it for pointmaze, pointmaze/large-play-v0, antmaze, "
        "mujoco, kitchen, adroit"
    )
    # A file may be called as a section is.
    for name in ("any", "antmaze"):
        assert resolve("xql", "fixed", name, {"beta": 2.0}).rewards == "raw"


@pytest.mark.parametrize(
    ("agent", "options", "name"),
    [
        ("sac", {"target_network": "value"}, "target_network"),
        ("sac", {"loss": "official"}, "loss"),
        ("sac", {"max_gradient_norm": 0.1}, "max_gradient_norm"),
        ("sac", {"value_layer_norm": True}, "value_layer_norm"),
        ("x-sac", {"maclaurin_order": 4}, "maclaurin_order"),
        ("td3", {"max_gradient_norm": 0.1}, "max_gradient_norm"),
        ("x-td3", {"maclaurin_order": 4}, "maclaurin_order"),
        ("cql", {"initial_multiplier": 50.0}, "initial_multiplier"),
        ("iql", {"huber_delta": 0.5}, "huber_delta"),
        ("xql", {"critic_loss": "squared", "huber_delta": 0.5}, "huber_delta"),
        ("xql", {"maclaurin_order": 8}, "maclaurin_order"),
    ],
)
def test_an_option_of_something_that_is_off_is_refused(
    agent: str, options: dict[str, Any], name: str
) -> None:
    with pytest.raises(InputError, match=f"{name} has no effect on agent {agent} as it is"):
        resolve(agent, "default", "my-data", options)


def test_what_is_swept_does_not_tune_itself() -> None:
    # Else a state would have a temperature in training and none where the run is opened.
    swept = resolve("xql", "default", "my-data", swept=["inverse_temperature"])
    assert (swept.config.beta, swept.config.inverse_temperature) == ("auto", 3.0)
    with pytest.raises(InputError, match="policy_kl has no effect"):
        resolve("xql", "default", "my-data", {"policy_kl": 1.0}, swept=["inverse_temperature"])
