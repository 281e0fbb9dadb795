"""One Arrow IPC file of a study: written all or nothing, read with its version and checksum checked."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from studies.errors import StudyError
from studies.storage.atomic import write_file
from studies.storage.schema import SCHEMA_VERSION, VERSION_KEY

_SEQUENCE_KEY = b"pmae_last_sequence"
_CHECK_KEY = b"pmae_crc32"
_ROWS_KEY = b"pmae_rows"


def write_arrow(path: Path, table: pa.Table, sequence: int = 0) -> None:
    """``table`` as an Arrow IPC file at ``path``, all or nothing, with its version and checksum in the metadata.

    Raises:
        StudyWriteError: the file could not be written; a previous one is untouched.
    """
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

    Raises:
        StudyError: the file is corrupted, is not an Arrow IPC file, or was written by a newer version.
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
        raise corrupted(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    marks = table.schema.metadata or {}
    _check_version(path, marks.get(VERSION_KEY))
    # Another program that filtered the rows may have kept our metadata: its checksum then says nothing.
    ours = marks.get(_ROWS_KEY) == str(table.num_rows).encode() and _CHECK_KEY in marks
    try:
        intact = not ours or marks[_CHECK_KEY] == f"{checksum(table):08x}".encode()
    except (pa.ArrowException, ValueError):  # a flipped byte may have changed a type
        intact = False
    if not intact:
        raise corrupted(path, "its contents do not match its checksum")
    return conform(table, schema, str(path)), int(marks.get(_SEQUENCE_KEY, b"0"))


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """``table`` in exactly the columns of ``schema``: cast, in order, null where it has none.

    Raises:
        StudyError: a column cannot be cast, or there is not one column in common.
    """
    if table.num_columns and not set(table.column_names) & set(schema.names):
        raise StudyError(f"{where} is not a study table: it has the columns {', '.join(table.column_names)}")
    known = cast_columns(table, schema, where)
    missing = {field.name: pa.nulls(table.num_rows, field.type) for field in schema}
    return pa.table([known.get(field.name, missing[field.name]) for field in schema], schema=schema)


def cast_columns(table: pa.Table, schema: pa.Schema, where: str) -> dict[str, pa.ChunkedArray]:
    """The columns of ``schema`` that ``table`` has, in the schema's types, whatever type another program gave them.

    Raises:
        StudyError: a column cannot be cast, or is there twice.
    """
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


def checksum(table: pa.Table) -> int:
    """CRC-32 of the values (not of the file, so that it is the same for every version of pyarrow)."""
    crc = 0
    for column in table.columns:
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        crc = zlib.crc32(array.is_null().to_numpy(zero_copy_only=False).tobytes(), crc)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            array = array.cast(pa.large_string())
            lengths = pc.fill_null(pc.binary_length(array), 0)
            crc = zlib.crc32(lengths.to_numpy(zero_copy_only=False).astype(np.int64).tobytes(), crc)
            crc = zlib.crc32(_characters(array), crc)
        elif len(array):
            if pa.types.is_timestamp(array.type):
                array = array.cast(pa.int64())
            crc = zlib.crc32(pc.fill_null(array, 0).to_numpy(zero_copy_only=False).tobytes(), crc)
    return crc


def _characters(array: pa.Array) -> bytes | memoryview:
    _, offsets, data = array.buffers()
    if not len(array) or data is None:
        return b""
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[int(ends[0]) : int(ends[-1])]


def _check_version(path: Path, version: bytes | None) -> None:
    if version is None:  # a table that another program wrote: its columns decide
        return
    if not version.isdigit() or int(version) > SCHEMA_VERSION:
        raise StudyError(
            f"{path} has schema version {version.decode(errors='replace')}, this program reads up to "
            f"{SCHEMA_VERSION}: it was written by a newer version; update this program"
        )
    if int(version) < 1:
        raise StudyError(
            f"{path} has schema version {version.decode()}; versions start at 1, so this toolkit did not write it"
        )


def corrupted(path: Path, how: str) -> StudyError:
    """The error to raise for a file whose contents cannot be trusted."""
    return StudyError(
        f"{path} is corrupted ({how}); restore it from a copy, or move it away and run the study again with --resume"
    )
