"""Runs that are killed at random times lose no more than they may, and end as if never killed."""

from pathlib import Path

import pytest

from soak.kills import OFFLINE, ONLINE, Campaign


@pytest.mark.soak
def test_nothing_is_lost_by_a_kill(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, seed=1)
    outcomes = campaign.run([(OFFLINE[0], 8), (ONLINE[0], 4)], workers=1)
    assert len(campaign.kills) == 12
    assert [one for one in campaign.kills if one.fault] == []
    assert [one for one in outcomes if one.faults] == []
