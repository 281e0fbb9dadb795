"""Tables as comma-separated values that a spreadsheet cannot mistake for formulas."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

FORMULA_STARTS = r"^([=+\-@\t\r])"


def csv_bytes(table: pa.Table) -> bytes:
    """``table`` with a heading; empty cells are missing values.

    Text that starts with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return gets a leading ``'``, since
    spreadsheets evaluate it otherwise. Numbers are left as they are.
    """
    buffer = io.BytesIO()
    pa.csv.write_csv(_without_formulas(table), buffer)
    return buffer.getvalue()


def _without_formulas(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            safe = pc.replace_substring_regex(table[field.name], pattern=FORMULA_STARTS, replacement=r"'\1")
            table = table.set_column(place, field, safe)
    return table
