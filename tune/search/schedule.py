"""Rounds of the confirm phase: which rungs continue, with which seeds, and when the verdict is settled.

Every decision is a pure function of the plan and of the records, so that a resumed study repeats it. Without
``--until-settled`` there is one round. With it, a rung whose bound is below the margin stops, and the race ends with
the first rung that is clearly better than the default. Each round spends a part of the error
(``studies.statistics.sequential``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pmae.config import PretrainConfig
from studies.storage.rows import TRIAL_SCHEMA, TrialRow
from tune.search.confirm import candidates_to_confirm
from tune.search.space import Candidate
from tune.trial.spec import TrialSpec

if TYPE_CHECKING:
    from studies.verdict import Verdict
    from tune.planning.plan import StudyPlan


def next_round(plan: StudyPlan, rows: Iterable[TrialRow], number: int) -> list[TrialSpec]:
    """Trials of round ``number`` (from 0) of the confirm phase, controls included; none when the study is done.

    ``rows`` are all records so far; all trials of earlier rounds must have ended.
    """
    if number >= plan.rounds:
        return []
    records = list(rows)
    candidates = candidates_to_confirm(plan.space, records, plan.rule)
    active = candidates if number == 0 else unsettled(plan, candidates, records, number)
    return round_specs(plan, active, plan.round_seeds(number), samples=number == 0) if active else []


def round_specs(
    plan: StudyPlan, candidates: Sequence[Candidate], seeds: Sequence[int], samples: bool = True
) -> list[TrialSpec]:
    """Candidates and controls with all seeds, seed by seed, so that an interrupted study has complete pairs."""
    shapes = list(dict.fromkeys(replace(s.patches, mask_unit=None) for s in candidates))
    first = {shape: next(s for s in candidates if replace(s.patches, mask_unit=None) == shape) for shape in shapes}
    specs = []
    for seed in seeds:
        for candidate in candidates:
            config = plan.config(candidate)
            shown = samples and seed == seeds[0] and candidate.ratio == plan.space.default_of(candidate.method)
            trial_id = f"confirm-{config.hash()[:10]}-{seed}"
            specs.append(TrialSpec(trial_id, "confirm", seed, candidate.label, config, samples=shown))
        for shape, candidate in first.items():
            name = shape.label.replace(" ", "-")
            specs.append(
                TrialSpec(
                    f"control-untrained-p{name}-{seed}", "control", seed, f"untrained p={shape.label}",
                    plan.config(candidate), control="untrained",
                )
            )  # fmt: skip
        pixels = plan.config(candidates[0])
        specs.append(
            TrialSpec(f"control-pixels-{seed}", "control", seed, "raw pixels", pixels, control="pixels")
        )  # fmt: skip
    return specs


def unsettled(
    plan: StudyPlan, candidates: Sequence[Candidate], rows: Sequence[TrialRow], rounds: int
) -> list[Candidate]:
    """The candidates that need more seeds after ``rounds`` rounds; the default stays while any other rung does."""
    seeds = {seed for number in range(rounds) for seed in plan.round_seeds(number)}
    verdict = judge_rows(plan, [row for row in rows if row["phase"] == "explore" or row["seed"] in seeds])
    going = []
    for row in verdict.rows:
        if row["verdict"] in ("holds", "fails") or (row["verdict"] == "uninformative" and rounds > 1):
            continue
        mine = [s for s in candidates if _belongs(s, row)]
        clear = {
            rung["nominal_ratio"]
            for rung in row["rungs"]
            if rung["high"] is not None and row["margin_share"] is None and rung["high"] < (row["margin"] or 0.0)
        }
        default = plan.space.default_of(row["method"])
        rest = [s for s in mine if s.ratio == default or s.ratio is None or round(s.ratio, 6) not in clear]
        if any(s.ratio != default for s in rest):
            going += rest
    return going


def judge_rows(plan: StudyPlan, rows: Sequence[TrialRow]) -> Verdict:
    """The verdict on records in memory, with the plan's margin, levels and ladder."""
    from studies.verdict import judge

    return judge(trial_table(rows), **plan.judge_options())


def trial_table(rows: Sequence[TrialRow]) -> pa.Table:
    """Records as a table of ``TRIAL_SCHEMA``; columns that a record lacks are null."""
    columns = {}
    for field in TRIAL_SCHEMA:
        values = [row.get(field.name) if field.name != "config" else _config_text(row) for row in rows]
        if field.type == pa.string():
            values = [json.dumps(v, sort_keys=True) if isinstance(v, (dict, list)) else v for v in values]
        if pa.types.is_timestamp(field.type):
            values = [None] * len(values)
        columns[field.name] = pa.array(values, field.type)
    return pa.table(columns)


def _belongs(candidate: Candidate, row: Mapping[str, Any]) -> bool:
    patches = candidate.patches
    unit = None if candidate.method == "pmae" else patches.mask_unit or patches.patch_size
    basis = candidate.basis if candidate.method == "pmae" else None
    mine = (candidate.method, candidate.strategy, basis, patches.patch_size, patches.patch_stride, unit)
    columns = ("method", "strategy", "basis", "patch_size", "patch_stride", "mask_unit")
    return mine == tuple(row[name] for name in columns)


def _config_text(row: TrialRow) -> Any:
    config = row.get("config")
    return _as_json(config) if isinstance(config, PretrainConfig) else config


@functools.lru_cache(maxsize=1024)
def _as_json(config: PretrainConfig) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)
