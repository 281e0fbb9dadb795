"""Multinomial logistic regression for a grid of L2 penalties, fitted together in torch.

The penalties share every product with the features, so a grid of ten costs little more than one. Each is a problem of
its own for L-BFGS; libraries minimize one problem at a time, or the sum of all with one step length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pmae.errors import ConfigError, DataError

MAX_ITERATIONS = 500
HISTORY = 10  # steps that L-BFGS remembers
TOLERANCE = 1e-5
# Logits held at once: enough rows for efficient products, few enough to stay in the processor's cache.
CHUNK_LOGITS = 1 << 21
# Up to this many numbers the fit is done in float64: it costs nothing there.
SMALL = 1 << 22
# Largest matrix whose eigenvectors are computed (about 10 s on one core); without them the fit only takes more steps.
MAX_AXES = 4096
SUFFICIENT_DECREASE = 1e-4
MAX_HALVINGS = 25

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LogisticPath:
    """One fitted model per penalty: weights (S, D, K) for standardized features, bias (S, K), penalized loss (S,).

    ``classes`` (K,) are the labels in the order of the logits, ``evaluations`` the number of passes over the features.
    """

    classes: Tensor
    mean: Tensor
    std: Tensor
    weights: Tensor
    bias: Tensor
    penalties: tuple[float, ...]
    loss: Tensor
    converged: Tensor
    evaluations: int

    def logits(self, features: Tensor, index: int) -> Tensor:
        """(N, K) logits of the model with penalty ``penalties[index]`` for raw features (N, D)."""
        x = (features.to(self.mean) - self.mean) / self.std
        return x @ self.weights[index] + self.bias[index]

    def predict(self, features: Tensor, index: int) -> Tensor:
        """(N,) predicted labels."""
        return self.classes[self.logits(features, index).argmax(1)]

    def cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> float:
        """Mean or sum over the images whose class was seen in training; 0 where there are none."""
        known = torch.isin(labels, self.classes)
        if not known.any():
            return 0.0
        target = torch.searchsorted(self.classes, labels[known])
        return nn.functional.cross_entropy(logits[known], target, reduction=reduction).item()


def fit_logistic_path(
    features: Tensor,
    labels: Tensor,
    penalties: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    prepared: bool = False,
) -> LogisticPath:
    """Fit ``mean cross-entropy + penalty / 2 * |W|^2`` on standardized features (N, D), for every penalty at once.

    The bias is not penalized. Penalty s is scikit-learn's ``C = 1 / (s * N)`` (for two classes, whose weights
    scikit-learn folds into one vector, ``C = 2 / (s * N)``). Features are rotated onto their principal axes and each
    axis is scaled by the curvature it will have, which turns hundreds of L-BFGS steps into a few dozen and leaves the
    minimum where it is. Features wider than N are reduced to the span of the images, outside which the optimal weights
    are 0. Classes without training images get no logit. ``prepared`` features, some rows of
    :func:`principal_coordinates`, are used as they are. A fit has converged when no entry of the gradient is above
    ``tolerance``.
    """
    if not penalties or min(penalties) <= 0:
        raise ConfigError(f"penalties are {list(penalties)}; give at least one, each above 0")
    classes, target = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"the training split holds {len(classes)} class(es); a probe needs images of at least two")
    dtype = torch.float64 if features.numel() <= SMALL else torch.float32
    axes = None
    if prepared:
        x = features.to(dtype)
        mean, std = x.new_zeros(x.shape[1]), x.new_ones(x.shape[1])
        variances = x.double().var(0, correction=0)
    else:
        x, mean, std = _standardized(features, dtype)
        variances, axes = principal_axes(x)
    rotated = x if axes is None else x @ axes
    problem = _Problem(rotated, target, variances.to(dtype), penalties, len(classes))
    start = torch.zeros(len(penalties), problem.unknowns, dtype=dtype, device=x.device)
    unknowns, loss, converged, evaluations = minimize(problem, start, tolerance)
    weights, bias = problem.weights_and_bias(unknowns, torch.arange(len(penalties), device=x.device))
    weights = weights if axes is None else axes @ weights
    return LogisticPath(
        classes, mean.to(dtype), std.to(dtype), weights, bias, tuple(penalties), loss, converged, evaluations
    )


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Variances (R,) and orthonormal axes (D, R) of standardized features (N, D), R at most min(N, D).

    Where both sizes are above ``MAX_AXES`` the axes are None, the features' own, with variances (D,).
    """
    images, width = x.shape
    if min(images, width) > MAX_AXES:
        return x.square().mean(0, dtype=torch.float64), None
    if width <= images:
        variances, axes = torch.linalg.eigh((x.T @ x / images).double())
        return variances.clamp(min=0), axes.to(x.dtype)
    variances, vectors = torch.linalg.eigh((x @ x.T / images).double())
    spanned = variances > variances[-1] * images * torch.finfo(x.dtype).eps
    if not spanned.any():  # all images are equal
        return x.new_zeros(1, dtype=torch.float64), torch.eye(width, 1, dtype=x.dtype, device=x.device)
    variances = variances[spanned]
    axes = x.T @ (vectors[:, spanned] / (variances * images).sqrt()).to(x.dtype)
    return variances, axes


