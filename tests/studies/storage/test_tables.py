"""Tables for spreadsheets: text that would be evaluated is marked, numbers stay numbers."""

from __future__ import annotations

import csv
import io

import pyarrow as pa

from studies.storage.tables import csv_bytes


def rows(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


def test_text_that_starts_a_formula_is_marked_and_numbers_are_not():
    texts = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "plain", "a=b", "", None]
    table = pa.table({"text": texts, "number": [-1.5, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, None]})
    found = rows(csv_bytes(table))
    assert [row[0] for row in found[1:6]] == [f"'{text}" for text in texts[:5]]
    assert [row[0] for row in found[6:]] == ["plain", "a=b", "", ""]
    assert [row[1] for row in found[1:3]] == ["-1.5", "-2"]


def test_every_csv_goes_this_way():
    assert rows(csv_bytes([{"dataset": "=1+1", "regret": -0.5}]))[1] == ["'=1+1", "-0.5"]
