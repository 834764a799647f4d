"""`GumbelRegressor`: regression to the soft maximum of the target, given the features.

Least squares fits the mean of y given x, quantile regression a quantile, Gumbel regression
β log E[e^{y/β} | x]: close to the mean for a large β, close to the largest targets for a small one.

With an intercept b the loss E[e^z − z − 1], z = (y − f(x) − b)/β, is solved for b in closed form,
b = β log E[e^{(y−f)/β}], and what remains to be minimised,

    J = (β log E[e^{(y−f)/β}] − E[y − f]) / β,

has no exponential that could overflow, at any β, and has a bounded gradient. It is convex where f
is linear. Afterwards E[e^z] = 1 holds exactly on the training data.
"""

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import optimize
from scipy.special import logsumexp

from xql.errors import missing_extra

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ModuleNotFoundError:
    raise missing_extra("scikit-learn is not installed", "regression") from None

Vector = Float[np.ndarray, "_"]
Objective = Callable[[Vector], tuple[float, Vector]]
Layers = list[tuple[Float[np.ndarray, "_ _"], Vector]]
Curvature = Callable[[Vector], Float[np.ndarray, "_ _"]]


def _standardise(
    X: Float[np.ndarray, "n d"], p: Vector, center: bool
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """The features in standard units, their means (0 if not centered) and their spreads."""
    mean = p @ X if center else np.zeros(X.shape[1])
    scale = np.sqrt(p @ (X - mean) ** 2)
    # Constant up to rounding counts as constant: dividing by a spread of 1e-17 amplifies noise.
    scale[scale <= 1e-12 * np.maximum(1.0, np.abs(X).max(axis=0))] = 1.0
    return (X - mean) / scale, mean, scale


def _profile(residuals: Vector, p: Vector, beta: float) -> tuple[float, Vector, float]:
    """Return J with the best intercept, the softmax weights of the residuals, that intercept."""
    scaled = residuals / beta
    log_mean = float(logsumexp(scaled, b=p))
    weights = p * np.exp(scaled - log_mean)
    return log_mean - float(p @ scaled), weights, beta * log_mean


def _linear_objective(
    X: Float[np.ndarray, "n d"], y: Vector, p: Vector, ridge: Vector
) -> tuple[Objective, Curvature]:
    """J(w) + ½ Σ ridge w² at β = 1, its gradient, and its Hessian: the softmax covariance of X."""
    center = p @ X

    def value(w: Vector) -> tuple[float, Vector]:
        loss, weights, _ = _profile(y - X @ w, p, 1.0)
        return loss + 0.5 * float(ridge @ w**2), center - weights @ X + ridge * w

    def curvature(w: Vector) -> Float[np.ndarray, "d d"]:
        weights = _profile(y - X @ w, p, 1.0)[1]
        deviation = X - weights @ X
        return np.asarray((deviation.T * weights) @ deviation + np.diag(ridge))

    return value, curvature


def _origin_objective(
    X: Float[np.ndarray, "n d"], y: Vector, p: Vector, ridge: Vector
) -> tuple[Objective, Curvature]:
    """Likewise without an intercept, as log(1 + J + penalty): the same minimum, and no overflow.

    The curvature leaves out the logarithm's negative rank-one term: it stays positive
    semi-definite, and at the minimum it is the true one.
    """
    center = p @ X

    def parts(w: Vector) -> tuple[float, Vector]:
        z = y - X @ w
        log_mean = float(logsumexp(z, b=p))
        rest = 0.5 * float(ridge @ w**2) - float(p @ z)
        # 1 + J = e^log_mean + rest >= 1; the larger term is factored out of the logarithm.
        log_largest = max(log_mean, float(np.log(max(abs(rest), 1.0))))
        remainder = np.exp(log_mean - log_largest) + rest * np.exp(-log_largest)
        log_total = log_largest + float(np.log(remainder))
        return log_total, p * np.exp(z - log_total)

    def value(w: Vector) -> tuple[float, Vector]:
        log_total, weights = parts(w)
        return log_total, np.exp(-log_total) * (center + ridge * w) - weights @ X

    def curvature(w: Vector) -> Float[np.ndarray, "d d"]:
        log_total, weights = parts(w)
        return np.asarray((X.T * weights) @ X + np.exp(-log_total) * np.diag(ridge))

    return value, curvature


def _polish(value: Objective, curvature: Curvature, w: Vector) -> tuple[Vector, float]:
    """Take Newton steps while they reduce the gradient; return the point and the gradient's norm.

    The trust region compares loss values, which stop changing while the gradient is still 1e-8.
    """
    gradient = value(w)[1]
    for _ in range(8):
        step = np.linalg.lstsq(curvature(w), -gradient, rcond=None)[0]
        next_gradient = value(w + step)[1]
        if not np.linalg.norm(next_gradient) < np.linalg.norm(gradient):
            break
        w, gradient = w + step, next_gradient
    return w, float(np.linalg.norm(gradient))


def gumbel_deviance(y_true: Any, y_pred: Any, *, beta: float, sample_weight: Any = None) -> float:
    """2 E[e^z − z − 1], z = (y − prediction)/β: 0 where every prediction is right, else positive.

    Twice the gap in log-likelihood to a perfect fit under the left-skewed Gumbel of scale β,
    as the mean squared error is for a normal one. To tune settings at one β:
    `make_scorer(gumbel_deviance, greater_is_better=False, beta=0.5)`. Between different β it does
    not decide, for it falls as β grows; `GumbelRegressor.log_likelihood` does.

    Args:
        y_true: the targets, (samples,).
        y_pred: the predictions, (samples,).
        beta: temperature > 0, in the unit of y.
        sample_weight: >= 0, (samples,).

    Raises:
        ValueError: beta <= 0 or infinite, or numbers that are missing, not finite or of different
            counts.
    """
    _require_temperature(beta)
    y, prediction = (
        check_array(one, ensure_2d=False, dtype=np.float64, input_name=name).reshape(-1)
        for name, one in (("y_true", y_true), ("y_pred", y_pred))
    )
    check_consistent_length(y, prediction, sample_weight)
    weight = _check_sample_weight(sample_weight, y[:, None], ensure_non_negative=True)
    return 2.0 * _loss(y - prediction, weight / weight.sum(), beta)[0]


def _require_temperature(beta: float) -> None:
    if not 0 < beta < np.inf:
        raise ValueError(f"beta must be positive and finite, not {beta}")


LARGEST = 1e150
"""Of numbers that are squared: beyond about 1e154 a square overflows a float64."""
SHARPEST = 1e12
"""How many β the targets may spread over: beyond about 1e15, y/β has no digits left."""


def _require_sizes(X: Float[np.ndarray, "n d"], y: Vector, beta: float) -> None:
    """Refuse what float64 cannot compute with.

    Raises:
        ValueError: says which number.
    """
    for name, values in (("features", X), ("targets", y), ("beta", np.array([beta]))):
        if (largest := float(np.abs(values).max())) > LARGEST:
            raise ValueError(f"{name} of {largest:.3g} are too large, rescale them below 1e150")
    spread = float(np.ptp(y))
    if spread > SHARPEST * beta:
        raise ValueError(
            f"beta {beta:.3g} is too small for targets that spread over {spread:.3g}: give at "
            f"least {spread / SHARPEST:.1g}"
        )


def _loss(residuals: Vector, p: Vector, beta: float) -> tuple[float, float]:
    """E[e^z − z − 1] and E[e^z]."""
    z = residuals / beta
    # Clipped at 700: far from the optimum e^z would overflow a float64.
    mean_exp = float(p @ np.exp(np.minimum(z, 700.0)))
    return mean_exp - float(p @ z) - 1.0, mean_exp


class GumbelRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Regression to the soft maximum β log E[e^{y/β} | x].

    Args:
        beta: temperature > 0, in the unit of y.
        model: "linear" (a convex problem, solved to convergence) or "mlp" (tanh layers).
        alpha: weight of ½ Σ coefficients² added to β² E[e^z − z − 1], which is half the mean
            squared error for large β; none on the intercept. For the MLP in standardised units.
        fit_intercept: of the linear model; the MLP always has an intercept.
        hidden_layer_sizes: of the MLP.
        max_iter: iterations allowed (at each of a few temperatures for the linear model).
        tol: the norm of the gradient, in units of standardised features, at which to stop.
        random_state: of the MLP's initial weights; the same integer gives the same fit.

    Attributes:
        coef_: (features,), the linear model's slopes.
        intercept_: the linear model's constant.
        mean_exp_: E[e^z] on the training data: 1 at the optimum, if there is an intercept.
        loss_: the Gumbel loss on the training data, without the penalty.
        n_iter_: iterations used.
        n_features_in_, feature_names_in_: as in every scikit-learn estimator.
    """

    def __init__(
        self,
        beta: float = 1.0,
        *,
        model: Literal["linear", "mlp"] = "linear",
        alpha: float = 0.0,
        fit_intercept: bool = True,
        hidden_layer_sizes: tuple[int, ...] = (32, 32),
        max_iter: int = 1000,
        tol: float = 1e-6,
        random_state: Any = None,
    ) -> None:
        self.beta = beta
        self.model = model
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "GumbelRegressor":
        """Fit to features X (samples, features) and target y (samples,).

        Args:
            X: finite numbers.
            y: finite numbers.
            sample_weight: >= 0, (samples,); weight 2 is the same as a repeated sample.

        Raises:
            ValueError: beta <= 0 or infinite, alpha < 0, an unknown model, or data that cannot be
                used, such as numbers too large or a beta too small for float64.
        """
        _require_temperature(self.beta)
        if not self.alpha >= 0:
            raise ValueError(f"alpha must be 0 or more, not {self.alpha}")
        if self.model not in ("linear", "mlp"):
            raise ValueError(f"model must be 'linear' or 'mlp', not {self.model!r}")
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        y = np.asarray(y, np.float64)
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if not weight.sum() > 0:
            raise ValueError("sample_weight must have a positive sum")
        kept = weight > 0
        X, y, p = X[kept], y[kept], weight[kept] / weight.sum()
        _require_sizes(X, y, self.beta)
        if self.model == "linear":
            self._fit_linear(X, y, p)
        else:
            self._fit_mlp(X, y, p)
        self.loss_, self.mean_exp_ = _loss(y - self._raw_predict(X), p, self.beta)
        return self

    def predict(self, X: Any) -> Float[np.ndarray, " n"]:
        """The soft maximum of the target at each row of X (samples, features)."""
        check_is_fitted(self)
        return self._raw_predict(validate_data(self, X, dtype=np.float64, reset=False))

    def log_likelihood(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean log-likelihood of the targets under the left-skewed Gumbel of scale β.

        It is −log β − 1 − `gumbel_deviance`/2, and larger is better. Over a grid of β it is largest
        where β is the scale of the noise, while R² (`score`) measures a fit of the mean:
        `GridSearchCV(model, {"beta": [...]}, scoring=GumbelRegressor.log_likelihood)`.

        Args:
            X: features (samples, features).
            y: targets (samples,).
            sample_weight: >= 0, (samples,).
        """
        deviance = gumbel_deviance(y, self.predict(X), beta=self.beta, sample_weight=sample_weight)
        return -float(np.log(self.beta)) - 1.0 - deviance / 2.0

    def _raw_predict(self, X: Float[np.ndarray, "n d"]) -> Vector:
        if self.model == "linear":
            return np.asarray(X @ self.coef_ + self.intercept_)
        hidden = _forward(self._layers, (X - self._feature_mean) / self._feature_scale)[-1]
        return np.asarray(self._target_scale * hidden[:, 0] + self._offset)

    def _fit_linear(self, X: Float[np.ndarray, "n d"], target: Vector, p: Vector) -> None:
        Z, _, scale = _standardise(X, p, self.fit_intercept)
        y = target - p @ target if self.fit_intercept else target
        # Constant targets have no spread of their own: any positive unit will do.
        spread = float(np.sqrt(p @ y**2)) or self.beta
        # Continuation from a large β (close to least squares) down to the requested one: each
        # solution starts the next, so that a small β (nearly a linear programme) takes few steps.
        stages = int(np.ceil(np.log(max(spread / self.beta, 1.0)) / np.log(4.0)))
        build = _linear_objective if self.fit_intercept else _origin_objective
        w, self.n_iter_, slope = np.zeros(Z.shape[1]), 0, np.inf
        for stage in range(stages, -1, -1):
            # Solved in units of β, where the gradient has no unit; it shrinks once β > spread.
            beta = self.beta * 4.0**stage
            tol = self.tol * min(1.0, spread / beta)
            value, hessian = build(Z, y / beta, p, self.alpha / scale**2)
            result = optimize.minimize(
                value,
                w / beta,
                jac=True,
                hess=hessian,
                method="trust-exact",
                options={"gtol": tol, "maxiter": self.max_iter},
            )
            v, slope = _polish(value, hessian, result.x)
            w = beta * v
            self.n_iter_ += int(result.nit)
        if self.alpha == 0:
            # Fewer samples than features leave many minimisers: take the one of least norm.
            with np.errstate(over="ignore", invalid="ignore"):
                w = np.linalg.pinv(Z) @ (Z @ w)
            if not np.isfinite(w).all():
                raise ValueError("the features are too small for float64, rescale them")
        self.coef_ = w / scale
        if self.fit_intercept:
            self.intercept_ = _profile(target - X @ self.coef_, p, self.beta)[2]
        else:
            self.intercept_ = 0.0
        if not slope <= tol:
            self._warn(f"gradient norm {slope:.2g}, tolerance {tol:.2g}")

    def _fit_mlp(self, X: Float[np.ndarray, "n d"], y: Vector, p: Vector) -> None:
        Z, self._feature_mean, self._feature_scale = _standardise(X, p, True)
        mean = float(p @ y)
        self._target_scale = float(np.sqrt(p @ (y - mean) ** 2)) or 1.0
        target, beta = (y - mean) / self._target_scale, self.beta / self._target_scale
        decay, tol = self.alpha / beta**2, self.tol * min(1.0, 1.0 / beta)
        rng = check_random_state(self.random_state)
        sizes = (Z.shape[1], *self.hidden_layer_sizes, 1)
        shapes = list(pairwise(sizes))
        start = [
            np.concatenate([rng.normal(0.0, fan_in**-0.5, fan_in * fan_out), np.zeros(fan_out)])
            for fan_in, fan_out in shapes
        ]

        def value(flat: Vector) -> tuple[float, Vector]:
            layers = _unflatten(flat, shapes)
            hidden = _forward(layers, Z)
            loss, weights, _ = _profile(target - hidden[-1][:, 0], p, beta)
            gradient = _backward(layers, hidden, ((p - weights) / beta)[:, None], decay)
            penalty = sum(float((matrix**2).sum()) for matrix, _ in layers)
            return loss + 0.5 * decay * penalty, gradient

        result = optimize.minimize(
            value,
            np.concatenate(start),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self.max_iter, "maxfun": 2 * self.max_iter, "gtol": tol},
        )
        self.n_iter_ = int(result.nit)
        self._layers = _unflatten(result.x, shapes)
        residuals = target - _forward(self._layers, Z)[-1][:, 0]
        self._offset = mean + self._target_scale * _profile(residuals, p, beta)[2]
        if not result.success:
            self._warn(str(result.message))

    def _warn(self, reason: str) -> None:
        warnings.warn(
            f"not converged after {self.n_iter_} iterations ({reason}); raise max_iter",
            ConvergenceWarning,
            stacklevel=4,
        )


