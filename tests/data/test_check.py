from typing import Any

import numpy as np
import pytest

from xql.data.check import check_dataset, require_sound
from xql.data.dataset import Dataset
from xql.data.selection import select_episodes
from xql.errors import InputError


def walk(episodes: int = 6, steps: int = 50, *, seed: int = 0) -> Any:
    """Sound data: random walks of unit steps that start far apart, cut by a time limit."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(size=(episodes, steps, 3))
    observations = moves.cumsum(axis=1) + 1000.0 * rng.normal(size=(episodes, 1, 3))
    truncated = np.zeros((episodes, steps), bool)
    truncated[:, -1] = True
    terminated = np.zeros((episodes, steps), bool)
    terminated[0, -1], truncated[0, -1] = True, False
    return {
        "observations": observations.reshape(-1, 3).astype(np.float32),
        "actions": rng.uniform(-1, 1, (episodes * steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=episodes * steps).astype(np.float32),
        "terminated": terminated.ravel(),
        "truncated": truncated.ravel(),
    }


def found(**columns: Any) -> Any:
    return check_dataset(Dataset.from_arrays(**columns))


def only(findings: Any) -> Any:
    assert len(findings) == 1, findings
    return findings[0]


def test_sound_data_has_no_findings() -> None:
    for seed in range(5):
        assert found(**walk(seed=seed)) == []


def test_nan_and_infinity_are_errors_with_row_and_column() -> None:
    columns = walk()
    columns["observations"][60, 2] = np.nan  # given-up last steps shift rows: 50 + 10
    columns["observations"][61, 0] = np.nan
    finding = only(found(**columns))
    assert finding.severity == "error"
    assert finding.what == "NaN in observations"
    assert finding.where == "rows 60, 61; columns 0, 2"
    data = Dataset.from_arrays(**walk())
    data.rewards[data.starts[7]] = -np.inf
    assert only(check_dataset(data)).where == "row 7"
    with pytest.raises(InputError, match=r"^unnamed: infinity in rewards \(row 7\); drop or"):
        require_sound(data)
    data = Dataset.from_arrays(**walk())
    data.observations[data.firsts[2] + data.lengths[2], 1] = np.nan
    assert only(check_dataset(data)).where == "the final observation of episode 2; column 1"


def test_a_reset_that_no_flag_marks() -> None:
    columns = walk()
    columns["truncated"][149] = False  # between the third and the fourth walk
    finding = only(found(**columns))
    assert finding.severity == "warning"
    assert finding.what == "1 jumps inside episodes, as large as resets"
    # Rows count kept transitions: the second episode gave its last step up.
    assert finding.where == "row 148"


def test_a_jump_is_found_beside_a_goal_that_only_resets_change() -> None:
    columns = walk()
    goals = np.repeat(np.arange(6.0), 50)[:, None]
    columns["observations"] = np.hstack([columns["observations"], goals]).astype(np.float32)
    assert found(**columns) == []
    columns["observations"][20:50, :3] += 5000.0
    assert only(found(**columns)).where == "row 19"


def test_no_flag_at_all() -> None:
    columns = walk()
    columns["terminated"][:], columns["truncated"][:] = False, False
    jumps, endings = found(**columns)
    assert jumps.what == "5 jumps inside episodes, as large as resets"
    assert endings.what == "no episode is terminated or truncated: every log just stops"


def test_a_time_limit_where_the_log_goes_on() -> None:
    columns = walk()
    columns["truncated"][25] = True
    finding = only(found(**columns))
    assert finding.what == "1 time limits where the log goes on as if nothing had happened"
    assert finding.where == "end of episode 0"


def test_duplicates() -> None:
    columns = walk()
    columns["observations"][110:113] = columns["observations"][60:63]
    twice = {key: np.concatenate([values, values[50:100]]) for key, values in walk().items()}
    finding = only(found(**twice))
    assert finding.what == "1 of 7 episodes repeat an earlier one"
    assert finding.where == "episode 6"
    columns = walk()
    for key in ("observations", "actions", "rewards"):
        columns[key][6:9] = columns[key][5]
    finding = only(found(**columns))
    # Rows 5 to 8 are alike; 5, 6 and 7 are also followed by the same.
    assert finding.what.startswith("2 of 295 transitions repeat an earlier one")
    assert finding.where == "rows 6, 7"


def test_actions_outside_their_bounds() -> None:
    columns = walk()
    columns["actions"][3, 1] = 1.5
    bound = np.ones(2, np.float32)
    finding = only(found(**columns, action_low=-bound, action_high=bound))
    assert finding.severity == "error"
    assert finding.what == "actions outside their bounds in 1 of 295 rows"
    assert finding.where == "row 3; column 1"
    with pytest.raises(InputError) as caught:
        require_sound(Dataset.from_arrays(**columns, action_low=-bound, action_high=bound))
    assert str(caught.value) == (
        "unnamed: actions outside their bounds in 1 of 295 rows (row 3; column 1); "
        "rescale or clip the actions, or fix the bounds"
    )
    assert only(found(**columns)).what.endswith("the largest |action| is 1.5")
    columns["actions"][3, 1] = 1.00009  # within the roundings of the same number
    assert found(**columns, action_low=-bound, action_high=bound) == []


def test_what_is_no_error_is_returned() -> None:
    columns = walk()
    assert require_sound(Dataset.from_arrays(**columns)) == []
    columns["rewards"][:] = -1.0
    columns["observations"][:, 1] = 4.0
    found = require_sound(Dataset.from_arrays(**columns))
    assert [(finding.severity, finding.what) for finding in found] == [
        ("warning", "every reward is -1"),
        ("note", "1 observation columns never change"),
    ]


def test_columns_and_rewards_that_never_change() -> None:
    columns = walk()
    columns["observations"][:, 1] = 4.0
    columns["actions"][:, 0] = 0.25
    columns["rewards"][:] = -1.0
    rewards, actions, observations = found(**columns)
    assert rewards.what == "every reward is -1"
    assert (actions.severity, actions.where) == ("warning", "column 0")
    assert (observations.severity, observations.where) == ("note", "column 1")
    columns["observations"][:] = 0.0
    assert found(**columns)[0].what == "no observation ever changes"


def test_odd_endings() -> None:
    columns = walk()
    columns["terminated"] |= columns["truncated"]
    columns["truncated"][:] = False
    assert only(found(**columns)).what == "all 6 episodes terminate"
    columns["terminated"][:] = True
    assert only(found(**columns)).what.startswith("every step is a termination")
    columns = walk()
    columns["truncated"] |= columns["terminated"]
    columns["terminated"][:] = False
    assert only(found(**columns)).what == "no episode terminates"


def stated(**changes: Any) -> Any:
    """The walks with the observation after each step, without any flag."""
    columns = walk()
    walks = columns["observations"].reshape(6, 50, 3)
    after = np.concatenate([walks[:, 1:], walks[:, -1:] + 1.0], axis=1).reshape(-1, 3)
    columns["terminated"][:], columns["truncated"][:] = False, False
    return {**columns, "next_observations": after, **changes}


JUST_STOPS = "no episode is terminated or truncated: every log just stops"


def test_stated_next_observations_prove_what_goes_on() -> None:
    columns = stated()
    for name, rows in (("observations", slice(20, 50)), ("next_observations", slice(19, 50))):
        columns[name][rows] += 5000.0  # an impact: the next row says the same
    assert only(found(**columns)).what == JUST_STOPS


def test_stated_next_observations_prove_what_ends() -> None:
    """Walks that start where others end are not the same walk."""
    columns = walk()
    near = columns["observations"].reshape(6, 50, 3)
    near -= near[:, :1]
    after = np.concatenate([near[:, 1:], near[:, :1] + 0.1], axis=1).reshape(-1, 3)
    data = Dataset.from_arrays(**columns, next_observations=after)
    assert data.episodes == 6
    assert check_dataset(data) == []
    recorded = check_dataset(Dataset.from_episodes(list(data)))  # so are the ends here
    assert not any("time limits" in one.what for one in recorded)
    columns["truncated"][25] = True  # here the next row is stated to follow
    finding = only(found(**columns, next_observations=after))
    assert finding.what == "1 time limits where the log goes on as if nothing had happened"
    assert finding.where == "end of episode 0"


def trajectories() -> dict[str, Any]:
    """One trajectory each, of observations that change in every way that a robot's do."""
    rng, time = np.random.default_rng(0), np.arange(2001) / 50.0
    circle = np.stack([np.sin(time), np.cos(time)], axis=1)
    still = np.zeros((2001, 2))
    still[1900:] = rng.normal(size=(101, 2)).cumsum(axis=0) / 10.0
    burst = rng.normal(size=(2001, 3)).cumsum(axis=0) / 100.0
    burst[1000:] += np.minimum(np.arange(1001) / 3.0, 3.0)[:, None]
    return {
        "slow": circle,
        "a walk": rng.normal(size=(2001, 3)).cumsum(axis=0),
        "heavy tails": rng.standard_t(3, size=(2001, 3)).cumsum(axis=0),
        "contacts": np.stack([np.sin(time), np.arange(2001) % 100 == 0], axis=1),
        "steps": np.stack([np.sin(time), np.floor(time)], axis=1),
        "at rest, then moving": still,
        "an impact": burst,
        "an angle that wraps": np.stack([np.mod(time, 2 * np.pi), np.sin(time)], axis=1),
    }


