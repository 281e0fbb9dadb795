"""A study's tables on disk: Arrow IPC files with a version and a checksum, and journals of the rows they lack.

A row is first appended to the journal (one checked line) and synced. The Arrow file is rewritten at once while it
is small, and later whenever the journal exceeds an eighth of its size, so that n rows take O(n) writing.
Wherever a crash falls, the two together hold every row that was added; readers merge them.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from studies.errors import StudyError
from studies.storage.atomic import sync_folder, write_error, write_file
from studies.storage.rows import SCHEMA_VERSION, VERSION_KEY

SMALL_ROWS = 1_000  # tables up to here are rewritten for every row
SMALL_BYTES = 2**19
GROWTH = 8
_SEQUENCE_KEY = b"pmae_last_sequence"
_CHECK_KEY = b"pmae_crc32"
_ROWS_KEY = b"pmae_rows"


class JournaledTable:
    """One growing table on disk: ``path`` is its Arrow IPC file, next to it is the journal.

    ``keys`` name the columns that identify a row: a later row replaces an earlier one.
    """

    def __init__(self, path: Path, schema: pa.Schema, keys: Sequence[str]) -> None:
        self.path, self.keys = path, keys
        self._journal_path = path.with_suffix(".journal")
        self._table, self._sequence = read_arrow(path, schema)
        lines, self._journal_bytes = _read_journal(self._journal_path)
        self._waiting = [row for sequence, row in lines if sequence > self._sequence]
        self._sequence = max([self._sequence, *(sequence for sequence, _ in lines)])
        self._journal: BinaryIO | None = None

    @property
    def table(self) -> pa.Table:
        """All rows added so far."""
        return _merge_rows(self._table, self._waiting, self.keys)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append complete rows (or replace those with the same keys), all or none; they are then on disk."""
        if not rows:
            return
        lines = []
        for number, row in enumerate(rows, start=self._sequence + 1):
            text = json.dumps([number, row], default=datetime.datetime.isoformat, separators=(",", ":")).encode()
            lines.append(b"%08x %s\n" % (zlib.crc32(text), text))
        self._append(b"".join(lines))
        self._sequence += len(rows)
        self._waiting += [dict(row) for row in rows]
        small = self._table.num_rows < SMALL_ROWS or self._table.nbytes < SMALL_BYTES
        if small or self._journal_bytes * GROWTH > self._table.nbytes:
            self.compact()

    def compact(self) -> None:
        """Bring the Arrow file up to date and empty the journal, which has the missing rows if that fails."""
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
    """The table at ``path`` with the rows of its journal; empty if neither file exists."""
    # The journal first, and without the rows that the Arrow file already has: a writer may be running.
    lines, _ = _read_journal(path.with_suffix(".journal"))
    table, last = read_arrow(path, schema)
    return _merge_rows(table, [row for sequence, row in lines if sequence > last], keys)


