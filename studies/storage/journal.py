"""Tables that grow row by row on disk: an Arrow IPC file and a journal of the rows that it lacks.

A row is first appended to the journal (one checked line) and synced. The Arrow file is rewritten at once while it
is small, and whenever the journal has grown by an eighth of it later, so that n rows cost O(n) writing in all.
Wherever a crash falls, the two together hold every row that was added; readers merge them.
"""

from __future__ import annotations

import datetime
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from studies.storage.arrow_file import corrupted, read_arrow, write_arrow
from studies.storage.atomic import sync_folder, write_error

SMALL_ROWS = 1_000  # tables up to here are rewritten for every row
SMALL_BYTES = 2**19
GROWTH = 8


class JournalledTable:
    """One growing table on disk. ``keys`` name the columns that identify a row: a later row replaces an earlier one.

    Args:
        path: The Arrow IPC file; the journal has the same name with the suffix ``.journal``.
        schema: Columns of the table.
        keys: Identifying columns; the first is compared first.

    Raises:
        StudyError: a table at ``path`` that cannot be read or belongs to another version.
    """

    def __init__(self, path: Path, schema: pa.Schema, keys: Sequence[str]) -> None:
        self.path, self.schema, self.keys = path, schema, tuple(keys)
        self._journal_path = path.with_suffix(".journal")
        self._table, self._sequence = read_arrow(path, schema)
        lines, self._journal_bytes = _read_journal(self._journal_path)
        self._waiting = [row for sequence, row in lines if sequence > self._sequence]
        self._sequence = max([self._sequence, *(sequence for sequence, _ in lines)])
        self._journal: BinaryIO | None = None

    @property
    def table(self) -> pa.Table:
        """All rows added so far."""
        return merge_rows(self._table, self._waiting, self.keys)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append complete rows (or replace those with the same keys); they are on disk when this returns.

        Raises:
            StudyWriteError: nothing of ``rows`` was added; the content on disk is intact.
        """
        if not rows:
            return
        self._append(b"".join(_line(self._sequence + n, row) for n, row in enumerate(rows, start=1)))
        self._sequence += len(rows)
        self._waiting += [dict(row) for row in rows]
        small = self._table.num_rows < SMALL_ROWS or self._table.nbytes < SMALL_BYTES
        if small or self._journal_bytes * GROWTH > self._table.nbytes:
            self.compact()

    def compact(self) -> None:
        """Bring the Arrow file up to date and empty the journal.

        Raises:
            StudyWriteError: the Arrow file stays as it was; its missing rows are safe in the journal.
        """
        if not self._waiting and self.path.exists():
            return
        table = self.table
        write_arrow(self.path, table, self._sequence)
        self._table, self._waiting = table, []
        if self._journal is not None:
            self._truncate(0)

    def close(self) -> None:
        """Bring the Arrow file up to date and remove the journal."""
        self.compact()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._journal_path.unlink(missing_ok=True)

    def _append(self, lines: bytes) -> None:
        try:
            if self._journal is None:
                self._journal = open(self._journal_path, "ab", buffering=0)  # noqa: SIM115 - lives as long as self
                self._truncate(self._journal_bytes)  # a line truncated by a crash
                sync_folder(self.path.parent)
            written = 0
            while written < len(lines):
                written += self._journal.write(lines[written:])
            os.fsync(self._journal.fileno())
        except OSError as error:
            if self._journal is not None:
                self._truncate(self._journal_bytes)
            raise write_error(self.path, error) from error
        self._journal_bytes += len(lines)

    def _truncate(self, size: int) -> None:
        assert self._journal is not None
        self._journal.truncate(size)
        self._journal_bytes = size


def read_table(path: Path, schema: pa.Schema, keys: Sequence[str]) -> pa.Table:
    """The table at ``path`` with the rows that still wait in its journal; empty where there are no files.

    Safe while a writer runs: the journal is read first, and rows that the Arrow file already has are skipped.

    Raises:
        StudyError: the file is corrupted, is not an Arrow IPC file, or belongs to another version.
    """
    lines, _ = _read_journal(path.with_suffix(".journal"))
    table, last = read_arrow(path, schema)
    return merge_rows(table, [row for sequence, row in lines if sequence > last], keys)


def merge_rows(table: pa.Table, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> pa.Table:
    """``table`` followed by ``rows``; of several rows with the same keys only the last is kept."""
    if not rows:
        return table
    latest = {tuple(row[key] for key in keys): row for row in rows}
    # Only rows that share the first key can be replaced, so that few are looked at one by one.
    firsts = pa.array({key[0] for key in latest}, table.schema.field(keys[0]).type)
    suspects = np.flatnonzero(pc.is_in(table[keys[0]], value_set=firsts).to_numpy(zero_copy_only=False))
    if len(suspects):
        values = zip(*(table[key].take(suspects).to_pylist() for key in keys), strict=True)
        replaced = suspects[[value in latest for value in values]]
        keep = np.ones(table.num_rows, dtype=bool)
        keep[replaced] = False
        table = table.filter(pa.array(keep))
    added = pa.Table.from_pylist([dict(row) for row in latest.values()], schema=table.schema)
    return pa.concat_tables([table, added]).combine_chunks()


def _line(sequence: int, row: Mapping[str, Any]) -> bytes:
    text = json.dumps([sequence, row], default=_iso, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read_journal(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], int]:
    """The numbered rows of a journal and the number of bytes up to the end of the last complete line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    rows: list[tuple[int, dict[str, Any]]] = []
    end = 0
    for line in content.splitlines(keepends=True):
        text = line[9:-1]
        if not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(text):
            if end + len(line) < len(content):
                raise corrupted(path, f"line {len(rows) + 1} does not match its checksum")
            break  # the line that was being written when the program died
        sequence, row = json.loads(text)
        rows.append((sequence, {name: _from_json(name, value) for name, value in row.items()}))
        end += len(line)
    return rows, end


def _iso(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} cannot be written to a journal")


def _from_json(name: str, value: Any) -> Any:
    return datetime.datetime.fromisoformat(value) if name == "started_at" and value is not None else value
