"""The cells of tables that are prepared, before anything is trained."""

from typing import Any

import pytest

from xql.experiments.offline_tables import TABLES, make_data


def test_the_kitchen_s_table_is_whole() -> None:
    table = TABLES["kitchen"]
    cells = table.cells(None)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 3 * 6 * 2
    agents = {name.split("-", 1)[1].rpartition("-")[0] for name in names}
    assert agents == {"xql-auto", "xql-consistent", "iql", "cql", "td3-bc", "bc"}
    for cell in cells:
        asked: Any = cell.configuration
        kind, observations = cell.name.split("-")[0], cell.name.split("-")[-1]
        assert asked["data"]["name"] == f"kitchen/{kind}-v0"
        assert asked["scaling"]["observations"] == observations
        assert (asked["steps"], len(asked["members"])) == (200_000, 4)
    assert "scripted, not D4RL" in table.note


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
