"""A study's tables in the formats of other programs: CSV, Parquet, JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from studies.records import Study
from studies.storage.csv_file import csv_bytes

TABLES = ("trials", "history")


def joined_table(studies: Sequence[Study], name: str) -> pa.Table:
    """The ``trials`` or ``history`` of all studies, one below the other."""
    return pa.concat_tables([getattr(study, name) for study in studies])


def as_csv(rows: pa.Table | Sequence[Mapping[str, Any]]) -> bytes:
    """Comma-separated values with a heading, without formulas; empty cells are missing values."""
    return csv_bytes(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows]))


def as_parquet(table: pa.Table) -> bytes:
    """A Parquet file (zstd)."""
    buffer = io.BytesIO()
    pa.parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def as_json(values: Any) -> bytes:
    """Indented JSON with a line end, as the study's own JSON files are; a table becomes a list of its rows."""
    if isinstance(values, pa.Table):
        values = values.to_pylist()
    return (json.dumps(values, indent=2, ensure_ascii=False, default=_as_text) + "\n").encode()


def _as_text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
