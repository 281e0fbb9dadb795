"""The options of ``python -m pmae``: one dataclass per command, read by tyro.

Settings of a run are declared once, in ``pmae.config``; :func:`settings_options` makes options of them with the same
names and help. Values are checked by the settings and by the functions that receive them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from docstring_parser import parse_from_object
from tyro.conf import Positional
from tyro.constructors import PrimitiveConstructorSpec

from pmae.config import (
    SECTIONS,
    SETTINGS,
    Basis,
    DataConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    Pool,
    Preset,
    preset,
)
from pmae.presets import PRESETS

ProbedPool = Literal["cls", "mean", "concat", "both"]
Kind = Literal["linear", "mlp", "knn", "finetune", "corruptions"]
Saved = Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]
ON_OFF = PrimitiveConstructorSpec(
    nargs=1,
    metavar="{on,off}",
    instance_from_str=lambda words: words[0] == "on",
    is_instance=lambda value: value is None or isinstance(value, bool),
    str_from_instance=lambda value: ["on" if value else "off"],
    choices=("on", "off"),
)
METAVARS = {int: "N", float: "X", str: "NAME", bool: "{on,off}"}


def shown_default(metavar: str, default: str) -> Any:
    """Show ``default`` in the help of an option whose default is computed later."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def settings_options(
    name: str, *sections: type, without: Collection[str] = (), only: Collection[str] = (), keep: Collection[str] = ()
) -> Any:
    """Make a frozen dataclass of options from the settings in sections of ``pmae.config``; what is not given is None.

    Settings ``without`` are left out; with ``only`` no others are taken; those to ``keep`` have the section's default.
    """
    fields: list[tuple[str, Any, Any]] = []
    texts: dict[str, str] = {}
    for kind in sections:
        hints, docs = get_type_hints(kind), field_docs(kind)
        section = next(s for s, known in SECTIONS.items() if known is kind)
        for f in dataclasses.fields(kind):
            if SETTINGS.get(f.name) != f"{section}.{f.name}" or f.name in without or (only and f.name not in only):
                continue
            kinds = get_args(hints[f.name])
            hint = next(t for t in kinds if t is not type(None)) if type(None) in kinds else hints[f.name]
            default = f.default if f.name in keep else None
            shown = tyro.conf.arg(
                metavar=_metavar(hint), help=docs[f.name], help_behavior_hint=_default_text(section, f.name)
            )
            option = Annotated[hint | None, ON_OFF, shown] if hint is bool else Annotated[hint | None, shown]
            texts[f.name] = docs[f.name]
            fields.append((f.name, option, field(default=default)))
    return dataclasses.make_dataclass(name, fields, frozen=True, namespace={"_docs": texts})


def given_settings(*groups: Any) -> dict[str, Any]:
    """Return the settings that were given in option groups, by name."""
    found = {f.name: getattr(group, f.name) for group in groups for f in dataclasses.fields(group)}
    return {name: value for name, value in found.items() if name in SETTINGS and value is not None}


def options_of(owner: Any) -> dict[str, tuple[type, Any]]:
    """Every option of a class of options and of its groups by name: the class that declares it, and its default."""
    found: dict[str, tuple[type, Any]] = {}
    for f in dataclasses.fields(owner):
        if f.default_factory is dataclasses.MISSING:
            kind = owner if isinstance(owner, type) else type(owner)
            found[f.name] = (kind, getattr(owner, f.name, dataclasses.MISSING))
        else:
            found |= options_of(f.default_factory())
    return found


def option_words(value: Any) -> list[str]:
    """Return a value as words of a command line."""
    if isinstance(value, bool):
        return ["on" if value else "off"]
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


