"""Training curves: the mean loss per epoch of each setting and ratio, a panel per method, labeled at its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.figures.palette import BLUE, METHOD_COLORS, MUTED
from studies.figures.style import COLUMN, PAGE, SMALL, add_tooltip, place_inches, spread, subtitle
from studies.formatting import count, is_number, method_name, percent
from studies.statistics.ratio_curves import Setting, achieved, setting_labels
from studies.storage.tables import rows_of

MAX_EPOCHS, MAX_CURVES = 200, 40
LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 0.42, 0.42, 0.4, 0.38, 1.75  # inches
LIMIT = 2.5  # losses above it are cut off: predicting the mean has loss 1


@dataclass(frozen=True)
class LossCurve:
    """Mean training loss per epoch of the trials that share setting and (achieved) ratio."""

    method: str
    label: str
    ratio: float
    trials: int
    epochs: tuple[int, ...]
    losses: tuple[float, ...]


def loss_curves(trials: pa.Table, history: pa.Table) -> list[LossCurve]:
    """The finished confirmed trials' curves (the explored ones' where none is confirmed), of many an even selection."""
    done = trials.filter(pc.equal(trials["status"], "done"))
    confirmed = done.filter(pc.equal(done["phase"], "confirm"))
    chosen = confirmed if confirmed.num_rows else done
    if not chosen.num_rows or not history.num_rows:
        return []
    columns = ("study", "trial_id", "ratio", "achieved_ratio", *Setting._fields)
    members: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows_of(chosen, columns):
        if is_number(row["ratio"]):
            members[_key(row)].append(row)
    keys = sorted(members, key=lambda key: (key[1] != "pmae", str(key)))
    keys = [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, MAX_CURVES).astype(int))] if keys else []
    labels = setting_labels(Setting(*key[:-1]) for key in keys)
    curves = []
    for key in keys:
        trials_of = pa.Table.from_pylist(members[key], history.select(["study", "trial_id"]).schema)
        own = history.join(trials_of, ["study", "trial_id"], join_type="inner").group_by("epoch")
        means = own.aggregate([("train_loss", "mean"), ("train_loss", "count")]).sort_by("epoch")
        names = ("epoch", "train_loss_mean", "train_loss_count")
        epochs, losses, counts = (means[name].to_numpy() for name in names)
        finite = np.flatnonzero(np.isfinite(losses.astype(float)))
        if len(finite):
            kept = finite[:: -(-len(finite) // MAX_EPOCHS)]
            setting = Setting(*key[:-1])
            ratio = float(np.mean([achieved(row) for row in members[key]]))
            shown = tuple(map(int, epochs[kept])), tuple(map(float, losses[kept]))
            curves.append(LossCurve(setting.method, labels[setting], ratio, int(counts.max()), *shown))
    return curves


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*Setting.of(row), round(achieved(row) if row["method"] == "mae" else row["ratio"], 6))


def training_figure(curves: Sequence[LossCurve]) -> Figure:
    """Share of the masked variance left unexplained over the epoch, a panel per method, as their targets differ."""
    groups = list(dict.fromkeys((c.method, c.label) for c in curves))
    columns = min(len(groups), 2)
    rows = -(-len(groups) // 2)
    height = TOP + HEIGHT + BOTTOM
    figure = Figure(figsize=(PAGE if columns == 2 else COLUMN, rows * height))
    width = figure.get_size_inches()[0] / columns
    for index, (method, label) in enumerate(groups):
        x, y = (index % 2) * width, (rows - 1 - index // 2) * height
        axes = place_inches(figure, x + LEFT, y + BOTTOM, width - LEFT - RIGHT, HEIGHT)
        own = [c for c in curves if (c.method, c.label) == (method, label)]
        _draw(axes, own, METHOD_COLORS.get(method, BLUE))
        axes.set_title(label or method_name(method), pad=13)
    return figure


def _draw(axes: Axes, curves: Sequence[LossCurve], color: str) -> None:
    curves = sorted(curves, key=lambda curve: curve.ratio)
    last = max(curve.epochs[-1] for curve in curves)
    first = min(curve.epochs[0] for curve in curves)
    ceiling = min(max(1.08, *(max(c.losses[len(c.losses) // 10 :]) for c in curves)), LIMIT) * 1.04
    axes.set_xlim(first, max(last, first + 1))
    axes.set_ylim(0, ceiling)
    axes.grid(axis="x", visible=False)
    axes.axhline(1, color=MUTED, lw=0.9, ls=(0, (4, 2)))
    axes.text(0.99, 1, "predicting the mean", transform=axes.get_yaxis_transform(), ha="right", va="bottom",
              fontsize=SMALL, color=MUTED)  # fmt: skip
    labels = spread([min(c.losses[-1], ceiling) for c in curves], ceiling * 0.062, 0, ceiling)
    for rank, (curve, place) in enumerate(zip(curves, labels, strict=True)):
        strength = 0.4 + 0.6 * rank / max(len(curves) - 1, 1)
        (line,) = axes.plot(curve.epochs, np.minimum(curve.losses, 10 * LIMIT), color=color, alpha=strength, lw=1.2)
        text = f"{percent(curve.ratio)} masked, {count(curve.trials, 'trial')}: final loss {curve.losses[-1]:.3f}"
        add_tooltip(line, text)
        axes.annotate(percent(curve.ratio), (1, place), xycoords=("axes fraction", "data"), xytext=(3, 0),
                      textcoords="offset points", va="center", fontsize=SMALL, color=color)  # fmt: skip
    axes.set_xlabel("epoch")
    subtitle(axes, "masked variance left unexplained")
