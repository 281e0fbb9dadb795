"""Records on disk: schemas, rows that survive crashes and full disks, other programs that open the tables."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from studies.errors import StudyError
from studies.records import HISTORY_SCHEMA, TRIAL_SCHEMA, StudyWriter, read_studies, read_study
from studies.storage import tables
from studies.storage.rows import VERSION_KEY

CONTRACT = [
    "study", "trial_id", "phase", "dataset", "method", "strategy", "ratio", "achieved_ratio", "achieved_sd",
    "patch_size", "patch_stride", "mask_unit", "seed", "status", "error", "epochs", "val_linear", "test_linear",
    "val_knn", "test_knn", "evaluation", "train_loss", "objective", "training_problem", "images_per_second", "seconds",
    "started_at", "config", "config_hash", "code_version", "device", "precision", "versions",
]  # fmt: skip


def row(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "trial_id": f"t{number}", "phase": "confirm", "dataset": "digits", "method": "pmae", "ratio": 0.2,
        "patch_size": 2, "seed": number, "status": "done", "val_linear": 0.5, "config": {"masking": {"ratio": 0.2}},
    } | more  # fmt: skip


def test_schemas_start_with_the_contracts_columns_in_order() -> None:
    assert TRIAL_SCHEMA.names[: len(CONTRACT)] == CONTRACT
    assert HISTORY_SCHEMA.names == [
        "study", "trial_id", "seed", "epoch", "train_loss", "objective", "learning_rate", "images_per_second"
    ]  # fmt: skip
    assert TRIAL_SCHEMA.metadata[VERSION_KEY] == b"2"


def test_the_columns_are_those_of_the_studies_in_the_repository() -> None:
    folder = Path(__file__).parents[2] / "docs" / "evidence" / "digits"
    for name, schema in (("trials", TRIAL_SCHEMA), ("history", HISTORY_SCHEMA)):
        if (folder / f"{name}.arrow").exists():
            stored = pa.ipc.open_file(folder / f"{name}.arrow").schema
            assert stored.names == schema.names and stored.types == schema.types


def test_a_row_is_in_the_arrow_file_as_soon_as_it_is_added(tmp_path: Path) -> None:
    with StudyWriter(tmp_path / "a") as writer:
        for number in range(3):
            writer.add_trial(row(number))
            table = pa.ipc.open_file(tmp_path / "a" / "trials.arrow").read_all()
            assert table["trial_id"].to_pylist() == [f"t{n}" for n in range(number + 1)]


def test_values_come_back_as_given(tmp_path: Path) -> None:
    started = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trial(row(started_at=started, train_loss=float("nan"), error="naïve\nüber"))
        writer.add_history([{"trial_id": "t0", "epoch": 0, "train_loss": 1.5}])
    study = read_study(tmp_path / "a")
    (found,) = study.trials.to_pylist()
    assert (found["started_at"], found["error"], found["study"]) == (started, "naïve\nüber", "a")
    assert json.loads(found["config"]) == {"masking": {"ratio": 0.2}}
    assert found["train_loss"] != found["train_loss"] and found["mask_unit"] is None
    assert study.history["train_loss"].to_pylist() == [1.5]
    assert study.trials.schema.equals(TRIAL_SCHEMA)


def test_four_programs_open_the_table(tmp_path: Path) -> None:
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trials(row(n, val_linear=n / 10) for n in range(4))
    path = tmp_path / "a" / "trials.arrow"
    arrow = feather.read_table(path)
    means = [
        arrow["val_linear"].to_pandas().mean(),
        pd.read_feather(path)["val_linear"].mean(),
        pl.read_ipc(path)["val_linear"].mean(),
        duckdb.sql("select avg(val_linear) from arrow").fetchall()[0][0],
    ]
    assert means == pytest.approx([0.15] * 4)


def test_the_later_row_of_a_trial_replaces_the_earlier(tmp_path: Path) -> None:
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trials([row(0, status="interrupted"), row(1)])
        writer.add_history({"trial_id": "t0", "epoch": e, "train_loss": 1.0} for e in range(3))
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trial(row(0, status="done"))
        writer.add_history([{"trial_id": "t0", "epoch": 2, "train_loss": 0.5}])
    study = read_study(tmp_path / "a")
    assert sorted(zip(study.trials["trial_id"].to_pylist(), study.trials["status"].to_pylist(), strict=True)) == [
        ("t0", "done"),
        ("t1", "done"),
    ]
    assert sorted(study.history["train_loss"].to_pylist()) == [0.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": 0.2}, "did you mean 'ratio'"),
        ({"ratio": 20}, "fractions strictly between 0 and 1"),
        ({"val_linear": 59.0}, "not percentages"),
        ({"status": "finished"}, "done, pruned, diverged, failed, interrupted"),
        ({"phase": "test"}, "explore, confirm, control"),
        ({"ratio": None}, "ratio is None; ratios are fractions"),
        ({"phase": "control"}, "phase is 'control' and method is 'pmae'; controls have"),
        ({"method": "untrained", "ratio": None}, "phase is 'confirm' and method is 'untrained'; controls have"),
        ({"phase": "control", "method": "pixels"}, "ratio is 0.2 for the control 'pixels'; leave it out"),
        ({"seed": "one"}, "seed is 'one'"),
        ({"dataset": None}, "lacks dataset"),
    ],
)
def test_a_bad_row_is_refused_and_nothing_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trial(row(0))
        with pytest.raises(StudyError, match=message):
            writer.add_trial(row(1) | change)
    assert read_study(tmp_path / "a").trials.num_rows == 1


def test_controls_have_a_phase_of_their_own_and_no_ratio(tmp_path: Path) -> None:
    control = {"phase": "control", "ratio": None}
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trials([row(0) | control | {"method": "untrained"}, row(1) | control | {"method": "pixels"}])
    trials = read_study(tmp_path / "a").trials.to_pylist()
    assert {(r["method"], r["phase"], r["ratio"]) for r in trials} == {
        ("untrained", "control", None), ("pixels", "control", None)
    }  # fmt: skip


def test_large_tables_are_read_with_their_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SMALL_ROWS", 4)
    monkeypatch.setattr(tables, "SMALL_BYTES", 0)
    writer = StudyWriter(tmp_path / "a")
    writer.add_trials(row(n, config="x" * 500) for n in range(50))
    writer.add_trial(row(50))
    writer.add_trial(row(3, status="failed"))
    assert pa.ipc.open_file(tmp_path / "a" / "trials.arrow").read_all().num_rows == 50  # the journal holds the rest
    trials = read_study(tmp_path / "a").trials
    assert trials.num_rows == 51
    assert dict(zip(trials["trial_id"].to_pylist(), trials["status"].to_pylist(), strict=True))["t3"] == "failed"
    writer.close()
    assert pa.ipc.open_file(tmp_path / "a" / "trials.arrow").read_all().num_rows == 51
    assert not (tmp_path / "a" / "trials.journal").exists()


def test_bytes_written_grow_with_the_rows_not_their_square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SMALL_ROWS", 10)
    monkeypatch.setattr(tables, "SMALL_BYTES", 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    written = []
    original = tables.write_arrow
    monkeypatch.setattr(
        tables, "write_arrow", lambda path, table, last: (written.append(table.nbytes), original(path, table, last))
    )
    totals = []
    for count in (200, 800):
        written.clear()
        with StudyWriter(tmp_path / str(count)) as writer:
            for number in range(count):
                writer.add_trial(row(number, config="x" * 400))
        totals.append(sum(written))
    assert totals[1] < 8 * totals[0]  # four times the rows; rewriting for each row would be sixteen times


WRITE_FOR_EVER = """
import sys
from studies.storage import tables
from studies.records import StudyWriter
tables.SMALL_ROWS = int(sys.argv[2]); tables.SMALL_BYTES = 0
writer = StudyWriter(sys.argv[1])
n = writer.trials.num_rows
while True:
    writer.add_trial(dict(trial_id=f"t{n}", phase="explore", dataset="d", method="mae", ratio=0.5, seed=n,
                          status="done", config="x" * 3000))
    n += 1
    print(n, flush=True)
