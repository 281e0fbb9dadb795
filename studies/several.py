"""Several studies at once: told apart by name, and by data set where two of them share one.

Reading is left to ``records``; nothing on disk is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from studies.records import Study


def named_apart(studies: Sequence[Study]) -> list[Study]:
    """``studies`` with the place of the folder after every name that several of them have.

    Their trials may have the same ids, and would otherwise pass for repeated rows.
    """
    names = Counter(study.name for study in studies)
    places = Counter(_place(study) for study in studies)
    apart = []
    for study in studies:
        if names[study.name] > 1:
            place = _place(study) if places[_place(study)] == 1 else str(study.folder)
            study = _renamed(study, f"{study.name} ({place})")
        apart.append(study)
    return apart


def datasets_apart(trials: pa.Table, rows: Sequence[Mapping[str, Any]]) -> tuple[pa.Table, list[dict[str, Any]]]:
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


def _place(study: Study) -> str:
    return f"{study.folder.parent.name}/{study.folder.name}"


def _renamed(study: Study, name: str) -> Study:
    tables = {}
    for key in ("trials", "history"):
        table = getattr(study, key)
        column = pa.array([name] * table.num_rows, table.schema.field("study").type)
        tables[key] = table.set_column(table.schema.get_field_index("study"), table.schema.field("study"), column)
    return replace(study, name=name, **tables)
