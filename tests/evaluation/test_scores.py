import numpy as np
import pytest

from xql.errors import InputError
from xql.evaluation.scores import Reference, normalised_score, reference_score


# Random and expert returns as D4RL's own table states them (d4rl/infos.py).
@pytest.mark.parametrize(
    ("name", "minimum", "maximum"),
    [
        ("halfcheetah-medium-v2", -280.178953, 12135.0),
        ("door-human-v0", -56.512833, 2880.5693087298737),
        ("antmaze-large-play-v2", 0.0, 1.0),
        ("kitchen-mixed-v0", 0.0, 4.0),
    ],
)
def test_golden_rows(name: str, minimum: float, maximum: float) -> None:
    reference = reference_score(name)
    assert reference == Reference(minimum, maximum, "Farama-Foundation/D4RL:d4rl/infos.py")
    assert normalised_score(minimum, reference) == 0.0
    assert normalised_score(maximum, reference) == pytest.approx(100.0)


def test_the_formula_by_hand() -> None:
    door = reference_score("door-human-v0")
    assert door is not None
    # 100·(500 + 56.512833)/(2880.5693087 + 56.512833) = 55651.2833/2937.0821417
    assert normalised_score(500.0, door) == pytest.approx(18.94781, abs=1e-5)
    ten = Reference(10.0, 30.0, "by hand")
    np.testing.assert_allclose(
        normalised_score(np.array([[10.0, 20.0], [30.0, 40.0]]), ten), [[0, 50], [100, 150]]
    )
    assert normalised_score(np.array([20.0], np.float32), ten).dtype == np.float64


def test_an_unknown_name_has_no_reference() -> None:
    assert reference_score("pointmaze/medium-v0") is None
    assert reference_score("pointmaze/medium-v0", {"author": "x"}) is None


def test_the_dataset_s_own_reference_wins_and_says_so() -> None:
    own = {"ref_min_score": np.float64(1.0), "ref_max_score": 3}
    assert reference_score("door-human-v0", own) == Reference(
        1.0, 3.0, "the dataset's own metadata"
    )
    half = {"ref_min_score": 1.0, "ref_max_score": None}
    assert reference_score("door-human-v0", half) == reference_score("door-human-v0")


@pytest.mark.parametrize("own", [(3.0, 3.0), (4.0, 3.0), (0.0, float("nan"))])
def test_a_reference_out_of_order_is_refused(own: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"^mine: the reference scores .* are not in order; "):
        reference_score("mine", {"ref_min_score": own[0], "ref_max_score": own[1]})
