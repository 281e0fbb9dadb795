"""Multinomial logistic regression for a grid of L2 penalties, fitted together in torch.

The penalties share every product with the features, so a grid of ten costs little more than one. The
linear probe chooses the penalty and scores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pmae.errors import ConfigError, DataError
from pmae.probes._lbfgs import minimize

MAX_ITERATIONS = 500
TOLERANCE = 1e-5
# Logits held at once: enough rows for efficient products, few enough to stay in the processor's cache.
CHUNK_LOGITS = 1 << 21
# Up to this many numbers the fit is done in float64: it costs nothing there.
SMALL = 1 << 22
# Largest matrix whose eigenvectors are computed (about 10 s on one core); without them the fit only takes more steps.
MAX_AXES = 4096


@dataclass(frozen=True)
class LogisticPath:
    """One fitted model per penalty.

    Attributes:
        classes: (K,) labels in the order of the logits' last axis.
        mean, std: (D,) of the training features; constant features have std 1.
        weights: (S, D, K), for standardized features.
        bias: (S, K).
        penalties: S penalties, see :func:`fit_logistic_path`.
        loss: (S,) penalized mean cross-entropy at the solution.
        converged: (S,) bool.
        evaluations: Passes over the training features.
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


def fit_logistic_path(
    features: Tensor,
    labels: Tensor,
    penalties: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    prepared: bool = False,
) -> LogisticPath:
    """Fit ``mean cross-entropy + penalty / 2 * |W|^2`` on standardized features, for every penalty at once.

    The bias is not penalized. With N images, penalty s is scikit-learn's ``C = 1 / (s * N)`` (for two classes,
    whose weights scikit-learn folds into one vector, ``C = 2 / (s * N)``). Features are rotated onto their
    principal axes and each axis is scaled by the curvature it will have, which turns hundreds of L-BFGS steps
    into a few dozen and leaves the minimum where it is. Features wider than N are reduced to the span of the images,
    outside which the optimal weights are 0. Classes without training images get no logit.

    Args:
        features: (N, D) finite floats, on the device to fit on.
        labels: (N,) integers.
        penalties: Penalties above 0.
        tolerance: Largest entry of the gradient at which a fit has converged.
        prepared: The features are used as they are, neither standardized nor rotated: :func:`principal_coordinates`
            of a larger set, of which these are some rows.

    Raises:
        DataError: Fewer than two classes among the labels.
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
        mean, std = standardization(features)
        x = (features.to(dtype) - mean.to(dtype)) / std.to(dtype)
        variances, axes = principal_axes(x)
    rotated = x if axes is None else x @ axes
    problem = _Problem(rotated, target, variances.to(dtype), penalties, len(classes))
    start = torch.zeros(len(penalties), problem.unknowns, dtype=dtype, device=x.device)
    found = minimize(problem, start, tolerance=tolerance, max_iterations=MAX_ITERATIONS)
    weights, bias = problem.weights_and_bias(found.x, torch.arange(len(penalties), device=x.device))
    return LogisticPath(
        classes, mean.to(dtype), std.to(dtype), weights if axes is None else axes @ weights, bias, tuple(penalties),
        found.loss, found.converged, found.evaluations,
    )  # fmt: skip


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Variances (R,) and orthonormal principal axes (D, R) of standardized features (N, D), R at most min(N, D).

    The axes span all rows, so nothing is lost. They come from the smaller of the covariance (D, D) and the Gram
    matrix (N, N). Where both are larger than ``MAX_AXES`` the axes are None: the features' own, with variances (D,).
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
    """Standardized features (N, D) on their principal axes, (N, R): a rotation, so every fit on rows of it is exact.

    Standardization and axes are those of all N rows. One rotation then serves many fits on parts of the rows.
    """
    dtype = torch.float64 if features.numel() <= SMALL else torch.float32
    mean, std = standardization(features)
    x = (features.to(dtype) - mean.to(dtype)) / std.to(dtype)
    axes = principal_axes(x)[1]
    return x if axes is None else x @ axes


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) in float64 of features (N, D); a feature that is constant gets 1."""
    std, mean = torch.std_mean(features.double(), dim=0, correction=0)
    constant = std <= 1e-6 * mean.abs() + 1e-12
    return mean, torch.where(constant, 1.0, std)


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
