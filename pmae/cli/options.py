"""What a user can ask of ``python -m pmae``: one dataclass per command, grouped as its help is, read by tyro.

Values are checked by the settings they become (``config``) and by the functions that they are given to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
from tyro.conf import Positional

from pmae.config import Basis, Method, Precision, Preset

Pool = Literal["cls", "mean", "both"]
Kind = Literal["linear", "mlp", "knn", "finetune", "corruptions"]
KINDS: tuple[str, ...] = get_args(Kind)
PRESET = "the preset's"
Saved = Annotated[Positional[Path], tyro.conf.arg(metavar="FOLDER")]


def said(metavar: str, default: str) -> Any:
    """How an option is shown whose default is worked out later."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class DataOptions:
    """Which images."""

    dataset: str = "digits"
    """digits (nothing to download), cifar10, tinyimagenet, a 2-D MedMNIST name such as bloodmnist, folder:PATH
    (one sub-folder per class), parquet:PATH (a file, a glob or a folder) or npz:PATH."""
    data_root: Annotated[str | None, said("DIR", "the user's cache")] = None
    """Folder for downloads."""
    image_size: Annotated[int | None, said("PIXELS", "that of the images")] = None
    """Resize images to this many pixels a side; needed when they differ in size."""
    limit: Annotated[int | None, said("N", "all")] = None
    """Use at most this many training images, class-balanced."""
    data_seed: int = 0
    """Seed of the held-out validation split and of --limit."""
    skip_unreadable: bool = False
    """Leave out files that are no readable image instead of stopping at the first one."""


@dataclass(frozen=True)
class SavedDataOptions:
    """Which images; resized to what the encoder was trained on."""

    dataset: Annotated[str | None, said("SOURCE", "what the encoder was trained on")] = None
    """digits, cifar10, tinyimagenet, a 2-D MedMNIST name, folder:PATH, parquet:PATH or npz:PATH."""
    data_root: Annotated[str | None, said("DIR", "the user's cache")] = None
    """Folder for downloads."""
    limit: Annotated[int | None, said("N", "all; the training's for the data it was trained on")] = None
    """Use at most this many training images, class-balanced."""
    data_seed: Annotated[int | None, said("N", "0; the training's for the data it was trained on")] = None
    """Seed of the held-out validation split and of --limit."""
    skip_unreadable: bool = False
    """Leave out files that are no readable image instead of stopping at the first one."""


@dataclass(frozen=True)
class MaskingOptions:
    """What is masked."""

    method: Method = "pmae"
    """pmae masks principal components, mae masks patches."""
    ratio: Annotated[float | None, said("RATIO", "0.2 for pmae, 0.75 for mae")] = None
    """Masked share, a fraction: of the variance (pmae) or of the patches (mae)."""
    ratio_range: Annotated[tuple[float, float] | None, said("LOW HIGH", "none")] = None
    """Draw the ratio instead: per image (pmae, with --strategy sampled) or per batch (mae)."""
    strategy: Annotated[str | None, said("NAME", "expected for pmae, random for mae")] = None
    """pmae: expected fixed sampled tvb bvt released; mae: random block grid."""
    per: Annotated[Literal["image", "batch"] | None, said("{image,batch}", "image")] = None
    """One mask per image or per batch."""
    loss: Annotated[Literal["components", "pixels"] | None, said("{components,pixels}", "components")] = None
    """pmae: compare masked components (Eq. 3.1) or pixels (Eq. A.1)."""
    basis: Annotated[Basis | None, said("{pca,dct,wavelet,rotation,pixel}", "pca")] = None
    """pmae: orthonormal basis whose coordinates are masked."""
    mask_unit: Annotated[int | None, said("PIXELS", "the patch size")] = None
    """mae: side of the squares that are masked together."""
    normalize_target: bool = False
    """mae: standardize each target patch by its own mean and variance."""


@dataclass(frozen=True)
class ModelOptions:
    """Shapes of encoder and decoder."""

    patch_size: Annotated[int | None, said("PIXELS", PRESET)] = None
    """Side of a patch; must divide the image and leave at least 4 patches."""
    patch_stride: Annotated[int | None, said("PIXELS", "the patch size")] = None
    """Pixels between neighbouring patches; below the patch size they overlap."""
    encoder: Annotated[str | None, said("NAME", PRESET)] = None
    """vit_tiny, vit_small, vit_base or the name of a timm vision transformer."""
    width: Annotated[int | None, said("N", PRESET)] = None
    """Encoder width."""
    depth: Annotated[int | None, said("N", PRESET)] = None
    """Encoder blocks."""
    heads: Annotated[int | None, said("N", PRESET)] = None
    """Encoder attention heads."""
    mlp_ratio: Annotated[float | None, said("X", PRESET)] = None
    """Hidden width of the MLPs over the width."""
    decoder_width: Annotated[int | None, said("N", PRESET)] = None
    """Decoder width."""
    decoder_depth: Annotated[int | None, said("N", PRESET)] = None
    """Decoder blocks."""
    decoder_heads: Annotated[int | None, said("N", PRESET)] = None
    """Decoder attention heads."""
    position: Annotated[Literal["learned", "sincos"] | None, said("{learned,sincos}", PRESET)] = None
    """Position embeddings."""
    pool: Annotated[Literal["cls", "mean"] | None, said("{cls,mean}", PRESET)] = None
    """What probes read: the class token or the mean of the patch tokens."""


