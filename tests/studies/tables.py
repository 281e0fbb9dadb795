"""Tables of confirmed trials and controls with chosen accuracies, as ``judge`` reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from studies.storage.rows import TRIAL_SCHEMA

LADDER = (0.05, 0.1, 0.2, 0.35, 0.55, 0.75, 0.9)
DEFAULT = LADDER.index(0.2)
UNTRAINED = 0.6

Rows = list[dict[str, Any]]


def trial_rows(accuracies: np.ndarray, ratios: Sequence[float] = LADDER, **more: Any) -> Rows:
    """Confirmed PMAE trials of (n, K) test accuracies, one row each; ``more`` replaces columns."""
    return [
        {
            "study": "s", "trial_id": f"{ratio:g}-s{seed}", "phase": "confirm", "dataset": "digits",
            "method": "pmae", "strategy": "expected", "basis": "pca", "ratio": ratio, "achieved_ratio": ratio,
            "patch_size": 2, "patch_stride": 2, "seed": seed, "status": "done", "epochs": 9,
            "val_linear": 0.7, "test_linear": float(accuracies[seed, k]),
        } | more
        for seed in range(len(accuracies))
        for k, ratio in enumerate(ratios)
    ]  # fmt: skip


def control_rows(accuracies: Sequence[float] | np.ndarray, method: str = "untrained", **more: Any) -> Rows:
    """Rows of a control, one for every seed."""
    return [
        {
            "study": "s", "trial_id": f"{method}-s{seed}", "phase": "control", "dataset": "digits", "method": method,
            "patch_size": 2, "patch_stride": 2, "seed": seed, "status": "done", "val_linear": 0.5,
            "test_linear": float(value),
        } | more
        for seed, value in enumerate(accuracies)
    ]  # fmt: skip


def draw(
    rng: np.random.Generator,
    means: Sequence[float] | np.ndarray,
    sd: float | Sequence[float] | np.ndarray,
    seeds: int = 5,
    level: float = 0.01,
) -> np.ndarray:
    """(n, K) accuracies around 0.75: ``means``, a level that every seed has, and noise of deviation ``sd``."""
    columns = np.asarray(means, dtype=float)
    shared = level * rng.standard_normal((seeds, 1))
    return 0.75 + columns + shared + np.asarray(sd) * rng.standard_normal((seeds, len(columns)))


def study_rows(
    means: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    sd: float | Sequence[float] | np.ndarray = 0.002,
    seeds: int = 5,
    ratios: Sequence[float] = LADDER,
    untrained: float = UNTRAINED,
    rng: np.random.Generator | int = 7,
    **more: Any,
) -> Rows:
    """A ladder around 75 % and its untrained control, which scores ``untrained``."""
    generator = np.random.default_rng(rng)
    joined = draw(generator, [*means, untrained - 0.75], [*np.broadcast_to(sd, len(ratios)).tolist(), 0.004], seeds)
    shared = {name: value for name, value in more.items() if name in ("study", "dataset", "patch_size", "patch_stride")}
    return trial_rows(joined[:, :-1], ratios, **more) + control_rows(joined[:, -1], **shared)


def as_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """``rows`` in the types of the study's table."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=TRIAL_SCHEMA)


def change(rows: Rows, ratio: float | None, seeds: Sequence[int], **values: Any) -> Rows:
    """``rows`` with other values at one ratio (None: the controls) and some seeds."""
    return [row | values if row.get("ratio") == ratio and row["seed"] in seeds else row for row in rows]
