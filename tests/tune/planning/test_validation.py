"""One validation before any work: a dry run refuses what a run refuses, at once, with one clear error."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import resource
import sys
import time
import types
import typing
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pmae.errors import ConfigError
from pmae.files import user_path
from tune.masking_ratio_study import main
from tune.options import STUDY_GROUPS, StudyOptions
from tune.planning.check import check_options

SECONDS = 5.0
BYTES = 2**30
LONG = "x" * 5000
INTEGERS = st.sampled_from([-(10**30), -1, 0, 1, 2, 3, 4, 5, 8, 16, 64, 100, 255, 4096, 10**6, 10**9, 10**18, 10**400])
FLOATS = st.sampled_from(
    [
        *(float("nan"), float("inf"), -float("inf"), -1.0, -0.0, 0.0, 5e-324, 1e-9),
        *(0.01, 0.1, 0.2, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 20.0, 1e30, 1e308),
    ]
)
TEXTS = st.sampled_from(
    [
        *("", " ", "0", "-1", "nan", "inf", "1e400", "../x", "/dev/null", "~nobody-here/x", "a\nb", "a\0b", "\x1b[31m"),
        *("1-2", "2-1", "9" * 300, "20m", "0s", "10%", "digits", "folder:", "folder:/nowhere", "npz:/dev/null", "é"),
        LONG,
    ]
)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Hostile and ordinary values of a field's type."""
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if i is type(None) else values_of(i) for i in inner))
    if origin is tuple:
        return st.lists(values_of(inner[0]), max_size=5).map(tuple)
    if origin is typing.Literal:
        return st.sampled_from(inner)
    return {bool: st.booleans(), int: INTEGERS, float: FLOATS, str: TEXTS}[kind]


@st.composite
def hostile_options(draw: st.DrawFn) -> StudyOptions:
    """Options of which one to five are not the defaults."""
    options = StudyOptions()
    fields = [
        (group, field.name, hint)
        for group in (*STUDY_GROUPS, "storage", "machine")
        for field in dataclasses.fields(getattr(options, group))
        for hint in [typing.get_type_hints(type(getattr(options, group)), include_extras=True)[field.name]]
        if field.name != "address"  # what a cluster answers is tested with the session
    ]
    for group, name, hint in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=5, unique=True)):
        part = dataclasses.replace(getattr(options, group), **{name: draw(values_of(hint))})
        options = dataclasses.replace(options, **{group: part})
    return options


def dry_run(options: StudyOptions) -> tuple[int, str, str]:
    """Exit code, output and errors of a dry run of exactly these options, in this process."""
    import tune.run.cli as cli

    options = dataclasses.replace(options, output=dataclasses.replace(options.output, dry_run=True))
    out, err = io.StringIO(), io.StringIO()
    parse, cli.parse_options = cli.parse_options, lambda *given, **named: options
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = main(options.to_argv())
    finally:
        cli.parse_options = parse
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PMAE_CACHE", str(tmp_path / "cache"))
    import timm  # noqa: F401 (takes seconds, for the name of an encoder)

    dry_run(StudyOptions())  # other imports
    return tmp_path


