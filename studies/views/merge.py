"""Tables and verdict rows of several studies, with data sets told apart where studies share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def disambiguate_datasets(trials: pa.Table, rows: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
    """``trials`` and a verdict's ``rows`` with the study after every data set that several studies used.

    Curves and tables hold a data set's trials together; those of different studies must not be averaged.
    """
    pairs = trials.group_by(["dataset", "study"]).aggregate([]).to_pylist()
    shared = {name for name, count in Counter(p["dataset"] for p in pairs).items() if count > 1}
    if not shared:
        return trials, [dict(row) for row in rows]
    longer = pc.binary_join_element_wise(trials["dataset"], trials["study"], ", ", null_handling="skip")
    is_shared = pc.is_in(trials["dataset"], pa.array(sorted(shared), pa.string()))
    place = trials.schema.get_field_index("dataset")
    named = trials.set_column(place, "dataset", pc.if_else(is_shared, longer, trials["dataset"]))
    return named, [
        {**row, "dataset": f"{row['dataset']}, {row['study']}"} if row.get("dataset") in shared else dict(row)
        for row in rows
    ]
