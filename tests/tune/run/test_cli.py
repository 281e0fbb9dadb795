"""The command line's exit codes and messages: what is wrong, what is allowed, the way out; nothing is written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tune.masking_ratio_study import main
from tune.options import USUAL
from tune.run.runner import Invocation, without_options

SCRIPT = Path(__file__).resolve().parents[3] / "tune" / "masking_ratio_study.py"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ratios", "20", "30"], "did you mean 0.2?"),
        (["--ratios", "0", "0.5"], "strictly between 0 and 1"),
        (["--ratios", "0.5", "0.2"], "the low end"),
        (["--patch-sizes", "3"], "does not divide the 8-px image"),
        (["--patch-sizes", "8"], "at least 4"),
        (["--mask-units", "3"], "--mask-units 3"),
        (["--dataset", "digitz"], "did you mean 'digits'?"),
        (["--dataset", "folder:/nowhere"], "/nowhere"),
        (["--margin", "1.5"], "--margin is '1.5'"),
        (["--ladder", "0.1", "0.5"], "lacks the default 0.2"),
        (["--ladder", "0.2"], "at least 2"),
        (["--mae-ladder", "0.7", "0.75", "--patch-sizes", "4"], "mask as many patches"),
        (["--confirm-seeds", "1"], "--confirm-seeds is 1"),
        (["--confirm-seeds", "1000000000"], "from 2 to 10,000"),
        (["--time-budget", "5 eggs"], "--time-budget is"),
        (["--time-budget", "20m", "--confirm-seeds", "5"], "leave one of them out"),
        (["--epochs", "5", "--steps", "100"], "leave one of them out"),
        (["--default-ratio", "1"], "--default-ratio"),
        (["--trials", "0"], "--trials is 0"),
        (["--trials", "5", "--search", "grid"], "--trials has no effect"),
        (["--methods", "pmae", "--mae-ratios", "0.5", "0.7"], "--mae-ratios has no effect without mae"),
        (["--methods", "mae", "--basis", "dct"], "--basis has no effect without pmae"),
        (["--strategies", "blok"], "did you mean 'block'?"),
        (["--workers-per-trial", "1000"], "there are"),
        (["--epochs", "0"], "epochs"),
        (["--width", "30"], "heads"),
        (["--encoder", "vit_tiny", "--depth", "3"], "contradicts"),
        (["--name", "../escape"], "--name is"),
        (["--storage", "ftp://u:p@host/x"], "ftp://***@host/x: Unrecognized"),
        (["--storage", "s3:///x"], "s3:///x names no bucket"),
        (["--storage", "mock:///x"], "mock:// is not an object store"),
        (["--storage", "s3://bucket/x?region=x&speed=9&endpoint_override=http://127.0.0.1:9"], "speed"),
        (["--storage", "s3://bucket/x?region=x&allow_bucket_creation=true"], "allowed are region"),
        (["--storage", "s3://bucket/x?region=x&endpoint_override=http://127.0.0.1:9"], "check the network"),
        (["--quiet", "--verbose"], "leave one of them out"),
        (["--resume"], "there is no study"),
        (["--resume", "--name", "gone"], "'gone'"),
    ],
)
def test_mistakes_exit_with_2_and_say_the_way_out(argv, message, tmp_path, capsys):
    storage = tmp_path / "runs"
    assert main([*(["--storage", str(storage)] if "--storage" not in argv else []), *argv]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.arrow")) and not list(tmp_path.rglob("study.json"))


@pytest.mark.parametrize("argv", [["--ratioz", "0.2"], ["--methods", "pmaee"], ["--search", "tpo"], ["--trials", "x"]])
def test_options_that_cannot_be_read_exit_with_2(argv, capsys):
    assert main(argv) == 2
    assert argv[0] in capsys.readouterr().err


def test_a_gpu_where_there_is_none_is_refused(tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["--gpus-per-trial", "1", "--storage", str(tmp_path)]) == 2
    assert "--gpus-per-trial 1" in capsys.readouterr().err


def test_a_storage_that_is_a_file_or_a_study_or_taken_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--storage", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "study.json").write_text("{}")
    assert main(["--storage", str(tmp_path)]) == 2
    assert "holds a study already" in capsys.readouterr().err
    assert main(["--storage", str(tmp_path), "--resume"]) == 2
    assert "study.json lacks name" in capsys.readouterr().err
    assert main(["--storage", str(tmp_path / "digits")]) == 2
    assert "is itself a study" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_storage_that_is_not_writable_is_refused(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main(["--storage", str(tmp_path / "runs")]) == 2
    assert "not writable" in capsys.readouterr().err


def test_a_storage_under_proc_is_refused_for_root_too(capsys):
    assert main(["--storage", "/proc/runs"]) == 2
    assert "not writable" in capsys.readouterr().err


def test_a_file_that_is_no_image_is_named(tmp_path, capsys):
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / "images" / label / f"{i}.png")
    (tmp_path / "images" / "cat" / "broken.png").write_bytes(b"no image")
    assert main(["--dataset", f"folder:{tmp_path / 'images'}", "--storage", str(tmp_path / "runs")]) == 2
    assert "broken.png" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    storage = tmp_path / "runs"
    assert main(["--dry-run", "--storage", str(storage), "--trials", "8"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Digits, 8 x 8 gray, 1,295 images: up to 83 trials, about ")
    for part in ("1295 train", "8 trials", "limited by", "5 paired seeds"):
        assert part in said
    assert not storage.exists()


def test_the_script_runs_from_any_folder_and_shows_its_usual_options(tmp_path):
    run = subprocess.run(
        [sys.executable, SCRIPT, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0
    shown = set(re.findall(r"--[a-z-]+(?= )", run.stdout))
    assert {f"--{name.replace('_', '-')}" for name in USUAL} <= shown and "--knn-k" not in shown
    assert run.stdout.startswith("examples:\n  pmae-study") and max(map(len, run.stdout.splitlines())) <= 80


@pytest.mark.parametrize("study", [[], ["basis"], ["theory"]])
def test_all_options_are_shown_on_demand(study, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*study, "--help-all"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("examples:") and max(map(len, text.splitlines())) <= 80
    for option in ("--ratios", "--knn-k", "--trial-timeout", "--dry-run"):
        assert option in text


def test_options_are_taken_out_with_their_values_however_they_are_given():
    words = ["python", "x.py", "--name", "a", "--limit", "9", "--confirm-seeds=4", "--quiet"]
    assert without_options(words, ("--name", "--confirm-seeds")) == ["python", "x.py", "--limit", "9", "--quiet"]


@pytest.mark.parametrize("words", [[], ["--name", "a"], ["--name=a"], ["--name=a", "--resume"]])
def test_the_command_that_resumes_names_the_study_once(words):
    command = shlex.split(Invocation(words, "x.py", None).resume("a"))
    assert command[:2] == ["python", "x.py"] and command.count("--resume") == 1
    assert sum(word.startswith("--name") for word in command) == 1
