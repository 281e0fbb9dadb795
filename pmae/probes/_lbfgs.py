"""L-BFGS for many independent smooth problems of one shape, stepped together so that they share matrix products.

Every problem has its own history, line search and end; the only thing shared is the call of the objective.
Libraries minimize one problem at a time, or the sum of all of them with one step length for the lot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SUFFICIENT_DECREASE = 1e-4
MAX_HALVINGS = 25


class Minimum(NamedTuple):
    """Where the problems ended: ``x`` (S, P), ``loss`` (S,), ``converged`` (S,) bool; calls of the objective."""

    x: Tensor
    loss: Tensor
    converged: Tensor
    evaluations: int


def minimize(objective: Objective, x: Tensor, *, tolerance: float, max_iterations: int, history: int = 10) -> Minimum:
    """Minimize S problems of P unknowns each by limited-memory BFGS (Nocedal & Wright 2006, algorithm 7.5).

    Args:
        objective: ``(x (A, P), which (A,) indices of problems) -> (loss (A,), gradient (A, P))``.
        x: Starting points (S, P).
        tolerance: A problem has converged when no entry of its gradient is larger than this.
        max_iterations: Steps at most.
        history: Steps that the curvature is remembered for.
    """
    every = torch.arange(len(x), device=x.device)
    x = x.clone()
    loss, gradient = objective(x, every)
    evaluations = 1
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    stalled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(max_iterations):
        active = every[(gradient.abs().amax(1) > tolerance) & ~stalled]
        if len(active) == 0:
            break
        direction = _direction(gradient, pairs)
        new_x, new_loss, new_gradient, accepted, used = _line_search(objective, x, loss, gradient, direction, active)
        evaluations += used
        stalled[active[~accepted[active]]] = True
        pairs.append(_curvature_pair(new_x - x, new_gradient - gradient))
        del pairs[:-history]
        x, loss, gradient = new_x, new_loss, new_gradient
    return Minimum(x, loss, gradient.abs().amax(1) <= tolerance, evaluations)


def _curvature_pair(step: Tensor, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(s, y, 1 / sᵀy); where sᵀy is not safely positive the last is 0, which takes the pair out of the recursion."""
    product = (step * change).sum(1)
    usable = product > 1e-10 * change.square().sum(1)
    return step, change, torch.where(usable, 1 / torch.where(usable, product, 1.0), 0.0)


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Minus the inverse-Hessian estimate times the gradient: the two-loop recursion, row by row."""
    q = gradient.clone()
    alphas = []
    for step, change, rho in reversed(pairs):
        alpha = rho * (step * q).sum(1)
        q -= alpha[:, None] * change
        alphas.append(alpha)
    q *= _scale(pairs, q)
    for (step, change, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = rho * (change * q).sum(1)
        q += (alpha - beta)[:, None] * step
    return -q


def _scale(pairs: list[tuple[Tensor, Tensor, Tensor]], like: Tensor) -> Tensor:
    """sᵀy / yᵀy of each problem's newest usable pair (1 before there is one), as (S, 1)."""
    scale = torch.ones(len(like), dtype=like.dtype, device=like.device)
    for _, change, rho in pairs:
        usable = rho > 0
        size = change.square().sum(1)
        scale = torch.where(usable, 1 / torch.where(usable, rho * size, 1.0), scale)
    return scale[:, None]


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
