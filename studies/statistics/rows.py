"""The typed rows of a verdict, as ``verdict.json`` holds them."""

from __future__ import annotations

from typing import TypedDict


class Check(TypedDict):
    """A condition for a verdict to mean anything; ``passed`` is None where the table does not say."""

    name: str
    passed: bool | None
    detail: str


class RungRow(TypedDict):
    """One rung of a judged comparison; accuracies and differences (rung minus default) are fractions.

    ``low`` and ``high`` are one-sided bounds of the difference; ``may_be_best`` and ``regret_high`` are the same bounds
    with this rung in the default's place.
    """

    ratio: float
    achieved_sd: float | None
    nominal_ratio: float
    seeds: int
    accuracy: float
    difference: float | None
    low: float | None
    high: float | None
    may_be_best: bool
    regret_high: float | None
    train_loss: float | None
    is_default: bool


class VerdictRow(TypedDict):
    """The verdict on one comparison, as ``verdict.json`` holds it; ratios, accuracies and regrets are fractions.

    ``ratios`` are the achieved ones that the default was compared with, ``ci_low`` and ``ci_high`` one-sided bounds of
    the regret at ``alpha``, ``training_gain`` is what the best rung adds to the untrained encoder.
    """

    study: str | None
    dataset: str | None
    method: str
    strategy: str | None
    basis: str | None
    patch_size: int | None
    patch_stride: int | None
    mask_unit: int | None
    kind: str
    default_ratio: float
    default_achieved: float | None
    ratios: list[float]
    best_ratio: float | None
    regret: float | None
    ci_low: float | None
    ci_high: float | None
    margin: float | None
    margin_share: float | None
    alpha: float
    verdict: str
    seeds: int
    seeds_needed: int | None
    reason: str | None
    training_gain: float | None
    training_gain_low: float | None
    untrained: float | None
    pixels: float | None
    evaluation: str | None
    excluded: list[str]
    checks: list[Check]
    rungs: list[RungRow]
