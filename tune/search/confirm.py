"""The confirm phase: which candidates, with which seeds, in which rounds, and when the verdict is settled.

A round trains the ladder of ratios at the chosen patch setting, and the best ratio between rungs. Every decision is a
pure function of the plan and of the records, so that a resumed study repeats it. Without ``--until-settled`` there is
one round. With it, a rung whose bound is below the margin stops, and the race ends with the first rung that is clearly
better than the default. Each round spends a part of the error (``studies.statistics.sequential``).
"""

from __future__ import annotations

import functools
import json
import math
import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pmae.config import PretrainConfig
from studies.storage.rows import TRIAL_SCHEMA, TrialRow
from tune.options import ConfirmRule
from tune.search.space import Candidate, Space, deduplicate
from tune.trial.spec import TrialSpec

if TYPE_CHECKING:
    from studies.verdict import Verdict
    from tune.planning.plan import StudyPlan

setting_of = operator.itemgetter("method", "strategy", "basis", "patch_size", "patch_stride", "mask_unit")
NEAR = 0.03  # ratios closer than this cannot be told apart with an affordable number of seeds


def next_round(plan: StudyPlan, rows: Iterable[TrialRow], number: int) -> list[TrialSpec]:
    """Trials of round ``number`` (from 0), controls included, once earlier ones have ended; none when all is done."""
    if number >= plan.rounds:
        return []
    records = list(rows)
    candidates = candidates_to_confirm(plan.space, records, plan.options.rule)
    if number > 0:
        candidates = _unsettled(plan, candidates, records, number)
    return _round_specs(plan, candidates, plan.round_seeds(number), samples=number == 0) if candidates else []


def _round_specs(plan: StudyPlan, candidates: list[Candidate], seeds: Sequence[int], samples: bool) -> list[TrialSpec]:
    """Candidates and controls with all seeds, seed by seed, so that an interrupted study has complete pairs."""
    first: dict[str, Candidate] = {}  # by patches of the encoder, which mask units do not change
    for candidate in candidates:
        first.setdefault(replace(candidate.patches, mask_unit=None).label, candidate)
    specs = []
    for seed in seeds:
        for candidate in candidates:
            config = plan.config(candidate)
            shown = samples and seed == seeds[0] and candidate.ratio == plan.space.default_of(candidate.method)
            trial_id = f"confirm-{config.hash()[:10]}-{seed}"
            specs.append(TrialSpec(trial_id, "confirm", seed, candidate.label, config, samples=shown))
        for shape, candidate in first.items():
            trial_id, label = f"control-untrained-p{shape.replace(' ', '-')}-{seed}", f"untrained p={shape}"
            specs.append(TrialSpec(trial_id, "control", seed, label, plan.config(candidate), control="untrained"))
        config = plan.config(candidates[0])
        specs.append(TrialSpec(f"control-pixels-{seed}", "control", seed, "raw pixels", config, control="pixels"))
    return specs


def _unsettled(plan: StudyPlan, candidates: list[Candidate], rows: list[TrialRow], rounds: int) -> list[Candidate]:
    """The candidates that need more seeds after ``rounds`` rounds; the default stays while any other rung does."""
    seeds = {seed for number in range(rounds) for seed in plan.round_seeds(number)}
    verdict = judge_rows(plan, [row for row in rows if row["phase"] == "explore" or row["seed"] in seeds])
    columns = {s: TrialSpec("", "confirm", 0, s.label, plan.config(s)).candidate_columns() for s in candidates}
    going: list[Candidate] = []
    for row in verdict.rows:
        if row["verdict"] in ("holds", "fails") or (row["verdict"] == "uninformative" and rounds > 1):
            continue
        mine = [s for s in candidates if setting_of(columns[s]) == setting_of(row)]
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
        values: list[Any] = [row.get(field.name) for row in rows]
        if field.name == "config":
            values = [_as_json(value) if isinstance(value, PretrainConfig) else value for value in values]
        if field.type == pa.string():
            values = [json.dumps(v, sort_keys=True) if isinstance(v, (dict, list)) else v for v in values]
        if pa.types.is_timestamp(field.type):
            values = [None] * len(values)
        columns[field.name] = pa.array(values, field.type)
    return pa.table(columns)


@functools.lru_cache(maxsize=1024)
def _as_json(config: PretrainConfig) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)


def candidates_to_confirm(space: Space, rows: Iterable[TrialRow], rule: ConfirmRule) -> list[Candidate]:
    """The candidates to confirm by method and ratio; a method without explored trials gets its first patch setting."""
    accuracies: dict[Candidate, list[float]] = defaultdict(list)
    for row in rows:
        if row["phase"] == "explore" and row["status"] == "done" and row["val_linear"] is not None:
            accuracies[Candidate.of(config_of(row))].append(row["val_linear"])
    explored = {s: math.fsum(v) / len(v) for s, v in accuracies.items()}
    chosen: list[Candidate] = []
    for method in space.methods:
        mine = {s: v for s, v in explored.items() if s.method == method}
        for candidate in _candidates(space, method, mine, rule.every_patch_setting):
            chosen += _ladder(space, candidate, mine, rule)
    return list(dict.fromkeys(chosen))


def max_candidates(space: Space, rule: ConfirmRule) -> int:
    """How many candidates are confirmed at most, before the exploration has ended."""
    total = 0
    for method in space.methods:
        candidates = _candidates(space, method, {}, rule.every_patch_setting)
        extra = rule.refinements if not space.ratios[method].listed else 0
        total += sum(1 if c.ratio is None else len(space.rungs(c)) + extra for c in candidates)
    return total


def _candidates(space: Space, method: str, explored: Mapping[Candidate, float], every: bool) -> list[Candidate]:
    """Candidates at the default ratio, one for each patch setting, strategy and basis to confirm."""
    everything = space.default_candidates(method)
    if every:
        return everything
    # The mean of the two best trials: a single lucky one does not decide.
    scores: dict[Candidate, list[float]] = defaultdict(list)
    for candidate, value in explored.items():
        drawn = candidate.strategy == "sampled"
        scores[replace(candidate, ratio=None if drawn else space.default_of(method))].append(value)
    best = {s: sum(sorted(v)[-2:]) / len(v[-2:]) for s, v in scores.items() if s in everything}
    return [max(best, key=lambda s: (best[s], str(s)))] if best else everything[:1]


def _ladder(
    space: Space, candidate: Candidate, explored: Mapping[Candidate, float], rule: ConfirmRule
) -> list[Candidate]:
    if candidate.ratio is None:  # the ratio is drawn at random: a single candidate
        return [candidate]
    rungs = space.rungs(candidate)
    same = [s for s in explored if replace(s, ratio=candidate.ratio) == candidate and s.ratio is not None]
    leaders = sorted(same, key=lambda s: (-explored[s], str(s)))[: rule.refinements]
    for leader in leaders:
        longer = [*rungs, leader]
        near = any(abs((leader.ratio or 0) - (rung.ratio or 0)) <= NEAR for rung in rungs)
        if not near and len(deduplicate(longer, space.image_size)) == len(longer):
            rungs = longer
    return sorted(rungs, key=lambda s: s.ratio or 0.0)


def config_of(row: Mapping[str, Any]) -> PretrainConfig:
    """The configuration of a record, in which it may be JSON."""
    config = row["config"]
    if isinstance(config, PretrainConfig):
        return config
    return PretrainConfig.from_dict(json.loads(config) if isinstance(config, str) else config)