def field_docs(kind: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, each as one line."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        own = {} if "_docs" in vars(base) else {p.arg_name: p.description for p in parse_from_object(base).params}
        docs |= vars(base).get("_docs") or {name: " ".join(str(text).split()) for name, text in own.items()}
    return docs


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    return " ".join(METAVARS[t] for t in get_args(hint) or (hint,))


def _default_text(section: str, name: str) -> str:
    values = {p: getattr(getattr(preset(p), section), name) for p in PRESETS}
    known = {p: " ".join(option_words(value)) for p, value in values.items() if value is not None}
    if len(known) == len(values) and len(set(known.values())) == 1:
        return f"(default: {next(iter(known.values()))})"
    recipes = {value: " and ".join(p for p in known if known[p] == value) for value in known.values()}
    return f"(default: {', '.join(f'{value} in {names}' for value, names in recipes.items())})" if known else ""


_Images: Any = settings_options("_Images", DataConfig, without=("crop_scale", "flip"), keep=("dataset",))
_SavedImages: Any = settings_options("_SavedImages", DataConfig, without=("crop_scale", "flip", "image_size"))
_Masking: Any = settings_options("_Masking", MaskingConfig)
_Model: Any = settings_options("_Model", ModelConfig)
_Optim: Any = settings_options("_Optim", OptimConfig)
_Precision: Any = settings_options("_Precision", OptimConfig, only=("precision",), keep=("precision",))
Augmentation: Any = settings_options("Augmentation", DataConfig, only=("crop_scale", "flip"))


@dataclass(frozen=True)
class _SkipOption:
    skip_unreadable: bool = False
    """Leave out files that cannot be read as images instead of stopping at the first one."""


@dataclass(frozen=True)
class DataOptions(_SkipOption, _Images):
    """Images to use."""


@dataclass(frozen=True)
class SavedDataOptions(_SkipOption, _SavedImages):
    """Images to use, resized to the encoder's size. By default those that it was trained on, with the limit and the
    split of its training."""


@dataclass(frozen=True)
class MaskingOptions(_Masking):
    """Masking."""


@dataclass(frozen=True)
class ModelOptions(_Model):
    """Shape of encoder and decoder."""


@dataclass(frozen=True)
class PresetOption:
    """Recipe."""

    preset: Preset = "quick"
    """Recipe for all settings that are not given. quick: a small model and a short schedule that order ratios within
    seconds a trial; paper: the PMAE paper's ViT-Tiny and 800 epochs; released-code: the same with what its released
    code does differently."""


@dataclass(frozen=True)
class TrainingOptions(Augmentation, _Optim, PresetOption):
    """Training."""

    seed: int = 0
    """Random seed for initialization, data order, augmentation and masks."""


@dataclass(frozen=True)
class DeviceOptions:
    """Device to run on."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class MachineOptions(_Precision, DeviceOptions):
    """Device and precision to run with."""


@dataclass(frozen=True)
class PrintOptions:
    """Output."""

    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class PretrainOptions:
    """Pre-train one model and save it: encoder, decoder, components, history."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the model; it must not contain one yet."""
    resume: bool = False
    """Resume from the checkpoints of an interrupted run in --out."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """YAML or JSON file with any of these options by name, flat or in sections; the command line takes precedence."""
    machine: DeviceOptions = field(default_factory=DeviceOptions)
    data: DataOptions = field(default_factory=DataOptions)
    masking: MaskingOptions = field(default_factory=MaskingOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    printing: PrintOptions = field(default_factory=PrintOptions)


@dataclass(frozen=True)
class ProbeOptions:
    """Score a saved encoder: settings are chosen on the validation split, the test split is scored once."""

    encoder: Saved
    """Folder that 'pretrain' or save_encoder() wrote."""
    kind: Kind = "linear"
    """linear, mlp (two hidden layers), knn, finetune (the whole encoder), corruptions (linear, on corrupted images)."""
    protocol: Annotated[Literal["fast", "paper"] | None, shown_default("{fast,paper}", "fast")] = None
    """linear: fast (cached features, a grid of L2 penalties) or paper (SGD on raw features, 100 epochs)."""
    pool: Annotated[ProbedPool | None, shown_default("{cls,mean,concat,both}", "the encoder's")] = None
    """Features to read: cls, mean, concat (both in one vector), or both (linear: one probe each)."""
    k: Annotated[int | None, shown_default("N", "20")] = None
    """knn: neighbors that vote."""
    epochs: Annotated[int | None, shown_default("N", "50 for mlp, 100 for finetune")] = None
    """mlp, finetune: passes over the training images."""
    layer_decay: Annotated[float | None, shown_default("X", "none")] = None
    """finetune: factor of the learning rate from each block to the one below."""
    severity: Annotated[int | None, shown_default("1-5", "3")] = None
    """corruptions: severity."""
    augment: bool = False
    """finetune and linear with --protocol paper: crop and flip the training images as in pre-training."""
    skip_test: bool = False
    """Do not score the test split."""
    seed: int = 0
    """Random seed for initialization, data order and noise."""
    data: SavedDataOptions = field(default_factory=SavedDataOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
    printing: PrintOptions = field(default_factory=PrintOptions)


@dataclass(frozen=True)
class ComponentsOptions:
    """Fit the components of a dataset (cached) and show how its variance is spread over them."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the components to this safetensors file."""
    basis: Basis = "pca"
    """pca, dct, wavelet, rotation or pixel."""
    data: DataOptions = field(default_factory=DataOptions)
    machine: DeviceOptions = field(default_factory=DeviceOptions)
    printing: PrintOptions = field(default_factory=PrintOptions)


@dataclass(frozen=True)
class FeaturesOptions:
    """Write the features of every image, with labels, for use in other programs."""

    encoder: Saved
    """Folder that 'pretrain' or save_encoder() wrote."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """A .npz file (<split>_features, <split>_labels) or a .parquet file (columns split, label, features)."""
    splits: tuple[str, ...] = ("train", "val", "test")
    """Splits to write."""
    pool: Annotated[Pool | None, shown_default("{cls,mean,concat}", "the encoder's")] = None
    """Read the class token, the mean of the patch tokens, or both in one vector."""
    data: SavedDataOptions = field(default_factory=SavedDataOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
    printing: PrintOptions = field(default_factory=PrintOptions)


@dataclass(frozen=True)
class ReconstructOptions:
    """Reconstruct masked images of a split: draw a few, and measure SSIM and PSNR over all."""

    model: Saved
    """Folder that 'pretrain' wrote."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture to write: .png, .pdf or .svg."""
    split: Literal["train", "val", "test"] = "val"
    """Split whose images are reconstructed."""
    pictures: int = 8
    """Images to draw."""
    seed: int = 0
    """Random seed for mask sampling."""
    data: SavedDataOptions = field(default_factory=SavedDataOptions)
    machine: DeviceOptions = field(default_factory=DeviceOptions)
    printing: PrintOptions = field(default_factory=PrintOptions)


Command = (
    Annotated[PretrainOptions, tyro.conf.subcommand("pretrain")]
    | Annotated[ProbeOptions, tyro.conf.subcommand("probe")]
    | Annotated[ComponentsOptions, tyro.conf.subcommand("components")]
    | Annotated[FeaturesOptions, tyro.conf.subcommand("features")]
    | Annotated[ReconstructOptions, tyro.conf.subcommand("reconstruct")]
)