"""


@pytest.mark.parametrize("small", [0, 10_000])
def test_kill_9_while_writing_loses_no_finished_row(tmp_path: Path, small: int) -> None:
    finished = 0
    for stop_after in (7, 23):
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path / "a"), str(small)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                finished = int(line)
                if finished >= stop_after:
                    process.send_signal(signal.SIGKILL)
                    break
            rest = process.stdout.read().split()
            finished = int(rest[-1]) if rest else finished
        ids = read_study(tmp_path / "a").trials["trial_id"].to_pylist()
        assert sorted(ids) == sorted({f"t{n}" for n in range(len(ids))})
        assert len(ids) >= finished


FILL_DISK = """
import resource, signal, sys
from studies.errors import StudyWriteError
from studies.records import StudyWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
row = lambda n: dict(trial_id=f"t{n}", phase="explore", dataset="d", method="mae", ratio=.5, seed=n, status="done",
                     config="x" * 5000)
writer = StudyWriter(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
n = 0
try:
    while n < 100:
        writer.add_trial(row(n)); n += 1
except StudyWriteError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(n)
if sys.argv[2] == "go on":
    writer.add_trial(row(1000)); writer.close()
"""


@pytest.mark.parametrize("then", ["stop", "go on"])
def test_a_full_disk_leaves_the_table_and_the_error_has_a_way_out(tmp_path: Path, then: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FILL_DISK, str(tmp_path / "a"), then], capture_output=True, text=True, check=True
    )
    message, count = run.stdout.strip().rsplit("\n", 1)
    assert "cannot write" in message and "Free some space" in message and "--resume" in message
    ids = set(read_study(tmp_path / "a").trials["trial_id"].to_pylist())
    assert {f"t{n}" for n in range(int(count))} <= ids
    assert not list((tmp_path / "a").glob("*.part")) and not list((tmp_path / "a").glob(".*.part"))
    assert ("t1000" in ids) == (then == "go on")


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StudyError, match="Not a directory"):
        StudyWriter(tmp_path / "file" / "a")


@pytest.mark.parametrize("place", [0.05, 0.3, 0.5, 0.7, 0.95])
def test_a_flipped_byte_never_gives_a_wrong_number(tmp_path: Path, place: float) -> None:
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trials(row(n, val_linear=n / 100, error="some text") for n in range(50))
    before = read_study(tmp_path / "a").trials
    path = tmp_path / "a" / "trials.arrow"
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    for position in range(start, start + 40):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            after = read_study(tmp_path / "a").trials
        except StudyError:
            continue
        assert after.equals(before)  # padding, which holds no value


def test_a_truncated_table_is_named(tmp_path: Path) -> None:
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trial(row())
    path = tmp_path / "a" / "trials.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudyError, match=r"trials\.arrow is corrupted.*restore it"):
        read_study(tmp_path / "a")


def test_a_newer_version_is_explained_and_an_unknown_column_ignored(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"study": "a", **row(config="{}")}], schema=TRIAL_SCHEMA)
    more = table.append_column("later_invention", pa.array([1])).drop_columns(["metrics"])
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "trials.arrow"
    for version in (b"3", b"0"):
        feather.write_feather(more.replace_schema_metadata({VERSION_KEY: version}), path, compression="uncompressed")
        with pytest.raises(StudyError, match=r"this program reads 1 to 2; a newer version"):
            read_study(tmp_path / "a")
    feather.write_feather(more.replace_schema_metadata({VERSION_KEY: b"1"}), path, compression="uncompressed")
    trials = read_study(tmp_path / "a").trials
    assert trials.schema.names == TRIAL_SCHEMA.names and trials["metrics"].to_pylist() == [None]


def test_a_table_that_pandas_filtered_and_wrote_is_read(tmp_path: Path) -> None:
    with StudyWriter(tmp_path / "a") as writer:
        writer.add_trials(row(n) for n in range(4))
    path = tmp_path / "a" / "trials.arrow"
    frame = pd.read_feather(path)
    frame[frame.seed > 1].reset_index(drop=True).to_feather(path)
    assert read_study(tmp_path / "a").trials["seed"].to_pylist() == [2, 3]


def test_folders_without_or_with_several_studies_are_explained(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        read_study(tmp_path)
    with pytest.raises(StudyError, match="does not exist"):
        read_study(tmp_path / "nowhere")
    for name in "ab":
        StudyWriter(tmp_path / name).close()
    with pytest.raises(StudyError, match="2 studies"):
        read_study(tmp_path)
    assert [study.name for study in read_studies([tmp_path, tmp_path / "a"])] == ["a", "b"]


def test_another_studys_folder_is_refused(tmp_path: Path) -> None:
    with StudyWriter(tmp_path / "a", "first") as writer:
        writer.add_trial(row())
    with pytest.raises(StudyError, match="holds the study first, not second"):
        StudyWriter(tmp_path / "a", "second")
