"""A study in memory: the real planning, proposals, confirm phase and verdict, with a function in place of training.

For error rates of the verdict under known truth (``benchmarks/verdict_power.py``), and to try a plan out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from studies.storage.rows import TrialRow
from tune.options import DataOptions, StudyOptions
from tune.planning.plan import StudyPlan, plan_study
from tune.search.confirm import judge_rows
from tune.search.space import Candidate, masked_units
from tune.search.state import Start, StudyState
from tune.trial.spec import TrialSpec

if TYPE_CHECKING:
    from pmae.data import ImageSet
    from studies.verdict import Verdict

LAG = 2  # as in a study on two cores

# Accuracies of a trial, fractions, from method, ratio, patch size, seed and phase.
Objective = Callable[[str, float | None, int | None, int, str], Mapping[str, float]]


def simulate(options: StudyOptions, objective: Objective, *, seed: int) -> Verdict:
    """Run a study without Ray, files or training; far below a second with a fast ``objective``.

    Args:
        options: As for ``run_study``; the images are loaded for their size and splits only.
        objective: Called as ``objective(method, ratio, patch_size, seed, phase)`` for every trial; returns its
            accuracies, fractions: ``{"val_linear": ..., "test_linear": ...}``. ``method`` is ``pmae``, ``mae``,
            ``untrained`` or ``pixels``; ``ratio`` is None for the last two, ``patch_size`` is None for ``pixels``.
        seed: The study's seed, in place of ``options.training.seed``.

    Raises:
        ConfigError: the options cannot be run.
    """
    options = options.with_file()
    options = dataclasses.replace(options, training=dataclasses.replace(options.training, seed=seed))
    plan = plan_study(options, images=_images(options.data))
    state = StudyState(plan, (), lag=LAG)
    while isinstance(step := state.next(), Start):
        state.end(step.spec.trial_id, _row(plan, step.spec, objective))
    return judge_rows(plan, list(state.records.values()))


@functools.lru_cache(maxsize=4)
def _images(data: DataOptions) -> ImageSet:
    from pmae.data import load_images

    return load_images(data.dataset, data.data_root, data.image_size, data.limit, 0)


def _row(plan: StudyPlan, spec: TrialSpec, objective: Objective) -> TrialRow:
    columns = spec.candidate_columns()
    method, ratio, patch = columns["method"], columns.get("ratio"), columns.get("patch_size")
    scores = objective(method, ratio, patch, spec.seed, spec.phase)
    found = {name: float(scores[name]) for name in ("val_linear", "test_linear")}
    finite = all(0 <= value <= 1 for value in found.values())
    masked, units = masked_units(Candidate.of(spec.config), plan.images.image_size)
    if masked is not None and spec.control is None:
        ratio = masked / units
    row: dict[str, Any] = {
        "study": plan.name,
        "trial_id": spec.trial_id,
        "phase": spec.phase,
        "dataset": plan.images.name,
        **columns,
        "achieved_ratio": ratio,
        "seed": spec.seed,
        "config": spec.config,
        "status": "done" if finite else "diverged",
        **(found if finite else dict.fromkeys(found)),
    }
    return cast(TrialRow, row)
