"""Tables that another program wrote: judged whatever their types and order, or refused by a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from studies.errors import StudyError
from studies.records import read_study
from studies.verdict import judge

RATIOS = (0.1, 0.2, 0.3, 0.5)
ROWS = 25  # four ratios and the untrained encoder, five seeds
CATEGORY = pa.dictionary(pa.int8(), pa.string())
TEXTS = ("status", "phase", "dataset", "method", "trial_id")


def foreign(types: Mapping[str, pa.DataType] | None = None, seeds: int = 5, **columns: Any) -> pa.Table:
    """Confirmed trials and controls in columns of another order, one of them unknown; ``columns`` replace some, or
    drop them (None)."""
    cells = [(seed, ratio) for seed in range(seeds) for ratio in (*RATIOS, None)]
    rng = np.random.default_rng(0)
    levels = np.array([0.6 if ratio is None else 0.8 for _, ratio in cells])
    values: dict[str, Any] = {
        "note": ["by hand"] * len(cells),
        "test_linear": (levels + 0.002 * rng.standard_normal(len(cells))).tolist(),
        "seed": [seed for seed, _ in cells],
        "ratio": [ratio for _, ratio in cells],
        "val_linear": (levels + 0.002 * rng.standard_normal(len(cells))).tolist(),
        "status": ["done"] * len(cells),
        "trial_id": [f"t{place}" for place in range(len(cells))],
        "phase": ["confirm" if ratio else "control" for _, ratio in cells],
        "dataset": ["cells"] * len(cells),
        "method": ["pmae" if ratio else "untrained" for _, ratio in cells],
    }
    values = {name: value for name, value in (values | columns).items() if value is not None}
    return pa.table({name: pa.array(value, (types or {}).get(name)) for name, value in values.items()})


def first(value: Any, others: Any) -> list[Any]:
    """A column whose first entry is ``value``."""
    return [value, *[others] * (ROWS - 1)]


def written(table: pa.Table, folder: Path) -> Path:
    """A study's folder with nothing but a plain Arrow file."""
    folder.mkdir()
    with pa.OSFile(str(folder / "trials.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return folder


JUDGED = {
    "plain": foreign(),
    "dictionaries": foreign(dict.fromkeys(TEXTS, CATEGORY)),
    "large strings": foreign(dict.fromkeys(TEXTS, pa.large_string())),
    "float32": foreign(dict.fromkeys(("ratio", "val_linear", "test_linear"), pa.float32())),
    "int32": foreign({"seed": pa.int32()}),
    "seeds as floats": foreign({"seed": pa.float64()}),
    "no trial_id": foreign(trial_id=None),
    "no phase": foreign(phase=None),
    "capitals": foreign(
        status=["Done"] * ROWS, method=[*["PMAE"] * 4, "Untrained"] * 5, phase=[*["Confirm"] * 4, "Control"] * 5
    ),
    "ids that restart at every ratio": foreign(trial_id=[f"t{place // 5}" for place in range(ROWS)]),
    "ids that restart at every seed": foreign(trial_id=[f"t{place % 5}" for place in range(ROWS)]),
    "one id for all": foreign(trial_id=["t"] * ROWS),
    "several batches": pa.concat_tables([foreign().slice(0, 7), foreign().slice(7)]),
}
if hasattr(pa, "string_view"):  # from pyarrow 16 on
    JUDGED["string views"] = foreign(dict.fromkeys(TEXTS, pa.string_view()))


@pytest.mark.parametrize("name", JUDGED)
def test_other_types_and_orders_are_judged_in_memory_and_from_a_file(name: str, tmp_path: Path) -> None:
    for source in (JUDGED[name], read_study(written(JUDGED[name], tmp_path / "study"))):
        verdict = judge(source).to_dict()
        (row,) = [r for r in verdict["rows"] if r["kind"] == "default"]
        assert (row["verdict"], row["seeds"], row["dataset"], row["method"]) == ("holds", 5, "cells", "pmae")
        json.dumps(verdict, allow_nan=False)


def test_ids_that_restart_in_every_data_set_lose_no_rows() -> None:
    worse = [0.85 if place % 5 == 3 else 0.8 - 0.2 * (place % 5 == 4) + 0.001 * (place % 3) for place in range(ROWS)]
    tables = [foreign(), foreign(dataset=["tissue"] * ROWS, test_linear=worse)]
    verdict = judge(pa.concat_tables(tables))
    assert {row["dataset"]: (row["verdict"], row["seeds"]) for row in verdict.rows} == {
        "cells": ("holds", 5), "tissue": ("fails", 5)
    }  # fmt: skip
    assert not any("repeat" in warning for warning in verdict.warnings)


def test_ids_with_several_settings_are_reported() -> None:
    verdict = judge(JUDGED["ids that restart at every ratio"])
    assert [rung["seeds"] for rung in verdict.rows[0]["rungs"]] == [5] * 4
    assert "5 trial ids with different settings: such rows count as different trials" in verdict.warnings


def test_a_table_without_controls_is_judged_but_never_holds() -> None:
    table = foreign()
    bare = table.filter(pc.is_valid(table["ratio"]))
    row = judge(bare).rows[0]
    assert (row["verdict"], row["seeds"]) == ("inconclusive", 5)
    assert "no untrained encoder was measured" in row["reason"] and row["ci_high"] < 0.01


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (foreign(seed=first(None, 1)), "seed is empty in trial t0"),
        (foreign(dataset=first(None, "cells")), "dataset is empty in trial t0"),
        (foreign(ratio=first(None, 0.2)), "ratio is None in trial t0"),
        (foreign(ratio=first(20.0, 0.2)), "ratio is 20.0 in trial t0; ratios are fractions"),
        (foreign(test_linear=first(81.5, 0.8)), "test_linear is 81.5 in trial t0.*divide the column by 100"),
        (foreign(test_linear=first(-0.1, 0.8)), "test_linear is -0.1 in trial t0; accuracies are fractions"),
        (foreign(ratio=first("a fifth", "0.2")), "column 'ratio' of .* is string, not double"),
        (foreign().append_column("seed", pa.array([1] * ROWS)), "column 'seed' 2 times"),
        (pa.table({"x": [1]}), "lacks the columns dataset, method|is not a study table"),
    ],
    ids=["seed", "data set", "ratio", "per cent ratio", "per cent", "negative", "words", "twice", "no study"],
)
def test_what_cannot_be_judged_is_refused_by_a_sentence(table: pa.Table, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        judge(table)
    with pytest.raises(StudyError, match=message):
        judge(read_study(written(table, tmp_path / "study")))


def test_without_confirmed_rows_or_a_second_seed_there_is_no_verdict_but_a_reason(tmp_path: Path) -> None:
    explored = judge(read_study(written(foreign(phase=["explore"] * ROWS), tmp_path / "explored"))).to_dict()
    assert explored["rows"] == [] and explored["answer"].startswith("No answer yet")
    (row,) = [r for r in judge(foreign(seeds=1)).rows if r["kind"] == "default"]
    assert (row["verdict"], row["regret"]) == ("inconclusive", None)
    assert "at least 2 seeds are needed" in row["reason"]
    assert judge(foreign().slice(0, 0)).rows == []


def test_a_study_of_a_bare_table_can_be_listed_shown_and_reported(tmp_path: Path) -> None:
    from studies.report import write_report
    from studies.views.summaries import study_row, study_summary

    study = read_study(written(foreign(dict.fromkeys(TEXTS, CATEGORY)), tmp_path / "bare"))
    assert study_row(study)["done"] == ROWS and study.history.num_rows == 0
    assert len(study_summary(study)["confirmed"]) == len(RATIOS)
    assert "holds up" in write_report(study.folder, tmp_path / "page.html").read_text()