@pytest.mark.timeout(300)
@seed(20260101)
@settings(
    max_examples=200, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(options=hostile_options())
def test_any_options_get_a_plan_or_one_clear_error_at_once(elsewhere, options):
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, hard))
    started = time.process_time()  # other processes of the machine do not count
    try:
        code, said, problem = dry_run(options)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    assert time.process_time() - started < SECONDS
    if code == 0:
        assert problem == "" and (options.output.quiet or "  study  " in said)
    else:
        assert code == 2 and problem.startswith("error: ") and problem.count("\n") == 1
        assert len(problem) < 1000 and "Traceback" not in problem
    assert [p.name for p in elsewhere.iterdir() if p.name != "cache"] == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--patch-sizes", "0"], "--patch-sizes is 0"),
        (["--patch-strides", "0"], "--patch-strides is 0"),
        (["--gpus-per-trial", "nan"], "--gpus-per-trial is nan"),
        (["--trial-timeout", "nan"], "--trial-timeout is nan"),
        (["--trial-timeout", "inf"], "--trial-timeout is inf"),
        (["--learning-rate", "1e30"], "--learning-rate is 1e+30"),
        (["--learning-rate", "nan"], "--learning-rate is nan"),
        (["--default-ratio", "nan"], "--default-ratio is nan"),
        (["--ratios", "nan", "0.5"], "--ratios is nan"),
        (["--margin", "nan"], "--margin is 'nan'"),
        (["--storage", LONG], "has 5000 characters"),
        (["--data-root", LONG], "has 5000 characters"),
        (["--dataset", f"folder:{LONG[:3000]}"], "cannot be a path"),
        (["--dataset", f"npz:{'x/' * 2500}"], "has 5004 characters"),
        (["--dataset", LONG], "has 5000 characters"),
        (["--storage", "~nobody-of-this-name/x"], "give the path in full"),
        (["--storage", ""], "--storage is empty"),
        (["--name", ""], "--name is ''"),
        (["--name", "../../x"], "--name is '../../x'"),
        (["--name", "x" * 300], "at most 100 characters"),
        (["--name", "a\nb"], "--name is 'a\\nb'"),
        (["--image-size", "100000"], "--image-size is 100000"),
        (["--image-size", "512"], "at most 256"),
        (["--confirm-seeds", "1000000000"], "from 2 to 10,000"),
        (["--storage", "/proc/runs"], "not writable"),
        (["--look", "11"], "from 1 to 10: from the second on the level is 5 % / 2^look"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(argv, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    errors = []
    for more in ([], ["--dry-run"]):
        assert main([*argv, *more]) == 2
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1] and message in errors[0] and "Traceback" not in errors[0]
    assert not list(tmp_path.rglob("*"))


def test_a_dry_run_refuses_a_folder_that_is_taken_or_a_study_that_is_not_there(tmp_path, capsys):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "notes.txt").touch()
    assert main(["--dry-run", "--storage", str(tmp_path)]) == 2
    assert str(tmp_path / "digits") in capsys.readouterr().err
    assert main(["--dry-run", "--resume", "--storage", str(tmp_path / "none")]) == 2
    assert "there is no study" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").touch()
    assert main(["--dry-run", "--storage", str(tmp_path / "file" / "below")]) == 2
    assert "not writable" in capsys.readouterr().err


def test_images_are_not_decoded_before_everything_else_was_checked(tmp_path, monkeypatch, capsys):
    import tune.planning.plan as planning

    monkeypatch.setattr(planning, "load_images", lambda *_, **__: pytest.fail("images were loaded"))
    for mistake in ("--patch-sizes 3", "--width 30", "--batch-size 0", "--ratios 20", "--epochs -1"):
        assert main([*mistake.split(), "--dry-run", "--storage", str(tmp_path / "runs")]) == 2
    assert main(["--dataset", "folder:/nowhere", "--image-size", "2048", "--patch-sizes", "1", "--dry-run"]) == 2
    assert "a trial needs about" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--until-settled"]])
def test_the_strictest_level_can_be_planned(more, tmp_path, capsys):
    assert main(["--dry-run", "--look", "10", *more, "--storage", str(tmp_path / "runs")]) == 0
    assert "true regret" in " ".join(capsys.readouterr().out.split())


def test_a_name_made_from_the_dataset_is_always_valid():
    from pmae.data import load_images
    from tune.planning.plan import plan_study

    images = dataclasses.replace(load_images("digits", limit=100), name="my birds/2024")
    assert plan_study(StudyOptions(), images=images).name == "my-birds-2024"


@pytest.mark.parametrize("path", ["x" * 256, "x/" * 3000, "a\0b"])
def test_what_cannot_be_a_path_is_refused(path):
    with pytest.raises(ConfigError, match="cannot be a path"):
        user_path(path, "--storage")


def test_the_defaults_pass():
    check_options(StudyOptions())
    assert sys.maxsize > BYTES