@dataclass(frozen=True)
class TrainingOptions:
    """How the model is trained. The preset gives what is left out."""

    preset: Preset = "quick"
    """quick: a small model and a short schedule; paper: the PMAE paper's ViT-Tiny and 800 epochs."""
    epochs: Annotated[int | None, said("N", PRESET)] = None
    """Passes over the training images."""
    batch_size: Annotated[int | None, said("N", PRESET)] = None
    """Images per step."""
    learning_rate: Annotated[float | None, said("X", PRESET)] = None
    """Learning rate at batch 256."""
    warmup_epochs: Annotated[float | None, said("N", PRESET)] = None
    """Epochs of linear warm-up."""
    weight_decay: Annotated[float | None, said("X", PRESET)] = None
    """AdamW's weight decay."""
    clip_grad_norm: Annotated[float | None, said("X", "none")] = None
    """Largest gradient norm."""
    crop_scale: Annotated[tuple[float, float] | None, said("LOW HIGH", PRESET)] = None
    """Share of the area that a random crop keeps; 1 1 turns crops off."""
    flip: Annotated[Literal["on", "off"] | None, said("{on,off}", PRESET)] = None
    """Whether half of the images are mirrored."""
    seed: int = 0
    """Fixes initialization, order, augmentation and masks."""


@dataclass(frozen=True)
class MachineOptions:
    """What to run on."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """auto is bf16 where the device gains from it."""


@dataclass(frozen=True)
class PrintOptions:
    """What is printed."""

    json: bool = False
    """Print the result as JSON."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class PretrainOptions:
    """Pre-train one model and save it: encoder, decoder, components, history."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the model; it must not hold one yet."""
    resume: bool = False
    """Go on from the checkpoints of an interrupted run in --out."""
    data: DataOptions = field(default_factory=DataOptions)
    masking: MaskingOptions = field(default_factory=MaskingOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
    printing: PrintOptions = field(default_factory=PrintOptions)


@dataclass(frozen=True)
class ProbeOptions:
    """Score a saved encoder: settings are chosen on the validation split, the test split is scored once."""

    encoder: Saved
    """Folder that 'pretrain' or save_encoder() wrote."""
    kind: Kind = "linear"
    """linear, mlp (two hidden layers), knn, finetune (the whole encoder), corruptions (linear, on corrupted images)."""
    protocol: Annotated[Literal["fast", "paper"] | None, said("{fast,paper}", "fast")] = None
    """linear: fast (cached features, a grid of L2 strengths) or paper (SGD on raw features, 100 epochs)."""
    pool: Annotated[Pool | None, said("{cls,mean,both}", "the encoder's")] = None
    """Read the class token, the mean of the patch tokens, or (linear) both."""
    k: Annotated[int | None, said("N", "20")] = None
    """knn: neighbours that vote."""
    epochs: Annotated[int | None, said("N", "50 for mlp, 100 for finetune")] = None
    """mlp, finetune: passes over the training images."""
    layer_decay: Annotated[float | None, said("X", "none")] = None
    """finetune: factor of the learning rate from each block to the one below."""
    severity: Annotated[int | None, said("1-5", "3")] = None
    """corruptions: how strong they are."""
    augment: bool = False
    """finetune and linear with --protocol paper: crop and flip the training images as in pre-training."""
    skip_test: bool = False
    """Leave the test split unread."""
    seed: int = 0
    """Of initialization, order and noise."""
    data: SavedDataOptions = field(default_factory=SavedDataOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
    printing: PrintOptions = field(default_factory=PrintOptions)


@dataclass(frozen=True)
class ComponentsOptions:
    """Fit the components of a data set (cached) and show how its variance is spread over them."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the components to this safetensors file."""
    basis: Basis = "pca"
    """pca, dct, wavelet, rotation or pixel."""
    data: DataOptions = field(default_factory=DataOptions)
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    printing: PrintOptions = field(default_factory=PrintOptions)


@dataclass(frozen=True)
class FeaturesOptions:
    """Write an encoder's features of every image, with labels, for use elsewhere."""

    encoder: Saved
    """Folder that 'pretrain' or save_encoder() wrote."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """A .npz file (<split>_features, <split>_labels) or a .parquet file (columns split, label, features)."""
    splits: tuple[str, ...] = ("train", "val", "test")
    """Splits to write."""
    pool: Annotated[Literal["cls", "mean"] | None, said("{cls,mean}", "the encoder's")] = None
    """The class token or the mean of the patch tokens."""
    data: SavedDataOptions = field(default_factory=SavedDataOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
    printing: PrintOptions = field(default_factory=PrintOptions)


@dataclass(frozen=True)
class ReconstructOptions:
    """Mask images as in training, let the model fill them in, draw a few and measure SSIM and PSNR on a split."""

    model: Saved
    """Folder that 'pretrain' wrote."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture to write, for example strip.png."""
    split: Literal["train", "val", "test"] = "val"
    """Split whose images are reconstructed."""
    pictures: int = 8
    """Images to draw."""
    seed: int = 0
    """Of the masks."""
    data: SavedDataOptions = field(default_factory=SavedDataOptions)
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    printing: PrintOptions = field(default_factory=PrintOptions)


Command = (
    Annotated[PretrainOptions, tyro.conf.subcommand("pretrain")]
    | Annotated[ProbeOptions, tyro.conf.subcommand("probe")]
    | Annotated[ComponentsOptions, tyro.conf.subcommand("components")]
    | Annotated[FeaturesOptions, tyro.conf.subcommand("features")]
    | Annotated[ReconstructOptions, tyro.conf.subcommand("reconstruct")]
)