def _merge_rows(table: pa.Table, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> pa.Table:
    """``table`` followed by ``rows``; of several rows with the same keys only the last is kept."""
    if not rows:
        return table
    latest = {tuple(row[key] for key in keys): row for row in rows}
    there = zip(*(table[key].to_pylist() for key in keys), strict=True)
    kept = table.filter(pa.array([key not in latest for key in there], pa.bool_()))
    added = pa.Table.from_pylist([dict(row) for row in latest.values()], schema=table.schema)
    return pa.concat_tables([kept, added]).combine_chunks()


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
                raise _corrupted(path, f"line {len(rows) + 1} does not match its checksum")
            break  # the line that was being written when the program died
        sequence, row = json.loads(text)
        if row.get("started_at") is not None:
            row["started_at"] = datetime.datetime.fromisoformat(row["started_at"])
        rows.append((sequence, row))
        end += len(line)
    return rows, end


def write_arrow(path: Path, table: pa.Table, sequence: int) -> None:
    """``table`` as an Arrow IPC file at ``path``, all or nothing, with its version and checksum in the metadata."""
    table = table.combine_chunks()
    marks = {
        VERSION_KEY: str(SCHEMA_VERSION).encode(),
        _SEQUENCE_KEY: str(sequence).encode(),
        _ROWS_KEY: str(table.num_rows).encode(),
        _CHECK_KEY: f"{checksum(table):08x}".encode(),
    }
    table = table.replace_schema_metadata(marks)

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    write_file(path, write)


def read_arrow(path: Path, schema: pa.Schema) -> tuple[pa.Table, int]:
    """The Arrow IPC file at ``path`` in the columns of ``schema``, and the number of the last journal row in it.

    Columns that ``schema`` does not know are left out; those that the file lacks are null.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return schema.empty_table(), 0
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
        table.validate(full=True)
        _ = table.column_names  # decodes them; pyarrow 15 does not validate that they are UTF-8
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _corrupted(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    marks = table.schema.metadata or {}
    version = marks.get(VERSION_KEY, b"1")  # a table that another program wrote: its columns decide
    if not version.isdigit() or not 1 <= int(version) <= SCHEMA_VERSION:
        raise StudyError(
            f"{path} has schema version {version.decode(errors='replace')}, this program reads 1 to "
            f"{SCHEMA_VERSION}; a newer version is read after updating this program"
        )
    # Another program that filtered the rows may have kept our metadata: its checksum then says nothing.
    ours = marks.get(_ROWS_KEY) == str(table.num_rows).encode() and _CHECK_KEY in marks
    try:
        intact = not ours or marks[_CHECK_KEY] == f"{checksum(table):08x}".encode()
    except (pa.ArrowException, ValueError):  # a flipped byte may have changed a type
        intact = False
    if not intact:
        raise _corrupted(path, "its contents do not match its checksum")
    if table.num_columns and not set(table.column_names) & set(schema.names):
        raise StudyError(f"{path} is not a study table: it has the columns {', '.join(table.column_names)}")
    known = cast_columns(table, schema, str(path))
    columns = [known.get(field.name, pa.nulls(table.num_rows, field.type)) for field in schema]
    return pa.table(columns, schema=schema), int(marks.get(_SEQUENCE_KEY, b"0"))


def checksum(table: pa.Table) -> int:
    """CRC-32 of the values (not of the file, so that it is the same for every version of pyarrow)."""
    crc = 0
    for column in table.columns:
        array = column.combine_chunks()
        crc = zlib.crc32(array.is_null().to_numpy(zero_copy_only=False).tobytes(), crc)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            array = array.cast(pa.large_binary())
            lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
            crc = zlib.crc32(lengths.astype(np.int64).tobytes(), crc)
            crc = zlib.crc32(b"".join(array.drop_null().to_pylist()), crc)
        elif len(array):
            if pa.types.is_timestamp(array.type):
                array = array.cast(pa.int64())
            crc = zlib.crc32(pc.fill_null(array, 0).to_numpy(zero_copy_only=False).tobytes(), crc)
    return crc


def _corrupted(path: Path, how: str) -> StudyError:
    return StudyError(
        f"{path} is corrupted ({how}); restore it from a copy, or move it away and run the study again with --resume"
    )


def cast_columns(table: pa.Table, schema: pa.Schema, where: str) -> dict[str, pa.ChunkedArray]:
    """The columns of ``schema`` that ``table`` has, in the schema's types, whatever type another program gave them."""
    columns = {}
    for field in schema:
        places = table.schema.get_all_field_indices(field.name)
        if len(places) > 1:
            raise StudyError(f"{where} has the column {field.name!r} {len(places)} times; drop all but one")
        if not places:
            continue
        column = table.column(places[0])
        try:
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            columns[field.name] = column.cast(field.type)
        except pa.ArrowException as error:
            raise StudyError(
                f"column {field.name!r} of {where} is {column.type}, not {field.type} ({error}); convert it"
            ) from error
    return columns


def with_column(table: pa.Table, name: str, values: pa.ChunkedArray | pa.Array) -> pa.Table:
    """``table`` with other ``values`` in the column ``name``."""
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)


def rows_of(table: pa.Table, columns: Iterable[str]) -> list[dict[str, Any]]:
    """The rows as dictionaries of ``columns`` only; a column that the table lacks is None throughout."""
    empty = dict.fromkeys(columns)
    there = [name for name in empty if name in table.column_names]
    return [empty | row for row in table.select(there).to_pylist()]


def read_mapping(text: str | None) -> dict[str, Any]:
    """The mapping in a JSON column; empty where there is none, since a table of another program may hold anything."""
    try:
        values = json.loads(text) if text else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names: ``{"model": {"width": 64}}`` becomes ``{"model.width": 64}``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def csv_bytes(rows: pa.Table | Sequence[dict[str, Any]]) -> bytes:
    """``rows`` as comma-separated values with a heading; empty cells are missing values.

    Text that starts with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return gets a leading ``'``, since
    spreadsheets evaluate it otherwise. Numbers are left as they are.
    """
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    for field in table.schema:
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            safe = pc.replace_substring_regex(table[field.name], pattern=r"^([=+\-@\t\r])", replacement=r"'\1")
            table = with_column(table, field.name, safe)
    buffer = io.BytesIO()
    pa.csv.write_csv(table, buffer)
    return buffer.getvalue()
