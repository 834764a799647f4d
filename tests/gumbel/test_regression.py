import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

from xql.gumbel import GumbelRegressor, gumbel_deviance, log_mean_exp

CONSTRUCTOR = "check_do_not_raise_errors_in_init_or_set_params"


def data(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, 100.0]
    return X, X @ [1.0, -2.0, 3.0] + rng.normal(0.0, 0.5, rows)


@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(GumbelRegressor(), id="linear"),
        pytest.param(GumbelRegressor(fit_intercept=False), id="origin"),
        pytest.param(GumbelRegressor(alpha=0.1), id="ridge"),
        pytest.param(GumbelRegressor(model="mlp", hidden_layer_sizes=(8,), max_iter=50), id="mlp"),
    ],
)
def test_passes_the_checks_of_scikit_learn(estimator: GumbelRegressor) -> None:
    with warnings.catch_warnings():
        # 50 iterations are meant to be too few; a check on array APIs skips itself with a warning.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Skipping check")
        results = check_estimator(
            estimator,
            on_fail=None,
            expected_failed_checks={CONSTRUCTOR: "the tests' type checker refuses wrong types"},
        )
    assert [result for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) > 40


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_linear_agrees_with_a_direct_minimisation_of_the_loss(beta: float) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 2))
    y = X @ [0.5, -1.0] + 0.3 + rng.normal(0.0, 0.2, 300)
    weight = rng.uniform(0.5, 2.0, 300)

    def loss(parameters: np.ndarray) -> float:
        z = (y - X @ parameters[:2] - parameters[2]) / beta
        return np.average(np.exp(z) - z - 1.0, weights=weight) * beta**2

    start = np.r_[np.linalg.lstsq(np.c_[X, np.ones(300)], y, rcond=None)[0][:2], y.max()]
    direct = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-14})
    found = GumbelRegressor(beta).fit(X, y, weight)
    np.testing.assert_allclose(np.r_[found.coef_, found.intercept_], direct.x, atol=2e-5)
    np.testing.assert_allclose(found.loss_ * beta**2, direct.fun, rtol=1e-6)


@pytest.mark.parametrize("beta", [1e-3, 1e-2, 0.1, 1.0, 1e3, 1e6])
def test_the_normal_equations_hold_at_every_temperature(beta: float) -> None:
    X, y = data()
    model = GumbelRegressor(beta).fit(X, y)
    weights = np.exp((y - model.predict(X)) / beta)
    assert model.mean_exp_ == pytest.approx(1.0, abs=1e-9)
    # The weighted mean of the features equals the plain mean: the loss's gradient is zero.
    moments = np.average(X, axis=0, weights=weights) - X.mean(axis=0)
    np.testing.assert_allclose(moments / X.std(axis=0), 0.0, atol=1e-6)


def test_a_large_beta_is_least_squares() -> None:
    X, y = data()
    model = GumbelRegressor(1e6).fit(X, y)
    solution = np.linalg.lstsq(np.c_[X, np.ones(len(X))], y, rcond=None)[0]
    np.testing.assert_allclose(np.r_[model.coef_, model.intercept_], solution, rtol=1e-3)


def test_without_an_intercept_the_gradient_is_zero_too() -> None:
    X, y = data()
    for beta in (0.1, 1.0, 10.0):
        model = GumbelRegressor(beta, fit_intercept=False).fit(X, y)
        assert model.intercept_ == 0.0
        weights = np.exp((y - X @ model.coef_) / beta)
        np.testing.assert_allclose((weights - 1.0) @ X / len(X) / np.abs(X).max(0), 0.0, atol=1e-5)


def test_a_constant_feature_alone_gives_the_soft_maximum() -> None:
    y = np.random.default_rng(2).normal(size=50)
    prediction = GumbelRegressor(0.3).fit(np.ones((50, 1)), y).predict([[1.0]])
    np.testing.assert_allclose(prediction[0], log_mean_exp(y, 0.3), rtol=1e-6)


def test_ridge_shrinks_as_it_does_in_least_squares() -> None:
    X, y = data()
    centered = X - X.mean(0)
    expected = np.linalg.solve(
        centered.T @ centered / len(X) + 0.3 * np.eye(3), centered.T @ (y - y.mean()) / len(X)
    )
    np.testing.assert_allclose(GumbelRegressor(1e6, alpha=0.3).fit(X, y).coef_, expected, rtol=1e-3)


