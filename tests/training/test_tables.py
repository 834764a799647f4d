"""From a table to a policy that takes the table's rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xql
from xql.cli import main
from xql.data.files import save_dataset
from xql.errors import InputError
from xql.runs.config import RunConfig


def test_a_policy_takes_a_row_of_its_table_and_returns_named_actions(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table: dict[str, Any] = {
        "batch": np.repeat(["b1", "b2"], 20),
        "t": np.tile(np.arange(20.0), 2),
        "east": 388096.5 + 0.001 * random.normal(size=40),
        "grade": random.choice(["A", "B"], 40),
        "valve_hot": random.uniform(10.0, 90.0, 40),
        "valve_cold": random.uniform(0.0, 1.0, 40),
        "gain": random.normal(size=40),
    }
    data = xql.open_table(
        table,
        observation="east",
        action="valve_*",
        reward="gain",
        episode="batch",
        time="t",
        categorical="grade",
    )
    source = save_dataset(data, tmp_path / "plant.npz")
    run = xql.train_offline(
        source,
        agent="bc",
        steps=2,
        options={"hidden": [4], "batch_size": 4},
        out=tmp_path / "run",
        progress=False,
    )
    columns = RunConfig.load(run.path).data.columns
    assert columns is not None
    assert columns.names("observation") == ["east", "grade=A", "grade=B"]
    policy = xql.load_policy(run.path)
    row = {name: values[3] for name, values in table.items()}
    named = policy.act(row)
    assert named == run.policy.act(row)
    assert list(named) == ["valve_hot", "valve_cold"]
    # The row is what the policy was trained on, and the actions are within the log's range.
    np.testing.assert_array_equal(columns.encode(row), data.observations[3])
    assert list(named.values()) == policy(data.observations[3]).tolist()
    for name, value in named.items():
        assert table[name].min() - 1e-4 <= value <= table[name].max() + 1e-4
    many = policy.act(table)
    assert many["valve_hot"][3] == pytest.approx(named["valve_hot"], rel=1e-5)
    with pytest.raises(InputError, match="grade is 'C', which the table never had"):
        policy.act(row | {"grade": "C"})


SHOP = (
    *("--observation", "basket", "--action", "offer", "--reward", "revenue"),
    *("--episode", "customer", "--time", "day", "--categorical", "segment"),
)


def write_shop(path: Path, customers: int = 6, seed: int = 0) -> Path:
    random, rows = np.random.default_rng(seed), ["customer,day,segment,basket,offer,revenue"]
    for customer in range(customers):
        for day in range(5):
            offer = random.choice(["none", "discount", "gift"])
            segment = "new" if customer % 2 else "loyal"
            rows.append(f"c{customer},{day},{segment},{20 + 5 * random.normal():.2f},{offer},{day}")
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_table_of_decisions_becomes_a_policy_and_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path / "shop.csv")
    write_shop(tmp_path / "later.csv", 5, seed=1)
    main(["data", "convert", "shop.csv", "shop.npz", *SHOP])
    main(["data", "info", "shop.npz"])
    # A terminal's width decides where the names break.
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 discrete actions: offer=discount, offer=gift, offer=none" in shown
    main(["data", "convert", "later.csv", "later.npz", "--like", "shop.npz"])
    run = xql.train_offline(
        "shop.npz",
        agent="bc",
        steps=2,
        options={"hidden": [4], "batch_size": 4},
        out="run",
        progress=False,
    )
    named = run.policy.act({"segment": "new", "basket": 20.0})
    assert named["offer"] in ("none", "discount", "gift")
    many = xql.load_policy("run").act({"segment": ["new", "loyal"], "basket": [20.0, 30.0]})
    assert many["offer"][0] == named["offer"] and len(many["offer"]) == 2
    main(["ope", "run", "--data", "later.npz", "--updates", "20", "--replicates", "2"])
    assert "behaviour policy" in capsys.readouterr().out
    # Another order of categories is another meaning of each number.
    text = (tmp_path / "later.csv").read_text().replace("gift", "voucher")
    (tmp_path / "other.csv").write_text(text)
    main(["data", "convert", "other.csv", "other.npz", *SHOP])
    with pytest.raises(SystemExit):
        main(["ope", "run", "--data", "other.npz"])
    said = capsys.readouterr().err
    assert "its action is not as in the data that the run learned from: offer differs" in said
    with pytest.raises(SystemExit):
        main(["data", "convert", "other.csv", "new.npz", "--like", "shop.npz"])
    assert "offer is 'voucher', which the table never had" in capsys.readouterr().err
