"""A study in memory: the real planning, proposals, confirm phase and verdict, with a function in place of training.

For error rates of the verdict under known truth (``benchmarks/verdict_power.py``), and to try a plan out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from optuna.trial import TrialState

from pmae.config import masked_count
from tune.options import DataOptions, StudyOptions
from tune.planning.plan import StudyPlan, plan_study
from tune.search.sampler import Proposals
from tune.search.schedule import judge_rows, next_round
from tune.search.space import explore_seed
from tune.trial.spec import TrialSpec

if TYPE_CHECKING:
    from pmae.data import ImageSet
    from studies.verdict import Verdict

LAG = 2  # as of a study on two cores


class Objective(Protocol):
    """Accuracies of one trial, fractions: ``{"val_linear": ..., "test_linear": ...}``.

    ``method`` is ``pmae``, ``mae``, ``untrained`` or ``pixels``; ``ratio`` is None for the last two, and
    ``patch_size`` is None for ``pixels``.
    """

    def __call__(
        self, method: str, ratio: float | None, patch_size: int | None, seed: int, phase: str
    ) -> Mapping[str, float]: ...


def simulate(options: StudyOptions, objective: Objective, *, seed: int) -> Verdict:
    """Run a study without Ray, files or training; far below a second with a fast ``objective``.

    Args:
        options: As for ``run_study``; the images are loaded for their size and splits only.
        objective: Called as ``objective(method, ratio, patch_size, seed, phase)`` for every trial.
        seed: The study's seed, in place of ``options.training.seed``.

    Raises:
        ConfigError: the options cannot be run.
    """
    options = options.with_file()
    options = dataclasses.replace(options, training=dataclasses.replace(options.training, seed=seed))
    plan = plan_study(options, images=_images(options.data))
    rows: list[dict[str, Any]] = []
    proposals = Proposals(plan.space, plan.known_settings(), plan.sampler, seed, LAG)
    for number in range(plan.trials):
        setting = proposals.next()
        assert setting is not None, "all results of earlier trials are known"
        row = _row(plan, plan.explore_spec(number, setting, explore_seed(setting, seed) + number), objective)
        rows.append(row)
        done = row["status"] == "done"
        proposals.tell(number, TrialState.COMPLETE if done else TrialState.FAIL, row["val_linear"])
    number = 0
    while specs := next_round(plan, rows, number):
        rows += [_row(plan, spec, objective) for spec in specs]
        number += 1
    return judge_rows(plan, rows)


@functools.lru_cache(maxsize=4)
def _images(data: DataOptions) -> ImageSet:
    from pmae.data import load_images

    return load_images(data.dataset, data.data_root, data.image_size, data.limit, 0)


def _row(plan: StudyPlan, spec: TrialSpec, objective: Objective) -> dict[str, Any]:
    masking, model = spec.config.masking, spec.config.model
    control, pixels = spec.control is not None, spec.control == "pixels"
    method = spec.control or masking.method
    ratio = None if control else masking.ratio
    patch = None if pixels else model.patch_size
    scores = objective(method, ratio, patch, spec.seed, spec.phase)
    found = {name: float(scores[name]) for name in ("val_linear", "test_linear")}
    finite = all(0 <= value <= 1 for value in found.values())
    row: dict[str, Any] = {
        "study": plan.name,
        "trial_id": spec.trial_id,
        "phase": spec.phase,
        "dataset": plan.images.name,
        "method": method,
        "ratio": ratio,
        "seed": spec.seed,
        "status": "done" if finite else "diverged",
        "patch_size": patch,
        "patch_stride": None if pixels else model.patch_stride,
        "config": spec.config,
        **(found if finite else dict.fromkeys(found)),
    }
    if not control:
        pmae = masking.method == "pmae"
        row |= {
            "strategy": masking.strategy,
            "basis": masking.basis if pmae else None,
            "mask_unit": None if pmae else masking.mask_unit,
            "achieved_ratio": ratio if pmae or ratio is None else _achieved(spec, ratio),
        }
    return row


def _achieved(spec: TrialSpec, ratio: float) -> float:
    """Share of the mask units of MAE that a ratio hides."""
    model, masking = spec.config.model, spec.config.masking
    whole = masking.mask_unit in (None, model.patch_size)
    side = model.grid if whole else (model.image_size or 0) // (masking.mask_unit or 1)
    return masked_count(side**2, ratio) / side**2
