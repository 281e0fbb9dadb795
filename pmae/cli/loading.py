"""Shared by the commands: load images, check output paths, print results."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmae.cli.options import DataOptions, PrintOptions, SavedDataOptions, given_settings
from pmae.config import DataConfig
from pmae.data import ImageSet, load_images
from pmae.data.load import absolute_source
from pmae.errors import ConfigError
from pmae.files import make_writable_folder


def load_dataset(options: DataOptions, printing: PrintOptions) -> ImageSet:
    """Load the images that the options name."""
    return _load(DataConfig(**given_settings(options)), options.skip_unreadable, printing)


def load_for_encoder(
    options: SavedDataOptions, trained: DataConfig | None, image_size: int, printing: PrintOptions
) -> ImageSet:
    """Load the images that the options name, else those that the encoder was trained on, at its size.

    For its own images the limit and the seed of the training apply: another split would validate on training images.
    """
    asked = given_settings(options)
    if trained is None and options.dataset is None:
        raise ConfigError("the encoder has no record of the images it was trained on; give --dataset")
    asked_source = options.dataset and absolute_source(options.dataset, options.data_root)
    own = trained is not None and asked_source in (None, trained.dataset)
    base = trained if trained is not None and own else DataConfig()
    return _load(dataclasses.replace(base, image_size=image_size, **asked), options.skip_unreadable, printing)


def _load(data: DataConfig, skip_unreadable: bool, printing: PrintOptions) -> ImageSet:
    where = data.dataset, data.data_root, data.image_size, data.limit, data.data_seed
    return load_images(*where, skip_unreadable=skip_unreadable, progress=not printing.quiet)


def check_output(path: Path, suffixes: tuple[str, ...]) -> Path:
    """Return the absolute output path and create its folder; ConfigError if the file cannot be written."""
    path = path.expanduser().absolute()
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"--out is {path.name!r}; its name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise ConfigError(f"--out is {path}, which is a folder; name a file in it")
    check_writable(path.parent)
    return path


def check_writable(folder: Path) -> None:
    """Create ``folder``; ConfigError if that fails or it is not writable."""
    try:
        make_writable_folder(folder)
    except OSError as error:
        raise ConfigError(f"--out: {folder} cannot be written ({error.strerror}); choose another folder") from None


def print_result(printing: PrintOptions, result: Mapping[str, Any], lines: list[tuple[str, str]]) -> None:
    """Print the result as JSON, or as aligned lines of a name and a value."""
    if printing.json:
        print(json.dumps(result, indent=2))
        return
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


def say(printing: PrintOptions, text: str) -> None:
    """Print a line on standard error unless ``--quiet`` is given."""
    if not printing.quiet:
        print(text, file=sys.stderr, flush=True)
