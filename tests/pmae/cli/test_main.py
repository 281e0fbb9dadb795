"""``python -m pmae`` as a user calls it: every command on digits, exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tyro
from PIL import Image

from pmae.__main__ import main
from pmae.cli.options import PretrainOptions, field_docs
from pmae.cli.pretrain import settings
from pmae.cli.settings_file import expand_config, option_words
from pmae.components import PrincipalComponents
from pmae.config import SETTINGS, DataConfig, OptimConfig, PretrainConfig, preset
from pmae.export import load_encoder

TINY = [
    *("--patch-size", "4", "--width", "16", "--depth", "1", "--heads", "2"),
    *("--decoder-width", "16", "--decoder-heads", "2", "--epochs", "2", "--quiet"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pmae"
    assert main(["pretrain", "--out", str(folder), *TINY]) == 0
    return folder


@pytest.fixture
def run_json(capsys):
    """Run a command with --json --quiet; its exit code must be 0."""

    def run(*arguments):
        capsys.readouterr()
        assert main([*map(str, arguments), "--json", "--quiet"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_pretrain_saves_a_model_and_leaves_no_checkpoints(saved):
    names = {path.name for path in saved.iterdir()}
    assert {"encoder.safetensors", "encoder.json", "model.safetensors", "model.json"} <= names
    assert "checkpoints" not in names
    description = json.loads((saved / "model.json").read_text())
    assert description["data"]["name"] == "digits" and len(description["history"]) == 2


def test_settings_reach_the_configuration():
    from pmae.cli import options as o

    asked = PretrainOptions(
        out=Path("x"),
        data=o.DataOptions(dataset="folder:somewhere", limit=7, data_seed=3),
        masking=o.MaskingOptions(method="mae", mask_unit=8),
        training=o.TrainingOptions(preset="paper", epochs=10, flip=False, crop_scale=(0.5, 1.0), precision="fp32"),
    )
    config = settings(asked)
    assert config.data.dataset == f"folder:{Path('somewhere').absolute()}"
    assert (config.data.limit, config.data.data_seed) == (7, 3)
    assert config.data.flip is False and config.data.crop_scale == (0.5, 1.0)
    assert (config.masking.method, config.masking.ratio, config.masking.mask_unit) == ("mae", None, 8)
    assert (config.optim.epochs, config.optim.resolve().warmup_epochs, config.optim.precision) == (10, 0.5, "fp32")
    paper = PretrainOptions(out=Path("x"), training=o.TrainingOptions(preset="paper"))
    assert settings(paper) == preset("paper", "digits", "pmae")


def parsed(*words: str) -> PretrainConfig:
    options = tyro.cli(
        PretrainOptions, args=["--out", "x", *words], config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    )
    return settings(options)


# Values that differ from both presets' and go together with the quick one's.
OTHER_VALUES = {
    "dataset": "cifar10", "data_root": "/there", "image_size": 16, "limit": 7, "data_seed": 4, "crop_scale": (0.5, 0.9),
    "flip": True, "method": "mae", "ratio": 0.4, "ratio_range": (0.3, 0.6), "strategy": "tvb", "per": "batch",
    "loss": "pixels", "reduction": "image", "basis": "dct", "mask_unit": 8, "normalize_target": True, "patch_size": 2,
    "patch_stride": 2, "encoder": "vit_small", "width": 32, "depth": 3, "heads": 2, "mlp_ratio": 2.0,
    "decoder_width": 32, "decoder_depth": 2, "decoder_heads": 2, "position": "sincos", "pool": "cls", "epochs": 9,
    "steps": 77, "min_epochs": 2, "batch_size": 64, "learning_rate": 0.5, "warmup_epochs": 0.5, "weight_decay": 0.3,
    "schedule": "released", "weight_decay_on": "all", "accumulation_steps": 2,
    "betas": (0.5, 0.6), "clip_grad_norm": 2.0, "precision": "bf16", "compile": "off", "group_size": 8,
}  # fmt: skip


def test_every_setting_of_a_training_is_an_option_of_the_same_name():
    of_probes = {"protocol", "knn_k"}
    assert {*OTHER_VALUES} == {*SETTINGS} - of_probes
    for name, value in OTHER_VALUES.items():
        needed = ["--method", "mae"] if name in ("ratio_range", "mask_unit", "normalize_target") else []
        needed += ["--per", "group"] if name == "group_size" else []
        config = parsed(*needed, f"--{name.replace('_', '-')}", *option_words(value))
        section, _, setting = SETTINGS[name].partition(".")
        assert getattr(getattr(config, section), setting) == value, name
        other = {"per": "group"} if name == "group_size" else {}
        assert config == preset("quick", method=config.masking.method).with_values({name: value, **other})


def test_help_is_the_settings_own_documentation(capsys):
    assert main(["pretrain", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("examples:") and "Side of a patch in pixels" in text and "--mlp-ratio" not in text
    assert main(["pretrain", "--help-all"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("examples:")
    plain = " ".join(text.replace("│", " ").split())
    for kind in (DataConfig, OptimConfig):
        for name, doc in field_docs(kind).items():
            assert doc in plain, name


def test_a_settings_file_is_read_before_the_command_line(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("dataset: digits\nmasking:\n  ratio: 0.35\nbatch-size: 48\nlearning_rate: 1e-3\nflip: true\n"
                    "epochs: 4\ncompile: off\ncrop_scale: [0.5, 1]\nlimit: null\nquiet: true\n")  # fmt: skip
    config = parsed(*expand_config(["--config", str(file), "--ratio", "0.4"], PretrainOptions))
    assert (config.masking.ratio, config.optim.batch_size, config.optim.learning_rate) == (0.4, 48, 1e-3)
    assert (config.data.flip, config.data.crop_scale, config.optim.compile) == (True, (0.5, 1.0), "off")
    # An option replaces those of the file that it excludes.
    config = parsed(*expand_config([f"--config={file}", "--steps", "70"], PretrainOptions))
    assert (config.optim.steps, config.optim.epochs) == (70, None)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "epoch: 3", "did you mean 'epochs'"),
        ("a.yaml", "optimizer: {epochs: 3}", "unknown option 'optimizer'"),
        ("a.yaml", "- 3", "holds list"),
        ("a.yaml", "{", "cannot be read"),
        ("a.json", "{", "cannot be read"),
        ("a.yaml", "ratio: 20", "did you mean 0.2"),
        ("a.json", '{"quiet": "off"}', "quiet is 'off'; it must be true or false"),
        (None, "", "it must be a YAML or JSON file"),
    ],
)
def test_a_settings_file_that_cannot_be_used_is_one_error(tmp_path, capsys, name, text, message):
    file = tmp_path / (name or "nowhere")
    if name is not None:
        file.write_text(text)
    assert main(["pretrain", "--out", str(tmp_path / "x"), "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")


@pytest.mark.parametrize("kind", ["linear", "knn", "corruptions", "mlp", "finetune"])
def test_every_probe_scores_a_saved_encoder(saved, run_json, kind):
    few = {"mlp": ["--epochs", 2], "finetune": ["--epochs", 1, "--augment", "--layer-decay", 0.8], "knn": ["--k", 5]}
    result = run_json("probe", saved, "--kind", kind, *few.get(kind, []))
    assert 0 < result["val_accuracy"] <= 1 and 0 < result["test_accuracy"] <= 1
    assert result["dataset"] == "digits" and result["kind"] == kind


def test_both_poolings_and_no_test(saved, run_json):
    result = run_json("probe", saved, "--pool", "both", "--skip-test")
    assert set(result["details"]["pools"]) == {"cls", "mean"} and result["test_accuracy"] is None


def test_probe_prints_lines_for_people(saved, capsys):
    assert main(["probe", str(saved), "--kind", "knn"]) == 0
    out = capsys.readouterr().out
    assert "knn on digits" in out and "test accuracy" in out and "val by k" in out


def test_the_validation_images_are_those_of_training(tmp_path, run_json):
    folder = tmp_path / "limited"
    assert main(["pretrain", "--out", str(folder), *TINY, "--limit", "200", "--data-seed", "5"]) == 0
    trained = json.loads((folder / "model.json").read_text())["data"]["fingerprint"]
    from pmae.data import load_images

    assert load_images("digits", limit=200, seed=5).fingerprint == trained
    assert run_json("probe", folder)["details"]["images"]["train"] == 200
    assert run_json("probe", folder, "--dataset", "digits", "--limit", "300")["details"]["images"]["train"] == 300


def test_a_relative_path_names_the_images_of_training_too(tmp_path, run_json, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (150, 8, 8), np.uint8)
    labels = np.arange(150) % 2
    parts = {"train": slice(0, 120), "test": slice(120, 150)}
    arrays = {f"{s}_images": images[p] for s, p in parts.items()} | {f"{s}_labels": labels[p] for s, p in parts.items()}
    np.savez(tmp_path / "mine.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    own = ["--dataset", "npz:mine.npz"]
    assert main(["pretrain", "--out", "model", *TINY, *own, "--limit", "80", "--data-seed", "3"]) == 0
    assert run_json("probe", "model", *own)["details"]["images"]["train"] == 80


def test_a_share_that_the_kept_components_do_not_hold_is_said(capsys, monkeypatch):
    monkeypatch.setattr("pmae.cli.components.VARIANCE_SHARES", (0.2, 1.5))
    assert main(["components"]) == 0
    assert re.search("150% of the variance +more than the 64", capsys.readouterr().out)


def test_components_tell_how_the_variance_is_spread(tmp_path, run_json):
    result = run_json("components", "--out", tmp_path / "c.safetensors")
    components = PrincipalComponents.load(tmp_path / "c.safetensors")
    for share, count in result["needed"].items():
        cumulative = components.explained_variance_ratio.cumsum()
        assert cumulative[count - 1] >= float(share) - 1e-9 > cumulative[count - 2] - 1e-8
    assert result["rank"] == 64 and run_json("components")["how"] == "cached"
    assert run_json("components", "--basis", "dct")["basis"] == "dct"


def test_features_become_arrays_or_a_table(saved, tmp_path, run_json):
    npz, parquet = tmp_path / "new" / "f.npz", tmp_path / "f.parquet"
    result = run_json("features", saved, "--out", npz)
    run_json("features", saved, "--out", parquet, "--splits", "val", "test", "--pool", "mean")
    with np.load(npz, allow_pickle=False) as archive:
        arrays = dict(archive)
    assert arrays["train_features"].shape == tuple(result["shapes"]["train"]) and arrays["class_names"][9] == "9"
    table = pq.read_table(parquet)
    assert table.num_rows == len(arrays["val_labels"]) + len(arrays["test_labels"])
    assert table["label"].to_pylist()[: len(arrays["val_labels"])] == arrays["val_labels"].tolist()
    assert len(table["features"][0]) == load_encoder(saved).width


def test_reconstruct_draws_a_strip_and_measures(saved, tmp_path, run_json):
    result = run_json("reconstruct", saved, "--out", tmp_path / "strip.png", "--pictures", 3)
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size[0] > 300
    assert -1 < result["ssim"] < 1 and result["psnr"] > 0
    assert run_json("reconstruct", saved, "--out", tmp_path / "again.png")["ssim"] == result["ssim"]


MISTAKES = [
    (["pretrain", "--out", "new", "--ratio", "1.5"], "ratio is 1.5"),
    (["pretrain", "--out", "new", "--patch-size", "3"], "patch_size 3 (stride 3) does not divide the 8-px image"),
    (["pretrain", "--out", "new", "--method", "mae", "--basis", "dct"], "basis='dct' has no effect with method 'mae'"),
    (["pretrain", "--out", "new", "--mask-unit", "4"], "mask_unit=4 has no effect with method 'pmae'"),
    (["pretrain", "--out", "new", "--dataset", "digit"], "did you mean 'digits'"),
    (["pretrain", "--out", "new", "--device", "tpu"], "device is 'tpu'"),
    (["pretrain", "--out", "new", "--resume"], "no checkpoints in"),
    (["pretrain", "--out", "{saved}"], "holds a model already"),
    (["pretrain", "--out", "/proc/nowhere"], "cannot be written"),
    (["probe", "nowhere"], "there is no encoder.json in nowhere"),
    (["probe", "{saved}", "--kind", "knn", "--protocol", "fast"], "--protocol has no effect with --kind knn"),
    (["probe", "{saved}", "--k", "3"], "--k has no effect with --kind linear; it is for knn"),
    (["probe", "{saved}", "--kind", "mlp", "--pool", "both"], "--pool both is for --kind linear"),
    (["probe", "{saved}", "--kind", "knn", "--k", "99999"], "k is 99999"),
    (["probe", "{saved}", "--augment"], "augmentation needs protocol='paper'"),
    (["probe", "{saved}", "--kind", "corruptions", "--severity", "9"], "severity is 9"),
    (["features", "{saved}", "--out", "f.csv"], "must end in .npz or .parquet"),
    (["features", "{saved}", "--out", "f.npz", "--splits", "holdout"], "no split 'holdout'"),
    (["reconstruct", "{saved}", "--out", "s.png", "--pictures", "0"], "--pictures is 0"),
    (["components", "--dataset", "folder:nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(saved, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main([a.format(saved=saved) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "new" / "model.json").exists() and not (tmp_path / "f.npz").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["probe"], ["pretrain", "--out", "x", "--color"], ["pretrain", "--out", "x", "--epochs", "a"]],
)
def test_usage_that_cannot_be_read_is_exit_code_2(arguments, capsys):
    assert main(arguments) == 2


def test_help_is_exit_code_0(capsys):
    assert main(["--help"]) == 0
    assert "reconstruct" in capsys.readouterr().out


def test_progress_shows_epochs_and_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pmae.data.progress.SECONDS_BETWEEN_LINES", -1.0)
    assert main(["pretrain", "--out", str(tmp_path / "a"), *(word for word in TINY if word != "--quiet")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training: ")]
    assert [line.partition(", loss ")[0] for line in lines] == [
        "training: 1 of 2 epochs (50%)",
        "training: 2 of 2 epochs (100%)",
    ]


def test_a_diverged_training_is_exit_code_1(tmp_path, capsys):
    assert main(["pretrain", "--out", str(tmp_path), *TINY, "--learning-rate", "1e12"]) == 1
    assert "the training loss became" in capsys.readouterr().err


def test_interrupted_and_resumed_is_the_undisturbed_run(tmp_path):
    """A real process and a real Ctrl-C, then --resume; the history equals a run that nobody disturbed."""
    command = [sys.executable, "-m", "pmae", "pretrain", *TINY, "--epochs", "600", "--limit", "60", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, tmp_path / "a"], stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "a").glob("checkpoints/*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and "--resume" in error and "Traceback" not in error
    assert main(["pretrain", *TINY, "--epochs", "600", "--limit", "60", "--out", str(tmp_path / "a")]) == 2, (
        "it would start over"
    )
    assert main(["pretrain", *TINY, "--epochs", "600", "--limit", "60", "--out", str(tmp_path / "a"), "--resume"]) == 0
    assert main(["pretrain", *TINY, "--epochs", "600", "--limit", "60", "--out", str(tmp_path / "b")]) == 0
    losses = [[e["train_loss"] for e in json.loads((tmp_path / f / "model.json").read_text())["history"]] for f in "ab"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
