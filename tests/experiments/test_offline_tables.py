"""The cells of tables that are prepared, before anything is trained."""

from typing import Any

import pytest

from xql.experiments.offline_tables import TABLES, make_data


def test_the_kitchen_s_table_is_whole() -> None:
    table = TABLES["kitchen"]
    cells = table.cells(None)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 3 * 7 * 2
    agents = {name.split("-", 1)[1].rpartition("-")[0] for name in names}
    xql = {"xql-auto", "xql-consistent", "xql-kappa-10"}
    assert agents == {*xql, "iql", "cql", "td3-bc", "bc"}
    for cell in cells:
        asked: Any = cell.configuration
        kind, observations = cell.name.split("-")[0], cell.name.split("-")[-1]
        assert asked["data"]["name"] == f"kitchen/{kind}-v0"
        assert asked["scaling"]["observations"] == observations
        assert (asked["steps"], len(asked["members"])) == (200_000, 4)
    assert "scripted, not D4RL" in table.note


@pytest.mark.parametrize(
    ("table", "datasets"),
    [
        (
            "mujoco",
            [
                f"{env}/{kind}-v0"
                for env in ("hopper", "halfcheetah", "walker2d")
                for kind in ("medium", "medium-replay", "medium-expert")
            ],
        ),
        (
            "antmaze-more",
            [
                f"antmaze/{task}-v0"
                for task in ("umaze-diverse", "medium-play", "medium-diverse", "large-play")
            ],
        ),
    ],
)
def test_a_suite_s_table_has_every_agent_on_every_dataset(table: str, datasets: list[str]) -> None:
    found: dict[str, set[str]] = {}
    for cell in TABLES[table].cells(None):
        asked: Any = cell.configuration
        assert (asked["steps"], len(asked["members"])) == (250_000, 2)
        found.setdefault(asked["data"]["name"], set()).add(asked["agent"])
    assert list(found) == datasets
    agents = {"xql", "iql", "td3-bc", "bc", "rebrac", "cql"}
    assert all(of == agents for of in found.values())


def test_the_kitchen_s_data_is_made_where_it_is_absent(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kitchen = pytest.importorskip("xql.collect.kitchen")
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made: list[str] = []
    monkeypatch.setattr(kitchen, "make_kitchen", made.append)
    (tmp_path / "kitchen" / "partial-v0").mkdir(parents=True)
    for name in ("complete-bc-raw", "partial-bc-raw", "mixed-bc-raw"):
        [cell] = [cell for cell in TABLES["kitchen"].cells(None) if cell.name == name]
        make_data(cell)
    assert made == ["complete", "mixed"]