def _unflatten(flat: Vector, shapes: list[tuple[int, int]]) -> Layers:
    """Split one vector of parameters into (matrix, bias) per layer."""
    layers, used = [], 0
    for fan_in, fan_out in shapes:
        end = used + fan_in * fan_out
        layers.append((flat[used:end].reshape(fan_in, fan_out), flat[end : end + fan_out]))
        used = end + fan_out
    return layers


def _forward(layers: Layers, X: Float[np.ndarray, "n d"]) -> list[Float[np.ndarray, "n _"]]:
    """The input and the output of every layer; tanh between layers, the last one is linear."""
    hidden = [X]
    for depth, (matrix, bias) in enumerate(layers):
        output = hidden[-1] @ matrix + bias
        hidden.append(output if depth == len(layers) - 1 else np.tanh(output))
    return hidden


def _backward(
    layers: Layers,
    hidden: list[Float[np.ndarray, "n _"]],
    error: Float[np.ndarray, "n 1"],
    decay: float,
) -> Vector:
    """The gradient for `_unflatten`'s vector, from the loss's derivative by the output."""
    pieces: list[Vector] = []
    for depth in range(len(layers) - 1, -1, -1):
        matrix, _ = layers[depth]
        pieces.insert(0, error.sum(axis=0))
        pieces.insert(0, (hidden[depth].T @ error + decay * matrix).ravel())
        if depth:
            error = (error @ matrix.T) * (1.0 - hidden[depth] ** 2)
    return np.concatenate(pieces)
