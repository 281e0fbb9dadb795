"""A study's options: made of the configuration's settings, from a file, and from the record of another study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pmae.cli.settings_file import option_words
from pmae.config import SETTINGS
from pmae.errors import ConfigError
from tests.pmae.cli.test_main import OTHER_VALUES
from tune.basis_study import BasisStudy
from tune.masking_ratio_study import main
from tune.options import SEARCHED, StudyOptions, TrainingOptions, parse_options
from tune.planning.plan import plan_study, study_record
from tune.run.cli import rerun_words


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """``study.json`` of a study that was planned with a few options of its own."""
    words = ["--limit", "200", "--epochs", "3", "--weight-decay", "0.2", "--flip", "on", "--margin", "10%"]
    words += ["--methods", "pmae", "--ladder", "0.1", "0.2", "--loss", "pixels", "--name", "mine"]
    plan = plan_study(parse_options(words))
    file = tmp_path_factory.mktemp("runs") / "mine" / "study.json"
    file.parent.mkdir()
    file.write_text(json.dumps(study_record(plan, "python study.py", "2026-01-01T00:00:00+00:00", {})))
    return file


def test_every_setting_that_is_not_searched_over_reaches_the_trials():
    values = {
        **OTHER_VALUES,
        "protocol": "paper",
        "knn_k": 7,
        "dataset": "digits",
        "image_size": 8,
        "data_root": "/x",
        "limit": 20,
    }
    for name in {*SETTINGS} - {*SEARCHED, "basis"}:
        words = [f"--{name.replace('_', '-')}", *option_words(values[name])]
        if name == "min_epochs":  # 450 steps of 32 images: 11 epochs
            words, values[name] = ["--min-epochs", "12"], 1
        if name == "group_size":
            words += ["--per", "group"]
        options = parse_options([*words, "--search", "none", "--patch-sizes", "4"])
        plan = plan_study(options)
        method = "mae" if name == "normalize_target" else "pmae"
        config = next(plan.config(s) for s in plan.space.grid() if s.method == method)
        section, _, setting = SETTINGS[name].partition(".")
        if name == "steps":  # 40 steps of 32 images an epoch
            assert config.optim.epochs == 2
        elif name == "min_epochs":
            assert config.optim.epochs == 12
        else:
            assert getattr(getattr(config, section), setting) == values[name], name


def test_settings_of_one_method_stay_out_of_the_other_ones_trials():
    plan = plan_study(parse_options(["--loss", "pixels", "--normalize-target", "on", "--per", "batch"]))
    found = {s.method: plan.config(s).masking for s in plan.space.grid()}
    assert (found["pmae"].loss, found["mae"].normalize_target) == ("pixels", True)
    assert {m.per for m in found.values()} == {"batch"}
    with pytest.raises(ConfigError, match="--loss has no effect with --methods mae"):
        plan_study(parse_options(["--loss", "pixels", "--methods", "mae"]))


def test_the_released_codes_preset_is_studied_with_its_own_masks():
    words = ["--limit", "200", "--image-size", "16", "--preset"]
    plan = plan_study(parse_options([*words, "released-code"]))
    found = {s.method: plan.config(s) for s in plan.space.grid()}
    assert {m: (c.masking.strategy, c.masking.per) for m, c in found.items()} == {
        "pmae": ("released", "batch"),
        "mae": ("random", "image"),
    }
    for config in found.values():
        assert (config.model.patch_size, config.model.heads, config.model.position) == (8, 12, "sincos")
        assert (config.optim.schedule, config.optim.weight_decay_on) == ("released", "all")
    assert {len(plan.images.indices(s)) > 0 for s in ("train", "val", "test")} == {True}
    for more, strategies in (
        (["released-code", "--strategies", "expected"], {"pmae": ("expected",), "mae": ("random",)}),
        (["released-code", "--methods", "mae"], {"mae": ("random",)}),
        (["paper"], {"pmae": ("expected",), "mae": ("random",)}),
    ):
        assert plan_study(parse_options([*words, *more])).space.strategies == strategies


def test_the_split_follows_the_seed_unless_it_has_its_own():
    splits = [
        plan_study(parse_options([*words, "--limit", "200"])).images.fingerprint
        for words in (["--seed", "3"], ["--data-seed", "3"], ["--seed", "3", "--data-seed", "0"], [])
    ]
    assert splits[0] == splits[1] != splits[2] == splits[3]


@pytest.mark.parametrize("name", SEARCHED)
def test_what_a_study_searches_over_is_refused(name, tmp_path, capsys):
    option = f"--{name.replace('_', '-')}"
    assert main([option, "0.3", "--dry-run"]) == 2
    assert f"error: {option}: a study searches over it; use {SEARCHED[name]}" in capsys.readouterr().err
    file = tmp_path / "study.yaml"
    file.write_text(f"{name}: 0.3")
    assert main(["--config", str(file), "--dry-run"]) == 2
    assert f"{option}: a study searches over it; use {SEARCHED[name]}" in capsys.readouterr().err


def test_a_file_gives_a_study_its_options(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "limit: 100\nmethods: [pmae]\nconfirm:\n  ladder: [0.1, 0.2]\n  until_settled: true\n"
        "training: {epochs: 2, flip: no}\nquiet: false\nmargin: 10%\n"
    )
    asked = ["--limit", "100", "--methods", "pmae", "--ladder", "0.1", "0.2", "--until-settled", "--epochs", "5"]
    same = parse_options([*asked, "--flip", "off", "--margin", "10%"])
    assert parse_options(["--epochs", "5", "--config", str(file)]) == same
    assert parse_options(same.to_argv()) == same
    given = StudyOptions(config=str(file), training=TrainingOptions(epochs=5))  # what Python gives wins too
    assert given.with_file() == same
    file.write_text("trials: many")
    with pytest.raises(ConfigError, match="has a value that cannot be read"):
        StudyOptions(config=str(file)).with_file()
    file.write_text("confirm_seed: 3")
    with pytest.raises(ConfigError, match="did you mean 'confirm_seeds'"):
        parse_options(["--config", str(file)])


def test_a_study_is_started_again_from_its_record(recorded, tmp_path):
    stored = json.loads(recorded.read_text())
    for place in (recorded, recorded.parent):
        question, words = rerun_words([str(place)])
        again = parse_options(words)
        assert question is None and again.to_dict() == stored["options"]
        assert (again.storage.name, again.storage.storage) == ("mine-2", str(recorded.parent.parent))
        assert study_record(plan_study(again), "", "", {})["config"] == stored["config"]
    copy = tmp_path / "study.json"
    copy.write_text(json.dumps(stored | {"command": "python study.py --storage s3://bucket/runs --epochs 3"}))
    assert parse_options(rerun_words([str(copy)])[1]).storage.storage == "s3://bucket/runs"
    plan = plan_study(again)
    assert stored["phases"]["confirm"]["planned"] is None  # how many there are, the exploration decides
    assert stored["phases"]["confirm"]["at_most"] == plan.max_confirm_trials
    changed = parse_options(rerun_words([str(recorded), "--steps", "70", "--name", "other"])[1])
    assert (changed.training.steps, changed.training.epochs, changed.storage.name) == (70, None, "other")
    assert parse_options(["--config", str(recorded)]).to_dict() == stored["options"]


def test_rerun_and_the_other_studies_are_sub_commands(recorded, tmp_path, capsys):
    assert main(["rerun", str(recorded), "--dry-run"]) == 0
    assert "study mine-2: which share" in " ".join(capsys.readouterr().out.split())
    assert main(["basis", "--dry-run", "--limit", "200"]) == 0
    assert BasisStudy.question in capsys.readouterr().out
    assert main(["theory", "--help"]) == 0
    assert "pmae-study theory" in capsys.readouterr().out
    assert main(["rerun", "--help"]) == 0
    assert "pmae-study rerun" in capsys.readouterr().out
    record = {**json.loads(recorded.read_text()), "question": BasisStudy.question}
    (tmp_path / "study.json").write_text(json.dumps(record))
    assert main(["rerun", str(tmp_path), "--dry-run"]) == 0
    assert BasisStudy.question in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"name": "x"}', '{"name": "x", "options": 3}'])
def test_rerun_refuses_what_is_no_study(tmp_path, capsys, text):
    file = tmp_path / "study.json"
    if text is not None:
        file.write_text(text)
    assert main(["rerun", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is not the study.json of a study" in error
    assert main(["rerun"]) == main(["rerun", "--seed", "3"]) == 2


def test_options_of_python_are_those_of_the_command_line():
    assert parse_options([]) == StudyOptions()
    with pytest.raises(TypeError, match="ratio"):
        type(StudyOptions().training)(ratio=0.3)
