"""Checks of the options that need no images."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from pmae.cli.options import given_settings
from pmae.config import DEFAULT_RATIO, METHODS, Method, check_choice, check_ratio, has_effect
from pmae.data.load import MAX_IMAGE_SIZE
from pmae.errors import ConfigError
from pmae.files import user_path
from studies.errors import StudyError
from studies.statistics.decision import Margin
from studies.storage.object_store import is_uri
from tune.options import ConfirmOptions, StudyOptions
from tune.planning.placement import worker_range
from tune.storage.location import study_name

MAX_TRIALS = 10_000  # also of seeds in the confirm phase, and of combinations of settings
MAX_LOOKS = 10
MAX_NUMBER = 10**9  # for every other whole number
MAX_SEED = 2**63 - 1
MAX_VALUES = 200  # of one option
MAX_CHARACTERS = 4096
MAX_LEARNING_RATE = 100.0
MAX_SECONDS = 10 * 365 * 24 * 3600.0  # of --trial-timeout and --time-budget


def check_options(options: StudyOptions) -> None:
    """Refuse options that are invalid for all images, with a ConfigError."""
    for name, value in {"config": options.config, **options.values()}.items():
        _check_value(f"--{name.replace('_', '-')}", value)
    data, search, confirm, training = options.data, options.search, options.confirm, options.training
    machine = options.machine
    counts = (
        ("--image-size", data.image_size, 4, MAX_IMAGE_SIZE, " pixels, for example 32 or 64"),
        ("--limit", data.limit, 1, MAX_NUMBER, ""),
        ("--data-seed", data.data_seed, 0, MAX_SEED, ""),
        ("--seed", training.seed, 0, MAX_SEED, ""),
        *(("--patch-sizes", size, 1, MAX_NUMBER, " pixels") for size in search.patch_sizes or ()),
        *(("--patch-strides", stride, 1, MAX_NUMBER, " pixels") for stride in search.patch_strides or ()),
        *(("--mask-units", unit, 1, MAX_NUMBER, " pixels") for unit in search.mask_units or ()),
        ("--trials", search.trials, 1, MAX_TRIALS, ""),
        ("--confirm-seeds", confirm.confirm_seeds, 2, MAX_TRIALS, ""),
        ("--look", confirm.look, 1, MAX_LOOKS, ": from the second on the level is 5 % / 2^look"),
        ("--max-concurrent", machine.max_concurrent, 1, MAX_NUMBER, ""),
    )
    for option, number, least, most, more in counts:
        if number is not None and not least <= number <= most:
            raise ConfigError(f"{option} is {number}; it must be a whole number from {least} to {most:,}{more}")
    _check_paths(options)
    _check_search(options)
    _check_confirm(confirm)
    if training.steps is not None and training.epochs is not None:
        raise ConfigError("--steps and --epochs are both given; leave one of them out")
    positive = (
        ("--learning-rate", training.learning_rate, MAX_LEARNING_RATE, ", for example 0.016"),
        ("--trial-timeout", machine.trial_timeout, MAX_SECONDS, " seconds (ten years)"),
    )
    for option, value, highest, more in positive:
        if value is not None and not 0 < value <= highest:
            raise ConfigError(f"{option} is {value:g}; it must be above 0 and at most {highest:,.0f}{more}")
    worker_range(machine.workers_per_trial)
    gpus = machine.gpus_per_trial
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ConfigError(f"--gpus-per-trial is {gpus:g}; it must be 0, a fraction up to 1, or a whole number")
    if options.output.quiet and options.output.verbose:
        raise ConfigError("--quiet and --verbose contradict each other; leave one of them out")
    if options.storage.name is not None:
        study_name(options.storage.name)


def _check_value(option: str, value: Any) -> None:
    """Refuse NaN, infinity, huge numbers, control characters and hundreds of values, whatever the option."""
    if isinstance(value, (tuple, list)):
        if len(value) > MAX_VALUES:
            raise ConfigError(f"{option} has {len(value)} values; give at most {MAX_VALUES}")
        for each in value:
            _check_value(option, each)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{option} is {value}; it must be a finite number")
    elif isinstance(value, int) and not isinstance(value, bool):
        most = MAX_SEED if option in ("--seed", "--data-seed") else MAX_NUMBER
        if abs(value) > most:
            raise ConfigError(f"{option} is {str(value)[:30]} ({len(str(value))} digits); it must be at most {most:,}")
    elif isinstance(value, str):
        if len(value) > MAX_CHARACTERS:
            raise ConfigError(f"{option} has {len(value)} characters; give at most {MAX_CHARACTERS:,}")
        if option != "--name" and any(not c.isprintable() for c in value):  # names have a stricter rule
            raise ConfigError(f"{option} is {value!r}; control characters are not allowed")


def _check_paths(options: StudyOptions) -> None:
    data = options.data
    if data.dataset is None:  # tyro reads 'None' on the command line as None
        raise ConfigError("--dataset is missing; give the name of a dataset or folder:PATH")
    if data.data_root is not None:
        user_path(data.data_root, "--data-root")
    kind, colon, path = data.dataset.partition(":")
    if colon and path:
        user_path(path, f"--dataset {kind}:")
    if not is_uri(options.storage.storage):
        user_path(options.storage.storage.removeprefix("file://"), "--storage")


def _check_search(options: StudyOptions) -> None:
    search, confirm = options.search, options.confirm
    if not search.methods:
        raise ConfigError(f"--methods is empty; allowed are {', '.join(METHODS)}")
    for method in search.methods:
        check_choice("--methods", method, METHODS)
    for name in ("strategies", "basis", "patch_sizes", "patch_strides", "mask_units"):
        values = getattr(search, name)
        if values is not None and not len(values):
            raise ConfigError(f"--{name.replace('_', '-')} is empty; give at least one value or leave it out")
    no_effect = {"none": "which explores nothing", "grid": "which runs every combination once"}
    if search.trials is not None and search.search in no_effect:
        raise ConfigError(
            f"--trials has no effect with --search {search.search}, {no_effect[search.search]}; leave it out"
        )
    of_one_method: tuple[tuple[Method, str, Any, Any], ...] = (
        ("mae", "--mae-ratios", search.mae_ratios, None),
        ("mae", "--mask-units", search.mask_units, None),
        ("mae", "--mae-ladder", confirm.mae_ladder, None),
        ("pmae", "--ladder", confirm.ladder, None),
        ("pmae", "--basis", tuple(search.basis), ("pca",)),
    )
    for method, option, value, usual in of_one_method:
        if value != usual and method not in search.methods:
            raise ConfigError(f"{option} has no effect without {method} among --methods; leave it out")
    for name in given_settings(options.training):
        if not any(has_effect(name, method) for method in search.methods):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} has no effect with --methods {' '.join(search.methods)}; leave it out")
    lists = ("ratios", "patch_sizes", "patch_strides", "mask_units", "strategies", "basis")
    combinations = len(search.methods) * math.prod(max(1, len(getattr(search, name) or ())) for name in lists)
    if combinations > MAX_TRIALS:
        raise ConfigError(
            f"--ratios, --patch-sizes, --patch-strides, --mask-units, --strategies and --basis have {combinations:,} "
            f"combinations; give fewer values, at most {MAX_TRIALS:,} combinations"
        )


def _check_confirm(confirm: ConfirmOptions) -> None:
    try:
        Margin.parse(confirm.margin)
    except StudyError:
        raise ConfigError(
            f"--margin is {confirm.margin!r}; give a fraction in (0, 1), for example 0.01, or a share, for example 10%"
        ) from None
    check_ratio(confirm.default_ratio, "--default-ratio")
    if confirm.time_budget is not None:
        if parse_duration(confirm.time_budget) > MAX_SECONDS:
            raise ConfigError(f"--time-budget is {confirm.time_budget!r}; give at most ten years, for example 2h")
        if confirm.confirm_seeds is not None:
            raise ConfigError("--confirm-seeds and --time-budget both set the number of seeds; leave one of them out")
    _check_ladder("--ladder", confirm.ladder, confirm.default_ratio)
    _check_ladder("--mae-ladder", confirm.mae_ladder, DEFAULT_RATIO["mae"])


def _check_ladder(option: str, ladder: Sequence[float] | None, default: float) -> None:
    if ladder is None:
        return
    for ratio in ladder:
        check_ratio(ratio, option)
    if len(set(ladder)) < 2:
        raise ConfigError(f"{option} has {len(set(ladder))} ratio; a ladder needs at least 2 to compare")
    if not any(abs(ratio - default) < 1e-9 for ratio in ladder):
        listed = " ".join(f"{ratio:g}" for ratio in sorted({*ladder, default}))
        raise ConfigError(
            f"{option} lacks the default {default:g}, which every ratio is compared with; use {option} {listed}"
        )


def parse_duration(text: str) -> float:
    """Parse ``90s``, ``20m``, ``2h`` or ``1.5h`` to seconds; a number without a unit is minutes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(text).strip())
    seconds = float(found[1]) * {"s": 1, "m": 60, "": 60, "h": 3600}[found[2]] if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"--time-budget is {text!r}; give a time such as 90s, 20m or 2h")
    return seconds
