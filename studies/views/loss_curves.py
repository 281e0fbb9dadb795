"""Training curves out of a study's two tables: the mean loss per epoch of each setting and ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from studies.formatting import is_number
from studies.statistics.ratio_curves import Setting, achieved, rows_of, setting_labels

MAX_EPOCHS = 200


@dataclass(frozen=True)
class LossCurve:
    """Mean training loss per epoch of the trials that share setting and (achieved) ratio."""

    method: str
    label: str
    ratio: float
    trials: int
    epochs: tuple[int, ...]
    losses: tuple[float, ...]


def loss_curves(trials: pa.Table, history: pa.Table, most: int = 40) -> list[LossCurve]:
    """The confirmed trials' curves (the explored ones' where none is confirmed), at most ``most``, evenly picked.

    Cost is linear in the rows of both tables. Trials that did not finish are left out.
    """
    done = trials.filter(pc.equal(trials["status"], "done"))
    confirmed = done.filter(pc.equal(done["phase"], "confirm"))
    chosen = confirmed if confirmed.num_rows else done
    if not chosen.num_rows or not history.num_rows:
        return []
    columns = ("study", "trial_id", "ratio", "achieved_ratio", *Setting._fields)
    rows = [row for row in rows_of(chosen, columns) if is_number(row["ratio"])]
    if not rows:
        return []
    keys = sorted({_key(row) for row in rows}, key=lambda key: (key[1] != "pmae", str(key)))
    keys = [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, most).astype(int))]
    number = {key: i for i, key in enumerate(keys)}
    picked = [(row, number[key]) for row in rows if (key := _key(row)) in number]
    index = pa.table(
        {
            "study": [row["study"] for row, _ in picked],
            "trial_id": [row["trial_id"] for row, _ in picked],
            "curve": pa.array([curve for _, curve in picked], pa.int64()),
        }
    )
    labels = setting_labels(Setting(*key[:-1]) for key in keys)
    ratios = [float(np.mean([achieved(row) for row, curve in picked if curve == i])) for i in range(len(keys))]
    return _averaged(history, index, keys, labels, ratios)


def _averaged(
    history: pa.Table,
    index: pa.Table,
    keys: list[tuple[Any, ...]],
    labels: dict[Setting, str],
    ratios: list[float],
) -> list[LossCurve]:
    joined = history.select(["study", "trial_id", "epoch", "train_loss"]).join(
        index, ["study", "trial_id"], join_type="inner"
    )
    means = joined.group_by(["curve", "epoch"]).aggregate([("train_loss", "mean"), ("train_loss", "count")])
    means = means.sort_by([("curve", "ascending"), ("epoch", "ascending")])
    columns = [means[name].to_numpy() for name in ("curve", "epoch", "train_loss_mean", "train_loss_count")]
    curves = []
    for number, key in enumerate(keys):
        epochs, losses, counts = (column[columns[0] == number] for column in columns[1:])
        finite = np.isfinite(losses.astype(float))
        if not finite.any():
            continue
        kept = np.flatnonzero(finite)[:: max(1, -(-int(finite.sum()) // MAX_EPOCHS))]
        setting = Setting(*key[:-1])
        shown = tuple(map(int, epochs[kept])), tuple(map(float, losses[kept]))
        curves.append(LossCurve(setting.method, labels[setting], ratios[number], int(counts.max()), *shown))
    return curves


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*Setting.of(row), round(achieved(row) if row["method"] == "mae" else row["ratio"], 6))
