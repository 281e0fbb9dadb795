"""Bases, masking strategies or mask units against each other, each at its own best ratio, over paired seeds.

The best ratio is picked on one half of the seeds by validation accuracy and measured on the other
half by test accuracy, so that the value with more ratios to choose from gains nothing by chance.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import stdtrit

from studies.formatting import is_number, method_name
from studies.statistics.ratio_curves import Setting, select_confirmed
from studies.statistics.regret import MIN_SEEDS

COLUMNS = ("basis", "strategy", "mask_unit")
REFERENCES = ("pca", "fixed", "random")  # what other bases and strategies are compared with; of mask units the smallest
MAX_SPLITS = 200
Cells = dict[float, dict[int, tuple[float, float]]]  # ratio -> seed -> accuracies on val and test


@dataclass(frozen=True)
class SettingComparison:
    """One value compared with the reference.

    ``low`` and ``high`` are two-sided bounds that hold for all rows of the comparison together at 95 % (Bonferroni).
    """

    dataset: str
    method: str
    column: str  # what was compared: ``basis``, ``strategy`` or ``mask_unit``
    value: str  # for example ``dct``
    reference: str  # the value it is compared with; itself in the reference's own row
    ratio: float  # best ratio by validation accuracy over all seeds
    accuracy: float  # test accuracy at the best ratio, cross-fitted
    difference: float | None  # ``accuracy`` minus the reference's; None in its own row, as are the bounds
    low: float | None
    high: float | None
    seeds: int

    @property
    def subject(self) -> str:
        """What all rows of the comparison share, for example ``PMAE on digits: basis``."""
        return f"{method_name(self.method)} on {self.dataset}: {self.column.replace('_', ' ')}"


def compare_settings(trials: pa.Table) -> list[SettingComparison]:
    """Every comparison that the confirmed trials allow: values of one column, everything else but the ratio equal."""
    scores = ("ratio", "val_linear", "test_linear")
    confirmed, _ = select_confirmed(trials, scores, [])
    rows = [row for row in confirmed if row["status"] == "done" and all(is_number(row[name]) for name in scores)]
    found = []
    for column in COLUMNS:
        groups: dict[tuple[Any, ...], dict[Any, Cells]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
        for row in rows:
            if row[column] is not None:
                key = tuple(row[name] for name in Setting._fields if name != column)
                groups[key][row[column]][row["ratio"]][row["seed"]] = (row["val_linear"], row["test_linear"])
        for (dataset, method, *_), values in sorted(groups.items(), key=lambda item: str(item[0])):
            if len(values) > 1:
                found += _compare(dataset, method, column, values)
    return found


def comparison_sentences(found: Sequence[SettingComparison]) -> list[str]:
    """The outcome of each comparison in one sentence."""
    subjects = dict.fromkeys(c.subject for c in found)
    return [_sentence([c for c in found if c.subject == subject]) for subject in subjects]


def _sentence(rows: list[SettingComparison]) -> str:
    differ = [c for c in rows if c.low is not None and c.high is not None and not c.low <= 0 <= c.high]
    others = [c for c in rows if c.difference is not None and c not in differ]
    reference = rows[0].reference
    sentences = []
    for c in differ:
        difference = c.difference or 0.0
        word = "better" if difference > 0 else "worse"
        sentences.append(f"{c.value} is {abs(100 * difference):.1f} {word} than {reference} ({_bounds(c)})")
    if others:
        listed = ", ".join(f"{c.value} ({_bounds(c)})" for c in others)
        sentences.append(f"no difference to {reference} is shown for {listed}")
    where, _, what = rows[0].subject.rpartition(": ")
    return (
        f"{where}, each {what} at its best ratio ({rows[0].seeds} seeds, points of accuracy): {'; '.join(sentences)}."
    )


def _bounds(row: SettingComparison) -> str:
    assert row.low is not None and row.high is not None
    return f"{100 * row.low:.1f} to {100 * row.high:.1f}"


def _halves(seeds: int) -> np.ndarray:
    """All splits of n seeds, of many a random choice, as booleans (S, n): True where a seed selects."""
    half = seeds // 2
    if math.comb(seeds, half) <= MAX_SPLITS:
        chosen = [[i in pick for i in range(seeds)] for pick in itertools.combinations(range(seeds), half)]
        splits = np.array(chosen, dtype=bool)
        return np.concatenate([splits, ~splits]) if seeds % 2 else splits
    ranks = np.random.default_rng(0).random((MAX_SPLITS // 2, seeds)).argsort(axis=1)
    return np.concatenate([ranks < half, ranks >= half])


def _compare(dataset: str, method: str, column: str, values: dict[Any, Cells]) -> list[SettingComparison]:
    cells = {value: _without_thin(ratios) for value, ratios in values.items()}
    seeds = sorted(set.intersection(*(set(s) for ratios in cells.values() for s in ratios.values())))
    if len(seeds) < MIN_SEEDS:
        return []
    splits = _halves(len(seeds))
    ordered = sorted(cells, key=lambda v: (v not in REFERENCES, v))
    reference: np.ndarray | None = None
    out = []
    for value in ordered:
        ratios = sorted(cells[value])
        both = np.array([[cells[value][ratio][seed] for ratio in ratios] for seed in seeds])  # (n, K, 2)
        val, test = both[..., 0], both[..., 1]
        per_split = test[:, (splits.astype(float) @ val).argmax(axis=1)].T  # (S, n) test at each split's pick
        best, accuracy = ratios[int(val.mean(axis=0).argmax())], float(_measured(per_split, splits).mean())
        bounds: tuple[float | None, float | None, float | None] = (None, None, None)
        if reference is None:
            reference = per_split
        else:
            bounds = _bound(per_split - reference, splits, len(ordered) - 1)
        compared = dataset, method, column, str(value), str(ordered[0])
        out.append(SettingComparison(*compared, best, accuracy, *bounds, len(seeds)))
    return out


def _without_thin(ratios: Cells) -> Cells:
    """Ratios that at least half as many seeds finished as any other: one lost ratio must not take all seeds with it."""
    most = max(len(seeds) for seeds in ratios.values())
    return {ratio: seeds for ratio, seeds in ratios.items() if 2 * len(seeds) >= most}


def _bound(difference: np.ndarray, splits: np.ndarray, comparisons: int) -> tuple[float, float, float]:
    """Mean of (S, n) differences of accuracy and its bounds."""
    scores = _measured(difference, splits)
    # The scores' spread alone is too small when splits pick different ratios.
    spread = max(scores.std(ddof=1), math.sqrt(float(difference.var(axis=1, ddof=1).mean())))
    error = spread / math.sqrt(len(scores))
    reach = float(stdtrit(len(scores) - 1, 1 - 0.05 / (2 * comparisons))) * error
    middle = float(scores.mean())
    return middle, middle - reach, middle + reach


def _measured(per_split: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """(n,) what each seed contributes when only seeds that did not pick measure; their mean is the estimate."""
    measuring = ~splits / (~splits).sum(axis=1, keepdims=True)
    return per_split.shape[1] * (per_split * measuring).sum(axis=0) / len(splits)
