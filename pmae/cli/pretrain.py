"""``python -m pmae pretrain``: train a model with progress and checkpoints, and save it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pmae.cli.loading import check_writable, load_dataset, print_result, say
from pmae.cli.options import PretrainOptions, given_settings
from pmae.config import METHODS, PretrainConfig, preset
from pmae.data.load import absolute_source
from pmae.data.progress import progress_bar
from pmae.errors import ConfigError
from pmae.export import MODEL_DESCRIPTION, RUN_FACTS, save_model
from pmae.trainer import pretrain
from pmae.training.checkpoint import list_checkpoints

CHECKPOINTS = "checkpoints"
CHECKPOINTS_PER_RUN = 20


def run(options: PretrainOptions) -> None:
    """Train and save the model, and print its path."""
    out = options.out.expanduser().absolute()
    config = settings(options)
    checkpoints = out / CHECKPOINTS
    _check_folder(out, checkpoints, options.resume)
    images = load_dataset(options.data, options.printing)
    config = config.resolve(images.image_size, images.channels, len(images.indices("train")))
    masking, model, epochs = config.masking, config.model, config.optim.epochs
    assert epochs is not None
    say(
        options.printing,
        f"{masking.method} on {images.name} ({len(images.indices('train')):,} training images of "
        f"{images.image_size} px): ratio {masking.ratio:g}, patch {model.patch_size}, {epochs} epochs",
    )
    done = 0
    try:
        with progress_bar("training", epochs, unit="epochs", shown=not options.printing.quiet) as advance:

            def report(record: dict[str, Any], model: object) -> None:
                nonlocal done
                advance(record["epoch"] + 1 - done, f"loss {record['train_loss']:.4f}")
                done = record["epoch"] + 1

            result = pretrain(
                config,
                images,
                seed=options.training.seed,
                on_epoch=report,
                checkpoint_dir=checkpoints,
                checkpoint_every=max(1, epochs // CHECKPOINTS_PER_RUN),
                resume_from=checkpoints if options.resume else None,
                device=options.machine.device,
            )
    except KeyboardInterrupt:
        hint = "add --resume to the command to continue" if list_checkpoints(checkpoints) else "no epoch had ended yet"
        raise KeyboardInterrupt(hint) from None
    save_model(result, out, images=images)
    shutil.rmtree(checkpoints, ignore_errors=True)
    last = result.history[-1]
    if result.training_problem is not None:
        say(options.printing, f"warning: {result.training_problem}")
    print_result(
        options.printing,
        {
            "folder": str(out),
            "config": result.config.to_dict(),
            **{name: getattr(result, name) for name in (*RUN_FACTS, "training_problem")},
        },
        [
            ("final training loss", f"{last['train_loss']:.4f}"),
            ("achieved ratio", f"{last['achieved_ratio']:.3f}"),
            ("model saved in", str(out)),
            ("next", f"python -m pmae probe {options.out}"),
        ],
    )


def settings(options: PretrainOptions) -> PretrainConfig:
    """Return the preset, changed by the given options."""
    asked = given_settings(options.data, options.masking, options.model, options.training)
    source, method = asked.pop("dataset"), asked.pop("method", METHODS[0])
    base = preset(options.training.preset, absolute_source(source, options.data.data_root), method)
    return base.with_values(asked)


def _check_folder(out: Path, checkpoints: Path, resume: bool) -> None:
    if (out / MODEL_DESCRIPTION).exists():
        raise ConfigError(f"--out: {out} holds a model already; choose another folder, or delete it first")
    found = list_checkpoints(checkpoints)
    if resume and not found:
        raise ConfigError(f"--resume: no checkpoints in {checkpoints}; leave it out to start from the beginning")
    if found and not resume:
        raise ConfigError(
            f"--out: {out} holds the checkpoints of an interrupted run; continue with --resume, or delete {checkpoints}"
        )
    check_writable(out)