SUSPICIOUS = ("an impact", "an angle that wraps")  # where nothing states that they go on


@pytest.mark.parametrize("name", trajectories())
@pytest.mark.parametrize("kept", [np.float32, np.float64])
def test_a_continuous_trajectory_is_no_suspect(name: str, kept: Any) -> None:
    observations = trajectories()[name].astype(kept)
    rng, steps = np.random.default_rng(0), len(observations) - 1
    plain = {
        "observations": observations[:-1],
        "actions": rng.uniform(-1, 1, (steps, 1)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminated": np.arange(steps) == steps - 1,
        "truncated": np.zeros(steps, bool),
    }
    for after in (None, observations[1:], observations[1:].astype(np.float32)):
        if after is None and name in SUSPICIOUS:
            continue
        data = Dataset.from_arrays(**plain, next_observations=after)
        assert data.episodes == 1
        assert only(check_dataset(data)).what == "all 1 episodes terminate"


def test_what_the_order_of_the_rows_says_is_no_proof() -> None:
    columns = walk()
    columns["truncated"][149] = False
    data = Dataset.from_arrays(**columns)
    jump = only(check_dataset(data))
    assert jump.what == "1 jumps inside episodes, as large as resets"
    assert only(check_dataset(select_episodes(data, "top:1"))) == jump


def test_interleaved_episodes() -> None:
    columns = stated()
    order = np.arange(300).reshape(6, 50).T.ravel()
    mixed = {name: values[order] for name, values in columns.items()}
    finding, *_ = found(**mixed)
    assert finding.severity == "warning"
    assert finding.what == "294 of 300 episodes go on in a later row, not in the next"
    assert finding.where == "end of episodes 0, 1, 2, 3, 4 and 289 more"
    assert "sort them by trajectory and time" in finding.hint
    shuffled = {name: values[::-1] for name, values in columns.items()}
    assert "294 of 300 episodes go on in another row" in found(**shuffled)[0].what
    assert [one.what for one in found(**columns)] == [JUST_STOPS]


def test_logs_that_meet_by_chance_are_not_interleaved() -> None:
    rng = np.random.default_rng(0)
    columns = walk()
    for name in ("observations", "next_observations"):
        columns[name] = rng.integers(0, 5, (300, 3)).astype(np.float32)
    columns["terminated"][:], columns["truncated"][:] = False, False
    assert not any("go on in" in finding.what for finding in found(**columns))


def test_numbers_that_float32_cannot_tell_apart() -> None:
    rng = np.random.default_rng(0)
    path = rng.uniform(-0.05, 0.05, (6, 50, 3)).cumsum(axis=1) + rng.uniform(-4, 4, (6, 1, 3))
    path = path.reshape(-1, 3)
    columns = walk()
    columns["observations"] = path + np.array([388096.0, 3948996.0, 0.0])
    finding = only(found(**columns))
    assert finding.severity == "warning"
    assert finding.what.startswith("float32 cannot tell the values of columns 0, 1 apart")
    assert finding.where.startswith("a grid of 0.031, 0.25 against steps of 0.02")
    assert finding.hint == "subtract an offset from these columns, such as their mean, in float64"
    columns["observations"] = path
    assert found(**columns) == []
    columns["observations"] = np.round(path / 0.02) + 70000.0  # whole steps, rare or not
    assert found(**columns) == []
    columns["observations"] = path
    columns["observations"][::7, 1] = np.nextafter(np.float32(1.0), np.float32(2.0))
    columns["observations"][np.arange(300) % 7 > 0, 1] = 1.0  # a constant with noise
    assert found(**columns) == []


def test_a_large_constant_may_be_a_clock_that_float32_stopped() -> None:
    columns = walk()
    columns["observations"][:, 1] = 1.7e9 + np.arange(300) * 1e-3
    finding = only(found(**columns))
    assert (finding.severity, finding.where) == ("note", "column 1")
    assert finding.hint.endswith("if not constant in the source, subtract an offset from column 1")
