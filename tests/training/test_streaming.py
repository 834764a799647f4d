"""Streaming: every transition once in each epoch, whole, wherever a run goes on from."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats

import xql
from worlds import line_data, same_bits
from xql.agents import Batch
from xql.cli import main
from xql.data.dataset import Dataset, DeviceData
from xql.data.files import save_dataset
from xql.data.scaling import apply_scaling, fit_scaling, least_returns
from xql.errors import InputError
from xql.runs.config import RunConfig
from xql.training import offline, streaming
from xql.training.population import draw, train_chunk, transitions_at
from xql.training.streaming import Order, Stream

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 16)


def numbered(transitions: int = 1003) -> Dataset:
    """Transitions that are told apart by their first observation, in episodes of 1 to 40 steps."""
    random = np.random.default_rng(0)
    ends = random.random(transitions) < 0.05
    ends[3:7] = True
    number = np.arange(transitions, dtype=np.float32)
    observations = np.stack([number, random.normal(size=transitions)], axis=1)
    return Dataset.from_arrays(
        observations,
        random.normal(size=(transitions, 2)),
        random.normal(size=transitions),
        ends & (random.random(transitions) < 0.5),
        ends,
        next_observations=observations + np.float32(0.5),
        episode=np.cumsum(ends) - ends,
    )


def streamed(data: Dataset, size: int = 128, drawn: int = 32, **more: Any) -> Stream:
    scaling = fit_scaling(data, "raw", "raw")
    return Stream(data, scaling, size=size, drawn=drawn, sharding=HERE, **more)


def buffers(stream: Stream, count: int) -> Iterator[DeviceData]:
    for number in range(count):
        data, left = stream(number * stream.updates)
        assert left == stream.updates
        yield data


def everything(data: DeviceData) -> Batch:
    return transitions_at(data, jax.numpy.arange(len(data.starts)))


def test_each_epoch_has_every_transition_once_in_an_order_of_its_own() -> None:
    order = Order(1003)
    flat = [n for first, last in order.pieces(0, 3 * 1003) for n in range(first, last)]
    epochs = np.reshape(flat, (3, 1003))
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(1003))
    assert (epochs[0] != epochs[1]).mean() > 0.9
    # Wherever one begins, and however much is asked for.
    for position, count in ((0, 1), (15, 40), (900, 300), (2500, 509)):
        part = [
            n for first, last in Order(1003).pieces(position, count) for n in range(first, last)
        ]
        assert part == flat[position : position + count]


def test_a_buffer_holds_whole_transitions_and_all_have_one_shape() -> None:
    data = numbered()
    scaling = fit_scaling(data, "scale:2", "standardised")
    scaled = apply_scaling(data, scaling)
    returns = least_returns(scaled, 0.9)
    rewarded = apply_scaling(data, scaling.of_rewards())
    stream = Stream(rewarded, scaling, size=128, drawn=32, sharding=HERE, returns=returns)
    whole = everything(scaled.to_device(returns=returns))
    numbers, shapes = [], set()
    for buffer in buffers(stream, 24):
        shapes.add(tuple(np.shape(leaf) for leaf in jax.tree.leaves(buffer)))
        found = everything(buffer)
        shift, scale = scaling.observation_shift[0], scaling.observation_scale[0]
        which = np.rint(np.asarray(found.observations[:, 0]) / scale + shift).astype(int)
        numbers.append(which)
        for name in Batch._fields:
            if name == "next_acted":
                # Unknown at the end of a block alone.
                there, here = np.asarray(whole.next_acted)[which], np.asarray(found.next_acted)
                ends = np.append(np.diff(which) != 1, True)
                np.testing.assert_array_equal(here[~ends], there[~ends])
                continue
            np.testing.assert_array_equal(
                np.asarray(getattr(found, name)), np.asarray(getattr(whole, name))[which], name
            )
    assert len(shapes) == 1
    epoch = np.concatenate(numbers)[: data.transitions]
    np.testing.assert_array_equal(np.sort(epoch), np.arange(data.transitions))
    stream.close()


def test_draws_are_uniform_over_all_transitions() -> None:
    data = numbered()
    stream = streamed(data)
    counts = np.zeros(data.transitions)
    key = jax.random.key(0)
    epochs = 40
    for buffer in buffers(stream, epochs * data.transitions // stream.size):
        key, one = jax.random.split(key)
        drawn = np.asarray(draw(buffer, one, stream.size).observations[:, 0]).astype(int)
        np.add.at(counts, drawn, 1)
    expected = counts.sum() / data.transitions
    assert expected > 35
    statistic = float((np.square(counts - expected) / expected).sum())
    low, high = stats.chi2.ppf((0.0005, 0.9995), data.transitions - 1)
    assert low < statistic < high
    stream.close()


def test_a_step_has_its_buffer_whatever_came_before() -> None:
    data = numbered()
    one, other = streamed(data), streamed(data)
    for buffer in buffers(one, 11):
        last = buffer
    again, left = other(10 * other.updates + 3)
    assert left == other.updates - 3
    for ours, theirs in zip(again, last, strict=True):
        if ours is not None and theirs is not None:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    one.close()
    other.close()


def test_data_that_fits_into_one_buffer_is_all_in_it() -> None:
    stream = streamed(numbered(50), size=1 << 18)
    assert stream.size == 50
    (buffer,) = buffers(stream, 1)
    numbers = np.sort(np.asarray(everything(buffer).observations[:, 0]))
    np.testing.assert_array_equal(numbers, np.arange(50))
    stream.close()


def test_a_fault_of_the_thread_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stream, "_fill", lambda self, number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run")


def test_a_streamed_run_learns_says_so_and_compiles_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(offline, "BUFFER", 32)
    compiled = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        compiled.append(tuple(np.shape(leaf) for leaf in jax.tree.leaves(args[2])))
        return train_chunk(*args, **kwargs)

    monkeypatch.setattr(offline, "train_chunk", counted)
    file = save_dataset(line_data(), tmp_path / "line.npz")
    words = f"train offline --data {file} --agent bc --steps 40 --env none --out {tmp_path}/run"
    options = "--set hidden=[8] batch_size=8 --logger none --no-report --no-plot"
    main([*words.split(), *options.split(), "--stream"])
    config = RunConfig.load(tmp_path / "run")
    assert config.data.streamed == 32
    assert len(compiled) > 5
    assert len(set(compiled)) == 1
    assert "updates draw from shuffled buffers of 32 transitions" in capsys.readouterr().err
    # A run that is not keeps the hash that it had before there were others.
    plain = dataclasses.replace(config.data, streamed=None)
    assert "streamed" not in dataclasses.replace(config, data=plain).to_dict()["data"]


def test_of_a_part_the_rows_that_are_wrong_are_said_to_be_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    low = np.full(1, -1e-3, np.float32)
    data = line_data().with_metadata(action_low=low, action_high=-low)
    settings: dict[str, Any] = {"agent": "bc", "env": "none"}
    for most, words in ((data.transitions, "column 0"), (10, "of the part that was checked")):
        monkeypatch.setattr(offline, "LOOKED_AT", most)
        with pytest.raises(InputError, match=rf"actions outside their bounds.*{words}\)"):
            offline.plan_offline(data, stream=True, **settings)


def test_large_data_is_scaled_where_it_is_unless_it_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(data: Any, name: str) -> Any:
        more = {"observations": "standardised", "hidden": [8], "batch_size": 8}
        return train(tmp_path / name, data=data, stream=False, options=more).population

    own = line_data()
    file = save_dataset(own, tmp_path / "line.npz")
    before = own.observations.copy()
    plain = trained(file, "plain")
    monkeypatch.setattr(offline, "LARGE", 0)
    scaled = []

    def noted(dataset: Dataset, scaling: Any, *, in_place: bool) -> Dataset:
        scaled.append(in_place)
        found = apply_scaling(dataset, scaling, in_place=in_place)
        assert (found.observations is dataset.observations) == in_place
        return found

    monkeypatch.setattr(offline, "apply_scaling", noted)
    assert same_bits(trained(file, "file"), plain)
    assert same_bits(trained(own, "own"), plain)
    assert scaled == [True, False]
    np.testing.assert_array_equal(own.observations, before)


def train(path: Path, **more: Any) -> Any:
    settings: dict[str, Any] = {
        "data": line_data(),
        "agent": "bc",
        "steps": 40,
        "env": "none",
        "stream": True,
        "options": {"hidden": [8], "batch_size": 8},
        "progress": False,
        "report": False,
    }
    return xql.train_offline(out=path, **settings | more)