def principal_coordinates(features: Tensor) -> Tensor:
    """Standardized features (N, D) on their principal axes, (N, R): a rotation, so every fit on rows of it is exact."""
    x, _, _ = _standardized(features, torch.float64 if features.numel() <= SMALL else torch.float32)
    axes = principal_axes(x)[1]
    return x if axes is None else x @ axes


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) in float64 of features (N, D); a feature that is constant gets 1."""
    std, mean = torch.std_mean(features.double(), dim=0, correction=0)
    constant = std <= 1e-6 * mean.abs() + 1e-12
    return mean, torch.where(constant, 1.0, std)


def _standardized(features: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    mean, std = standardization(features)
    return (features.to(dtype) - mean.to(dtype)) / std.to(dtype), mean, std


class _Problem:
    """The penalized loss and its gradient in unknowns scaled to unit curvature, for :func:`minimize`."""

    def __init__(self, x: Tensor, target: Tensor, variances: Tensor, penalties: Sequence[float], classes: int) -> None:
        self.x, self.target, self.classes = x, target, classes
        self.penalties = torch.tensor(penalties, dtype=x.dtype, device=x.device)
        # At equal class probabilities the Hessian along an axis is its variance / classes (plus the penalty).
        self.scale = (variances / classes + self.penalties[:, None]).rsqrt()
        self.unknowns = (x.shape[1] + 1) * classes

    def weights_and_bias(self, unknowns: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (A, D, K) and bias (A, K) of the problems ``which``."""
        table = unknowns.reshape(len(which), -1, self.classes)
        return table[:, :-1] * self.scale[which][:, :, None], table[:, -1] * self.classes**0.5

    def __call__(self, unknowns: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        weights, bias = self.weights_and_bias(unknowns, which)
        loss, weights_gradient, bias_gradient = self._cross_entropy(weights, bias)
        penalty = self.penalties[which]
        loss = loss + penalty / 2 * weights.square().sum((1, 2))
        weights_gradient = (weights_gradient + penalty[:, None, None] * weights) * self.scale[which][:, :, None]
        gradient = torch.cat([weights_gradient, bias_gradient[:, None] * self.classes**0.5], 1)
        return loss, gradient.flatten(1)

    def _cross_entropy(self, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy (A,) and its gradients in weights (A, D, K) and bias (A, K), in chunks of images."""
        problems, features, classes = weights.shape
        stacked = weights.permute(1, 0, 2).reshape(features, -1)
        loss = torch.zeros(problems, dtype=torch.float64, device=weights.device)
        weights_gradient, bias_gradient = torch.zeros_like(stacked), torch.zeros_like(bias)
        rows = max(256, CHUNK_LOGITS // stacked.shape[1])
        for x, target in zip(self.x.split(rows), self.target.split(rows), strict=True):
            logits = torch.addmm(bias.flatten(), x, stacked).view(len(x), problems, classes)
            chosen = target[:, None, None].expand(-1, problems, 1)
            logits -= logits.amax(2, keepdim=True)
            loss -= logits.gather(2, chosen).sum((0, 2), dtype=torch.float64)
            total = logits.exp_().sum(2, keepdim=True)
            loss += total.log().sum((0, 2), dtype=torch.float64)
            residual = logits.div_(total)
            residual.scatter_add_(2, chosen, -torch.ones_like(chosen, dtype=x.dtype))
            weights_gradient.addmm_(x.T, residual.view(len(x), -1))
            bias_gradient += residual.sum(0)
        images = len(self.x)
        weights_gradient = weights_gradient.view(features, problems, classes).permute(1, 0, 2)
        return (loss / images).to(weights.dtype), weights_gradient / images, bias_gradient / images


def minimize(objective: Objective, x: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor, int]:
    """Minimize S problems of P unknowns each by limited-memory BFGS (Nocedal & Wright 2006, algorithm 7.5).

    ``objective`` takes x (A, P) and the indices (A,) of its problems and returns loss (A,) and gradient (A, P). Gives
    x (S, P), loss (S,), converged (S,) (no entry of the gradient is above ``tolerance``) and calls of the objective.
    """
    every = torch.arange(len(x), device=x.device)
    loss, gradient = objective(x, every)
    evaluations = 1
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    stalled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(MAX_ITERATIONS):
        active = every[(gradient.abs().amax(1) > tolerance) & ~stalled]
        if len(active) == 0:
            break
        direction = _direction(gradient, pairs)
        new_x, new_loss, new_gradient, accepted, used = _line_search(objective, x, loss, gradient, direction, active)
        evaluations += used
        stalled[active[~accepted[active]]] = True
        step, change = new_x - x, new_gradient - gradient
        product = (step * change).sum(1)
        usable = product > 1e-10 * change.square().sum(1)  # elsewhere 1 / sᵀy becomes 0 and the pair has no effect
        pairs.append((step, change, torch.where(usable, 1 / torch.where(usable, product, 1.0), 0.0)))
        del pairs[:-HISTORY]
        x, loss, gradient = new_x, new_loss, new_gradient
    return x, loss, gradient.abs().amax(1) <= tolerance, evaluations


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Minus the inverse-Hessian estimate times the gradient: the two-loop recursion, from pairs (s, y, 1 / sᵀy)."""
    q = gradient.clone()
    alphas = []
    for step, change, rho in reversed(pairs):
        alpha = rho * (step * q).sum(1)
        q -= alpha[:, None] * change
        alphas.append(alpha)
    scale = torch.ones(len(q), dtype=q.dtype, device=q.device)
    for _, change, rho in pairs:  # sᵀy / yᵀy of each problem's newest usable pair
        scale = torch.where(rho > 0, 1 / torch.where(rho > 0, rho * change.square().sum(1), 1.0), scale)
    q *= scale[:, None]
    for (step, change, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = rho * (change * q).sum(1)
        q += (alpha - beta)[:, None] * step
    return -q


def _line_search(
    objective: Objective, x: Tensor, loss: Tensor, gradient: Tensor, direction: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Halve each problem's step from 1 until its loss falls enough; problems that never do stay where they are."""
    # A loss in floating point cannot show a decrease below its own rounding: near the minimum that much is forgiven.
    forgiven = 4 * torch.finfo(x.dtype).eps * loss.abs()
    slope = (gradient * direction).sum(1)
    new_x, new_loss, new_gradient = x.clone(), loss.clone(), gradient.clone()
    accepted = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    length, used = 1.0, 0
    while len(active) and used < MAX_HALVINGS:
        used += 1
        trial = x[active] + length * direction[active]
        trial_loss, trial_gradient = objective(trial, active)
        bound = loss[active] + SUFFICIENT_DECREASE * length * slope[active] + forgiven[active]
        good = trial_loss <= bound
        rows = active[good]
        new_x[rows], new_loss[rows], new_gradient[rows] = trial[good], trial_loss[good], trial_gradient[good]
        accepted[rows] = True
        active = active[~good]
        length /= 2
    return new_x, new_loss, new_gradient, accepted, used
