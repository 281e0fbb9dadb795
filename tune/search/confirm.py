"""Candidates of the confirm phase: the ladder of ratios at the chosen patch setting, and the best ratio between rungs.

See ``schedule.py`` for studies of several rounds and ``studies.verdict`` for the verdict.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pmae.config import PretrainConfig
from studies.storage.rows import TrialRow
from tune.search.space import Candidate, Space, deduplicate

NEAR = 0.03  # ratios closer than this cannot be told apart with an affordable number of seeds


@dataclass(frozen=True)
class ConfirmRule:
    """Which candidates are confirmed.

    Attributes:
        refinements: Explored ratios between the rungs that join the ladder where they are the best explored ones.
        every_patch_setting: Confirm each method at every patch setting, strategy and basis instead of the best one.
    """

    refinements: int = 1
    every_patch_setting: bool = False


def candidates_to_confirm(space: Space, rows: Iterable[TrialRow], rule: ConfirmRule) -> list[Candidate]:
    """The candidates to confirm, those of one method together, rungs in order of their ratio.

    ``rows`` are records; only explored trials that are done count. A method without any gets its first patch setting.
    """
    explored = _explored(rows)
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


def _explored(rows: Iterable[TrialRow]) -> dict[Candidate, float]:
    """Mean validation accuracy of each explored candidate."""
    found: dict[Candidate, list[float]] = {}
    for row in rows:
        if row["phase"] == "explore" and row["status"] == "done" and row["val_linear"] is not None:
            candidate = Candidate.of(config_of(row))
            found.setdefault(candidate, []).append(row["val_linear"])
    return {s: sum(v) / len(v) for s, v in found.items()}


def _candidates(space: Space, method: str, explored: Mapping[Candidate, float], every: bool) -> list[Candidate]:
    """Candidates at the default ratio, one for each patch setting, strategy and basis to confirm."""
    default = space.default_of(method)
    everything = [
        Candidate(method, patches, None if strategy == "sampled" else default, strategy, basis)
        for patches, strategy, basis in product(space.patches[method], space.strategies[method], space.bases_of(method))
    ]
    if every:
        return everything
    # The mean of the two best trials: a single lucky one does not decide.
    scores: dict[Candidate, list[float]] = defaultdict(list)
    for candidate, value in explored.items():
        drawn = candidate.strategy == "sampled"
        scores[replace(candidate, ratio=None if drawn else default)].append(value)
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
    """The resolved configuration in a record."""
    config = row["config"]
    if isinstance(config, PretrainConfig):
        return config
    return PretrainConfig.from_dict(json.loads(config) if isinstance(config, str) else config)
