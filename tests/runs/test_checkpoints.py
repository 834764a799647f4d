import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xql.errors import InputError
from xql.runs.checkpoints import latest_step, load_checkpoint, load_latest, save_checkpoint


class Layer(eqx.Module):
    weight: jax.Array
    bias: jax.Array | None


class State(NamedTuple):
    network: Any
    optimizer: Any
    key: jax.Array
    step: Any
    target: Any = None


def state(seed: int, width: int = 5) -> State:
    key = jax.random.key(seed)
    weight = jax.random.normal(key, (3, width))
    return State(
        network=(Layer(weight, None), Layer(weight.T, jnp.full(3, jnp.nan))),
        optimizer={"mu": [weight * 1e-38, ()], "half": weight.astype(jnp.bfloat16), "none": None},
        key=jax.random.split(jax.random.key(seed, impl="rbg"), 4),
        step=jnp.asarray(seed, jnp.int32),
    )


def bits(tree: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    leaves = [
        np.asarray(jax.random.key_data(leaf))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.asarray(leaf)
        for leaf in jax.tree.leaves(tree)
    ]
    return [(str(leaf.dtype), leaf.shape, leaf.tobytes()) for leaf in leaves]


def test_round_trip_is_bit_exact_and_keeps_the_structure(tmp_path: Path) -> None:
    saved, template = state(7), state(8)
    save_checkpoint(tmp_path, 100, saved)
    step, loaded = load_latest(tmp_path, template)
    assert step == 100
    assert bits(template) != bits(saved)
    assert bits(loaded) == bits(saved)
    structure: Any = jax.tree.structure(loaded)
    assert structure == jax.tree.structure(saved)
    assert loaded.network[0].bias is None and loaded.target is None


def test_random_keys_keep_their_kind_and_draw_the_same_numbers(tmp_path: Path) -> None:
    saved = state(7)
    save_checkpoint(tmp_path, 1, saved)
    loaded = load_checkpoint(tmp_path, 1, state(8))
    assert jax.random.key_impl(loaded.key) == jax.random.key_impl(saved.key)
    drawn, expected = (jax.random.normal(one.key[2], (8,)) for one in (loaded, saved))
    np.testing.assert_array_equal(drawn, expected)


def test_numbers_numpy_arrays_and_empty_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    saved = {
        "number": 2.5,
        "count": 3,
        "flag": True,
        "host": np.array([1 / 3]),
        "no": jnp.ones((0, 2)),
    }
    template = {
        "number": 0.0,
        "count": 0,
        "flag": False,
        "host": np.zeros(1),
        "no": jnp.ones((0, 2)),
    }
    save_checkpoint(tmp_path, 1, saved)
    loaded = load_checkpoint(tmp_path, 1, template)
    assert (loaded["number"], loaded["count"], loaded["flag"]) == (2.5, 3, True)
    assert [type(loaded[key]) for key in saved] == [type(saved[key]) for key in saved]
    assert loaded["host"].dtype == np.float64 and loaded["host"][0] == 1 / 3
    assert loaded["no"].shape == (0, 2)


def test_a_loaded_state_can_be_donated_like_a_fresh_one(tmp_path: Path) -> None:
    saved = {"w": jnp.arange(1024, dtype=jnp.float32)}
    save_checkpoint(tmp_path, 1, saved)
    step = jax.jit(lambda tree: {"w": tree["w"] * 2}, donate_argnums=0)
    for _ in range(2):
        loaded = load_checkpoint(tmp_path, 1, saved)
        np.testing.assert_array_equal(step(loaded)["w"], np.arange(1024) * 2)


def test_the_latest_two_and_the_named_ones_stay(tmp_path: Path) -> None:
    assert latest_step(tmp_path) is None
    save_checkpoint(tmp_path, 10, {"x": jnp.ones(1)}, name="pretrained")
    for step in (10, 100, 20, 1000):
        save_checkpoint(tmp_path, step, {"x": jnp.full(1, step)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "1000", "pretrained"]
    assert latest_step(tmp_path) == 1000
    assert load_checkpoint(tmp_path, "pretrained", {"x": jnp.zeros(1)})["x"] == 1.0


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, 5, {"x": jnp.full(2, value)})
    assert load_checkpoint(tmp_path, 5, {"x": jnp.zeros(2)})["x"][0] == 2.0


KILLED_BEFORE_THE_RENAME = """
import os, pathlib, sys
import jax.numpy as jnp
from xql.runs.checkpoints import save_checkpoint

folder = pathlib.Path(sys.argv[1])
save_checkpoint(folder, 1, {"x": jnp.full(2, 1.0)})

def killed(*_, **__):
    os._exit(9)

os.rename = os.replace = pathlib.Path.rename = pathlib.Path.replace = killed
save_checkpoint(folder, 2, {"x": jnp.full(2, 2.0)})
"""


def test_a_killed_save_leaves_the_one_before_usable(tmp_path: Path) -> None:
    code = [sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(tmp_path)]
    assert subprocess.run(code, check=False).returncode == 9
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 2 and "1" in names  # the other is what the killed save left behind
    assert latest_step(tmp_path) == 1
    assert load_latest(tmp_path, {"x": jnp.zeros(2)})[1]["x"][0] == 1.0
    save_checkpoint(tmp_path, 3, {"x": jnp.full(2, 3.0)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def test_other_widths_name_the_leaf(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(0, width=5))
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path, 1, state(0, width=6))
    assert str(error.value) == (
        f"{tmp_path / '1'}: leaf .network[0].weight is float32[3, 5] here and float32[3, 6] "
        "in this configuration; load it with the configuration of its own run"
    )


def test_other_structures_name_the_leaf(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"a": jnp.ones(1), "b": jnp.ones(1)})
    with pytest.raises(InputError, match=r"leaf \['b'\] of this checkpoint has no place"):
        load_checkpoint(tmp_path, 1, {"a": jnp.ones(1)})
    with pytest.raises(InputError, match=r"this checkpoint has no leaf \['c'\]"):
        load_checkpoint(tmp_path, 1, {"a": jnp.ones(1), "b": jnp.ones(1), "c": jnp.ones(1)})


def test_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_latest(tmp_path / "nothing", {"x": 1.0})
    assert str(error.value) == (
        f"{tmp_path / 'nothing'}: there is no checkpoint; train first, or check the path"
    )
    save_checkpoint(tmp_path, 30, {"x": 1.0})
    with pytest.raises(InputError, match="there is no checkpoint 40; there are: 30"):
        load_checkpoint(tmp_path, 40, {"x": 1.0})


def test_a_damaged_checkpoint_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "7").mkdir()
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path, 7, {"x": jnp.ones(1)})
    line = (
        f"{tmp_path / '7'}: this checkpoint cannot be read (its description is missing or "
        "damaged); load an earlier one with `step`"
    )
    assert str(error.value) == line
    saved = {"x": jnp.arange(100_000) * 1.37}
    path = save_checkpoint(tmp_path, 8, saved)
    # The largest file holds the array; the description, in another, stays readable.
    largest = max((file for file in path.rglob("d/*")), key=lambda file: file.stat().st_size)
    largest.write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot be read \(.+\); load an earlier") as error:
        load_checkpoint(tmp_path, 8, saved)
    assert "\n" not in str(error.value) and "delete" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_damaged_latest_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": jnp.full(2, float(step))})
    empty = tmp_path / "3"
    empty.mkdir()
    with pytest.warns(UserWarning, match="checkpoint 3 is damaged, so that of step 2 is used"):
        step, loaded = load_latest(tmp_path, {"x": jnp.zeros(2)})
    assert (step, loaded["x"].tolist()) == (2, [2.0, 2.0])
    # Leaves of another configuration are no damage: an older checkpoint has them too.
    empty.rmdir()
    with pytest.raises(InputError, match=r"leaf .* is float32"):
        load_latest(tmp_path, {"x": jnp.zeros(3)})
    empty.mkdir()
    for step in (1, 2):
        for file in [one for one in (tmp_path / str(step)).rglob("*") if one.is_file()]:
            file.unlink()
    with pytest.raises(InputError, match=r"3: this checkpoint cannot be read"):
        load_latest(tmp_path, {"x": jnp.zeros(2)})


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_no_fault_of_the_checkpoint_is_not_called_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    import orbax.checkpoint as ocp

    def full(*_: object, **__: object) -> None:
        if wrapped:  # as Orbax does while it reads an array
            raise Exception("while reading") from MemoryError()
        raise MemoryError

    save_checkpoint(tmp_path, 1, {"x": jnp.ones(1)})
    monkeypatch.setattr(ocp.Checkpointer, "restore", full)
    with pytest.raises(Exception) as error:
        load_checkpoint(tmp_path, 1, {"x": jnp.ones(1)})
    assert not isinstance(error.value, InputError)


def test_only_folders_that_are_named_like_a_step_are_checkpoints(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, state(3))
    (tmp_path / "9").write_text("notes")
    (tmp_path / "٤").mkdir()
    (tmp_path / "04").mkdir()
    assert load_latest(tmp_path, state(0))[0] == 3


def test_a_pipe_in_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, 1, state(7))
    os.mkfifo(saved / "d" / "extra")
    with pytest.raises(
        InputError, match=r"this checkpoint cannot be read \(.*extra: this is a pipe\)"
    ):
        load_checkpoint(tmp_path, 1, state(8))
