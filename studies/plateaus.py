"""How wide a range of ratios does as well as the best: a fitted curve and its plateau for every setting of a table.

The fits are ``ratio_fit``'s, the shape test ``inverted_u``'s; here trials are picked for them and results named.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa

from studies.curves import Setting, in_order, is_number, rows_of, setting_labels
from studies.errors import StudyError
from studies.inverted_u import InvertedU, inverted_u
from studies.ratio_fit import RatioFit, fit_curve

MOST_SETTINGS = 24  # a fit takes a good part of a second


@dataclass(frozen=True)
class Plateau:
    """One setting's fitted curve over the ratio, and whether it is an inverted U (None: too few trials to test)."""

    setting: Setting
    label: str
    fit: RatioFit
    shape: InvertedU | None


def plateaus(trials: pa.Table, margin: float) -> list[Plateau]:
    """Fit validation accuracy over ratio for every setting with at least 4 ratios tried, in the curves' order.

    Args:
        trials: Explored and confirmed trials; only those that are done count.
        margin: Depth of the plateau, a fraction of accuracy.
    """
    points: dict[Setting, list[tuple[float, float]]] = defaultdict(list)
    for row in rows_of(trials, (*Setting._fields, "ratio", "status", "val_linear")):
        if row["status"] == "done" and is_number(row["ratio"]) and is_number(row["val_linear"]):
            points[Setting.of(row)].append((row["ratio"], row["val_linear"]))
    settings = in_order(points)[:MOST_SETTINGS]
    labels = setting_labels(settings)
    found = []
    for setting in settings:
        ratios, accuracies = zip(*points[setting], strict=True)
        try:
            fit = fit_curve(ratios, accuracies, margin=margin)
        except StudyError:  # too few ratios: nothing to say about this setting
            continue
        found.append(Plateau(setting, labels[setting], fit, _shape(ratios, accuracies)))
    return found


def _shape(ratios: tuple[float, ...], accuracies: tuple[float, ...]) -> InvertedU | None:
    try:
        return inverted_u(ratios, accuracies)
    except StudyError:
        return None