def test_mlp_learns_the_soft_maximum_and_repeats_itself() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (1500, 1))
    y = 1.0 - x[:, 0] ** 2 + rng.normal(0.0, 0.2, 1500)
    grid = np.linspace(-0.9, 0.9, 50)[:, None]
    fits = [
        GumbelRegressor(
            0.25, model="mlp", hidden_layer_sizes=(8,), alpha=1e-4, tol=1e-4, random_state=3
        ).fit(x, y)
        for _ in range(2)
    ]
    truth = 1.0 - grid[:, 0] ** 2 + 0.2**2 / (2 * 0.25)
    assert np.abs(fits[0].predict(grid) - truth).mean() < 0.03
    assert fits[0].mean_exp_ == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_array_equal(fits[0].predict(grid), fits[1].predict(grid))


def test_warns_when_not_converged() -> None:
    X, y = data()
    with pytest.warns(ConvergenceWarning, match="not converged after .* raise max_iter"):
        GumbelRegressor(0.1, model="mlp", max_iter=2, random_state=0).fit(X, y)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beta": 0.0}, "beta must be positive and finite, not 0.0"),
        ({"beta": float("nan")}, "beta must be positive and finite, not nan"),
        ({"beta": float("inf")}, "beta must be positive and finite, not inf"),
        ({"alpha": -1.0}, "alpha must be 0 or more, not -1.0"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GumbelRegressor(**setting).fit([[0.0], [1.0]], [0.0, 1.0])


def test_the_constructor_accepts_anything_as_scikit_learn_wants_it() -> None:
    # In a process of its own, where no type checker guards the constructor.
    code = (
        f"from sklearn.utils.estimator_checks import {CONSTRUCTOR} as check\n"
        "from xql.gumbel import GumbelRegressor\n"
        "check('GumbelRegressor', GumbelRegressor())\n"
        "print('accepted')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "accepted\n"


def test_only_the_regressor_needs_scikit_learn() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['sklearn.base'] = None\n"
        "import xql.gumbel\n"
        "try: xql.gumbel.GumbelRegressor\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout
        == "scikit-learn is not installed; run: pip install 'extreme-q-learning[regression]'\n"
    )


def test_the_deviance_by_hand() -> None:
    # z = 0, 1 and -1 at β = 2: 2 (e^z − z − 1) is 0, 1.436564 and 0.735759.
    y, prediction = [0, 4, 0], [0, 2, 2]
    assert gumbel_deviance(y, prediction, beta=2.0) == pytest.approx((1.436564 + 0.735759) / 3)
    weighted = gumbel_deviance(y, prediction, beta=2.0, sample_weight=[0.0, 3.0, 1.0])
    assert weighted == pytest.approx((3 * 1.436564 + 0.735759) / 4)
    assert gumbel_deviance([1e6], [0.0], beta=1e-3) < np.inf
    model = GumbelRegressor(0.5).fit(*data())
    assert gumbel_deviance(data()[1], model.predict(data()[0]), beta=0.5) == pytest.approx(
        2 * model.loss_
    )
    for beta in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="beta must be positive and finite"):
            gumbel_deviance(y, prediction, beta=beta)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        gumbel_deviance(y, prediction[:2], beta=1.0)


def test_a_grid_search_over_beta_finds_the_scale_of_the_noise() -> None:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(600, 2))
    y = X @ [1.0, -2.0] - rng.gumbel(0.0, 0.5, 600)
    betas = [0.05, 0.2, 0.5, 2.0, 10.0, 1000.0]
    found = GridSearchCV(
        GumbelRegressor(), {"beta": betas}, scoring=GumbelRegressor.log_likelihood, cv=3
    ).fit(X, y)
    assert found.best_params_ == {"beta": 0.5}
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    # At the fixed β of a scorer, other settings are compared.
    scorer = make_scorer(gumbel_deviance, greater_is_better=False, beta=0.5)
    ridge = GridSearchCV(GumbelRegressor(0.5), {"alpha": [0.0, 100.0]}, scoring=scorer, cv=3)
    assert ridge.fit(X, y).best_params_ == {"alpha": 0.0}


def test_whole_numbers_give_what_the_same_floats_give() -> None:
    X, y = np.arange(12).reshape(6, 2) ** 2, np.asarray([3, 1, 4, 1, 5, 9])
    whole, real = (
        GumbelRegressor(beta).fit(X.astype(dtype), y.astype(dtype), np.ones(6, dtype))
        for beta, dtype in ((np.float64(2), np.int64), (2.0, np.float64))
    )
    np.testing.assert_array_equal(whole.predict(X), real.predict(X.astype(float)))
    assert whole.log_likelihood(X, y) == real.log_likelihood(X.astype(float), y.astype(float))
