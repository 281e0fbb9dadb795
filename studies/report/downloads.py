"""The study's tables and verdict as data URIs, so that the page carries its own evidence."""

from __future__ import annotations

import base64
import gzip
import io
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.feather

from studies.storage.csv_file import csv_bytes

# Beyond this a page is no longer something to pass on; the tables are in the study's folder.
MAX_BYTES = 4_000_000
PLAIN_CSV_BYTES = 150_000


@dataclass(frozen=True)
class Download:
    """A file inside the page. ``uri`` is None where it was too large to embed."""

    name: str
    title: str
    size: int
    uri: str | None

    @property
    def readable_size(self) -> str:
        """``12 kB``, ``3.4 MB``."""
        return f"{self.size / 1e6:.1f} MB" if self.size >= 1e6 else f"{max(self.size / 1e3, 0.1):.3g} kB"


def downloads(
    trials: pa.Table, history: pa.Table, verdict: dict[str, Any], plans: list[dict[str, Any]]
) -> list[Download]:
    """CSV and Arrow files of both tables, and the JSON files; an empty table is left out."""
    files = []
    for name, table in (("trials", trials), ("history", history)):
        if table.num_rows:
            files += [_csv(name, table), _arrow(name, table)]
    files.append(_json("verdict.json", "the verdict", verdict))
    files.append(
        _json("study.json", "the plan" if len(plans) == 1 else "the plans", plans[0] if len(plans) == 1 else plans)
    )
    return files


def _csv(name: str, table: pa.Table) -> Download:
    if table.nbytes > 30 * MAX_BYTES:  # not worth the minutes of finding out how large
        return Download(f"{name}.csv", f"{name} as CSV", table.nbytes, None)
    content = csv_bytes(table)
    if len(content) > PLAIN_CSV_BYTES:
        packed = gzip.compress(content, 6, mtime=0)
        return _download(f"{name}.csv.gz", f"{name} as CSV, gzip", packed, "application/gzip")
    return _download(f"{name}.csv", f"{name} as CSV", content, "text/csv;charset=utf-8")


def _arrow(name: str, table: pa.Table) -> Download:
    buffer = io.BytesIO()
    pa.feather.write_feather(table, buffer, compression="zstd")
    return _download(f"{name}.arrow", f"{name} as Arrow", buffer.getvalue(), "application/vnd.apache.arrow.file")


def _json(name: str, title: str, values: Any) -> Download:
    content = json.dumps(values, indent=2, ensure_ascii=False, default=str).encode()
    return _download(name, title, content, "application/json")


def _download(name: str, title: str, content: bytes, kind: str) -> Download:
    if len(content) > MAX_BYTES:
        return Download(name, title, len(content), None)
    return Download(name, title, len(content), f"data:{kind};base64,{base64.b64encode(content).decode()}")
