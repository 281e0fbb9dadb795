"""``python -m studies``: tables and files of whole, partial and missing studies; errors without a traceback."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from studies.__main__ import main
from studies.records import StudyWriter, is_finished, read_studies, read_study
from studies.verdict import judge
from tests.studies.make_study import make_study, trial

Capture = pytest.CaptureFixture[str]


def printed(capfd: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    """What a command prints, its exit code checked."""
    assert main([str(argument) for argument in arguments]) == code
    return capfd.readouterr().out


def test_list_names_every_study_and_how_far_it_is(storage: Path, capfd: Capture) -> None:
    text = printed(capfd, "list", storage)
    assert "digits-quick" in text and "cifar10-quick" in text
    rows = json.loads(printed(capfd, "list", storage, "--json"))
    row = next(row for row in rows if row["study"] == "digits-quick")
    assert (row["ended"], row["planned"], row["done"], row["lost"]) == (117, 117, 113, 4)
    table = csv.DictReader(io.StringIO(printed(capfd, "list", storage, "--csv")))
    assert [row["study"] for row in table] == ["cifar10-quick", "digits-quick"]


def test_show_gives_means_over_seeds_and_what_was_lost(digits: Path, capfd: Capture) -> None:
    text = printed(capfd, "show", digits)
    assert "PMAE, patch 2" in text and "OutOfMemoryError" in text
    summary = json.loads(printed(capfd, "show", digits, "--json"))[0]
    point = next(r for r in summary["confirmed"] if (r["method"], r["ratio"], r["patch_size"]) == ("mae", 0.75, 2))
    rows = read_study(digits).trials.to_pylist()
    values = [
        r["test_linear"] for r in rows
        if (r["phase"], r["method"], r["ratio"], r["patch_size"]) == ("confirm", "mae", 0.75, 2)
    ]  # fmt: skip
    assert point["test_linear"] == pytest.approx(sum(values) / len(values))
    assert len(list(csv.DictReader(io.StringIO(printed(capfd, "show", digits, "--csv"))))) == 11


def test_verdict_json_is_the_file_and_is_rebuilt_when_missing_or_stale(
    digits: Path, tmp_path: Path, capfd: Capture
) -> None:
    own = shutil.copytree(digits, tmp_path / "digits-quick")
    judged = printed(capfd, "verdict", own, "--json")
    assert json.loads(judged) == judge(read_study(own), margin=0.01).to_dict()
    kept = {"schema_version": 2, "answer": "kept", "rows": [], "overall": {}, "warnings": []}
    (own / "verdict.json").write_text(json.dumps(kept))
    assert json.loads(printed(capfd, "verdict", own, "--json"))["answer"] == "kept"
    (own / "verdict.json").write_text(json.dumps(kept | {"schema_version": 1}))
    assert printed(capfd, "verdict", own, "--json") == judged
    (own / "verdict.json").write_text(json.dumps(kept))
    past = time.time() - 1000
    os.utime(own / "verdict.json", (past, past))
    assert printed(capfd, "verdict", own, "--json") == judged


def test_verdict_in_words_and_with_other_settings(digits: Path, capfd: Capture) -> None:
    assert "loses at most" in printed(capfd, "verdict", digits)
    for margin, expected in (("0.06", "holds"), ("0.2", "uninformative")):  # training gains 7 points for MAE
        wide = json.loads(printed(capfd, "verdict", digits, "--margin", margin, "--json"))
        assert {row["verdict"] for row in wide["rows"]} == {expected}
    assert len(list(csv.DictReader(io.StringIO(printed(capfd, "verdict", digits, "--csv"))))) == len(wide["rows"])


@pytest.mark.parametrize("command", ["list", "show", "verdict"])
def test_results_fit_a_terminal_of_80_columns_and_end_with_the_answer(command, storage: Path, monkeypatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("studies.cli.terminal.make_console", lambda: Console(file=out, width=80, highlight=False))
    assert main([command, str(storage)]) == 0
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    if command == "verdict":
        answer = judge(read_studies([storage])).answer
        assert " ".join(lines).endswith(answer) and lines[0].startswith("Out-of-fold accuracy")
        assert sum("may be best" in line for line in lines) == 1
        assert sum("     default  " in line for line in lines) == 4
        rows = [line for line in lines if line.startswith(" ") and " % " in line]
        assert " ".join(" ".join(line[1:15] for line in rows).split()).startswith("PMAE on cifar10, patch 4 PMAE on")


def test_export_writes_what_other_programs_read(storage: Path, tmp_path: Path, capfd: Capture) -> None:
    out = {kind: tmp_path / f"trials.{kind}" for kind in ("csv", "parquet", "json")}
    printed(capfd, "export", storage, *(text for kind, path in out.items() for text in (f"--{kind}", path)))
    rows = pq.read_table(out["parquet"]).to_pylist()
    assert len(rows) == 117 + 93
    assert len(json.loads(out["json"].read_text())) == len(rows)
    with out["csv"].open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    history = printed(capfd, "export", storage / "digits-quick", "--table", "history", "--csv", "-")
    assert history.startswith('"study","trial_id"')


def test_watch_once_shows_progress_losses_and_the_best(tmp_path: Path, capfd: Capture) -> None:
    running = make_study(tmp_path, "running", planned=500, seeds=1, explored=3, samples=False)
    text = printed(capfd, "watch", running, "--once")
    ended = read_study(running).trials.num_rows
    assert f"{ended} of at most 513 trials ended" in text and "1 failed" in text and "best so far" in text


def test_watch_follows_a_study_to_its_end(tmp_path: Path) -> None:
    folder = make_study(tmp_path, "running", planned=3, seeds=0, explored=0, losses=False, samples=False)
    command = [sys.executable, "-m", "studies", "watch", str(folder), "--every", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert "0 of at most 3" in watching.stdout.readline()
        with StudyWriter(folder, "running") as writer:
            for seed in range(3):
                writer.add_trial(trial("digits", "explore", "pmae", 0.2, 2, seed))
        (folder / "verdict.json").write_text(json.dumps(judge(read_study(folder)).to_dict()))
        assert re.search("3 (of at most 3 )?trials ended", watching.stdout.read().splitlines()[-1])
    assert watching.returncode == 0


def test_watch_continues_after_the_exploration_until_the_study_is_judged(tmp_path: Path) -> None:
    folder = make_study(tmp_path, "running", seeds=0, explored=1, losses=False, samples=False)
    plan = json.loads((folder / "study.json").read_text())
    plan["phases"] = {"explore": {"planned": 4, "seeds": []}, "confirm": {"planned": None, "seeds": [1, 2]}}
    (folder / "study.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "studies", "watch", str(folder), "--every", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert "running: 4 trials ended" in watching.stdout.readline()
        with StudyWriter(folder, "running") as writer:
            writer.add_trial(trial("digits", "confirm", "pmae", 0.2, 2, 1))
        assert "running: 5 trials ended" in watching.stdout.readline()
        assert watching.poll() is None
        (folder / "verdict.json").write_text(json.dumps(judge(read_study(folder)).to_dict()))
        assert watching.wait(timeout=60) == 0


def test_watch_waits_for_a_study_that_was_interrupted_and_has_just_resumed(tmp_path: Path) -> None:
    folder = make_study(tmp_path, "running", judged=True, samples=False)
    assert is_finished(read_study(folder))
    later = (folder / "verdict.json").stat().st_mtime + 1
    os.utime(folder / "study.json", (later, later))  # as --resume does, before its first trial has ended
    assert not is_finished(read_study(folder))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "/no/such/folder"), "does not exist"),
        (("show",), "no PATH"),
        (("verdict", "{empty}"), "holds no study"),
        (("report", "{empty}"), "holds no study"),
        (("export", "{digits}"), "--csv"),
        (("watch", "{digits}", "--every", "0"), "--every"),
        (("verdict", "{digits}", "--margin", "2"), "margin"),
    ],
)
def test_mistakes_are_one_line_and_code_two(
    arguments: tuple[str, ...], message: str, digits: Path, tmp_path: Path, capfd: Capture
) -> None:
    filled = [argument.format(empty=tmp_path, digits=digits) for argument in arguments]
    assert main(filled) == 2
    captured = capfd.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_unknown_options_are_refused(digits: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["show", str(digits), "--color"])
    assert stopped.value.code == 2


def test_a_page_that_cannot_be_written_is_code_one(digits: Path, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", str(digits), "--out", str(tmp_path / "file" / "page.html")]) == 1
    assert "cannot write" in capfd.readouterr().err


def test_names_cannot_write_to_the_terminal(tmp_path: Path, capfd: Capture) -> None:
    with StudyWriter(tmp_path / "evil", "evil\x1b[2J[red]") as writer:
        writer.add_trial(trial("dig\x07its", "explore", "pmae", 0.2, 2, 1, error="\x1b]0;owned\x07", status="failed"))
    for command in (("list",), ("show",), ("watch", "--once")):
        text = printed(capfd, command[0], tmp_path / "evil", *command[1:])
        assert "\x1b" not in text and "\x07" not in text
        assert "[red]" in text


def test_a_closed_pipe_is_quiet_and_list_needs_no_heavy_library(digits: Path) -> None:
    command = f"{sys.executable} -m studies export {digits} --table history --csv - | head -1"
    piped = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert piped.stdout.startswith('"study"') and not piped.stderr
    for name in ("list", "show"):
        timed = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "studies", name, str(digits)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        loaded = {line.rpartition("|")[2].strip() for line in timed.stderr.splitlines()}
        assert not loaded & {
            "scipy",
            "sklearn",
            "matplotlib",
            "torch",
            "ray",
            "studies.report",
        }
