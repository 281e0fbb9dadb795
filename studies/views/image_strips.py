"""The arrays behind a study's pictures (``samples.npz``): reading them, and turning them into displayable images.

The file holds ``eigenimages`` (k, H, W, C), ``spectrum`` (K,) and, per encoder, ``<trial id>/candidate`` (JSON of
method, ratio and patches), and ``<trial id>/original``, ``visible``, ``completed`` (uint8) and ``error`` (float32,
completed minus original in levels over 255), each (n, H, W, C).
Files of earlier versions hold ``prediction`` and ``target`` instead of the last two, and a label in place of id and
candidate.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from studies.errors import StudyError
from studies.formatting import percent
from studies.statistics.ratio_curves import METHOD_NAMES
from studies.views.palette import BLUE, VERMILLION

PANELS = ("original", "visible", "completed", "error")
CAPTIONS = {
    "pmae": ("original", "visible components", "visible + prediction", "error"),
    "mae": ("original", "visible patches", "visible + prediction", "error"),
}


@dataclass(frozen=True)
class Strip:
    """A few images reconstructed by one encoder; each array (n, H, W, C), uint8 but for the signed ``error``.

    ``candidate`` has ``method``, ``ratio``, ``patch_size``, ``patch_stride``, ``mask_unit``, ``strategy`` and
    ``basis``; it is empty in files of earlier versions whose label is not understood.
    """

    label: str
    original: np.ndarray
    visible: np.ndarray
    completed: np.ndarray
    error: np.ndarray
    candidate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The candidate in words, for example ``PMAE, 20 % masked, patch 4``; the label where it is unknown."""
        found = self.candidate
        if not found:
            return self.label
        patch = str(found["patch_size"])
        if found.get("patch_stride") not in (None, found["patch_size"]):
            patch += f" stride {found['patch_stride']}"
        if found.get("mask_unit"):
            patch += f" unit {found['mask_unit']}"
        if found.get("strategy") not in (None, "expected", "random"):
            patch += f" {found['strategy']}"
        if found.get("basis") not in (None, "pca"):
            patch += f" {found['basis']}"
        masked = "" if found.get("ratio") is None else f", {percent(found['ratio'])} masked"
        return f"{METHOD_NAMES[found['method']]}{masked}, patch {patch}"

    @property
    def captions(self) -> tuple[str, ...]:
        """A caption per panel, in the words of the method."""
        return CAPTIONS[self.candidate.get("method", "pmae")]


@dataclass(frozen=True)
class Samples:
    """What ``samples.npz`` holds; empty or None where the file has nothing of it."""

    strips: tuple[Strip, ...] = ()
    eigenimages: np.ndarray | None = None
    spectrum: np.ndarray | None = None


def read_samples(folder: Path) -> Samples:
    """The pictures' arrays of a study folder; an empty ``Samples`` where the file is missing.

    Raises:
        StudyError: the file is there but cannot be read.
    """
    path = folder / "samples.npz"
    if not path.exists():
        return Samples()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StudyError(f"{path} cannot be read ({error}); delete it: the study is intact without it") from error
    keys = [name.removesuffix("original") for name in stored if name.endswith("original")]
    strips = [strip for key in keys if (strip := _strip(key, stored)) is not None]
    return Samples(tuple(strips), stored.get("eigenimages"), stored.get("spectrum"))


def error_scale(strips: Sequence[Strip]) -> float:
    """The error (levels over 255) that all strips show in full color, so that they can be compared."""
    errors = [np.abs(strip.error).mean(axis=-1).ravel() for strip in strips]
    return max(float(np.quantile(np.concatenate(errors), 0.99)), 1e-3) if errors else 1.0


def as_picture(image: np.ndarray) -> np.ndarray:
    """A uint8 image (H, W, 1 or 3) as (H, W, 3)."""
    return np.broadcast_to(image, (*image.shape[:2], 3))


def signed_picture(image: np.ndarray, scale: float) -> np.ndarray:
    """Signed values (H, W, C), averaged over channels, as uint8 (H, W, 3): blue below zero, white at it, red above."""
    share = np.clip(np.nan_to_num(image.astype(np.float64)).mean(axis=-1, keepdims=True) / scale, -1, 1)
    low, high = (np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) for color in (BLUE, VERMILLION))
    return np.round(255 + np.abs(share) * (np.where(share < 0, low, high) - 255)).astype(np.uint8)


def component_picture(image: np.ndarray) -> np.ndarray:
    """A principal component (H, W, C) as uint8 (H, W, 3) on a diverging scale of its own, zero in the middle.

    One channel goes from blue over white to red; three are shown as colors around gray, the sign (which is arbitrary)
    chosen so that the component brightens the image.
    """
    values = np.nan_to_num(image.astype(np.float64))
    values = -values if values.sum() < 0 else values
    scale = max(float(np.abs(values).max()), 1e-12)
    if values.shape[-1] == 1:
        return signed_picture(values, scale)
    return np.round(127.5 * (1 + values / scale)).astype(np.uint8)


def _strip(key: str, stored: dict[str, np.ndarray]) -> Strip | None:
    arrays = {name: stored.get(key + name) for name in (*PANELS, "prediction")}
    original, visible, completed, error, prediction = arrays.values()
    if original is None or visible is None or (completed is None and prediction is None):
        return None
    if completed is None:  # of an earlier version: MAE's predictions were set into the image, PMAE's are deviations
        assert prediction is not None
        whole = prediction if prediction.dtype == np.uint8 else np.round(visible + 255 * prediction.astype(np.float64))
        completed = np.clip(whole, 0, 255).astype(np.uint8)
    if error is None:
        error = ((completed.astype(np.float64) - original) / 255).astype(np.float32)
    label = key.rstrip("/")
    candidate = json.loads(str(stored[f"{key}candidate"])) if f"{key}candidate" in stored else parse_label(label)
    return Strip(candidate.get("label", label), original, visible, completed, error, candidate)


def parse_label(label: str) -> dict[str, Any]:
    """The candidate that a label of earlier versions such as ``pmae r=0.20 p=4 stride 2`` names; empty if none."""
    pattern = r"(pmae|mae)(?: r=(\d*\.?\d+))? p=(\d+)(?: stride (\d+))?(?: unit (\d+))?(?: (.*))?"
    found = re.fullmatch(pattern, label)
    if found is None:
        return {}
    method, ratio, patch, stride, unit, extra = found.groups()
    return {
        "method": method,
        "ratio": None if ratio is None else float(ratio),
        "patch_size": int(patch),
        "patch_stride": None if stride is None else int(stride),
        "mask_unit": None if unit is None else int(unit),
        "strategy": extra,
    }
