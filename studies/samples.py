"""The arrays behind a study's pictures (``samples.npz``): reading them, and turning them into displayable images.

The file holds ``eigenimages`` (k, H, W, C), ``spectrum`` (K,) and, per encoder, ``original, visible, prediction,
target`` (n, H, W, C), plainly named or prefixed as ``<label>/original``. uint8 is shown as it is; floats that leave
[0, 1] are signed deviations, shown with zero as mid-grey.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from studies.curves import METHOD_NAMES
from studies.errors import StudyError
from studies.sentences import percent

PANELS = ("original", "visible", "prediction", "target")
CAPTIONS = {
    "pmae": ("original", "visible components", "prediction", "masked components"),
    "mae": ("original", "visible patches", "prediction", "masked patches"),
}


@dataclass(frozen=True)
class Strip:
    """A few images as one encoder met them; each array (n, H, W, C)."""

    label: str
    original: np.ndarray
    visible: np.ndarray
    prediction: np.ndarray
    target: np.ndarray

    @property
    def title(self) -> str:
        """The label in words: ``pmae r=0.20 p=4`` becomes ``PMAE, 20 % masked, patch 4``; others stay as they are."""
        found = re.fullmatch(r"(pmae|mae)(?: r=(\d*\.?\d+))? p=(\d.*)", self.label)
        if found is None:
            return self.label
        method, ratio, patch = found.groups()
        masked = "" if ratio is None else f", {percent(float(ratio))} masked"
        return f"{METHOD_NAMES[method]}{masked}, patch {patch}"

    @property
    def captions(self) -> tuple[str, ...]:
        """A caption per panel, in the words of the method that the label names."""
        return CAPTIONS["mae" if self.label.lower().startswith("mae") else "pmae"]


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
        raise StudyError(f"{path} cannot be read ({error}); delete it: the study is whole without it") from error
    labels = [name.removesuffix("original") for name in stored if name.endswith("original")]
    strips = [
        Strip(label.rstrip("/"), *(stored[label + panel] for panel in PANELS))
        for label in labels
        if all(label + panel in stored for panel in PANELS)
    ]
    return Samples(tuple(strips), stored.get("eigenimages"), stored.get("spectrum"))


def as_picture(image: np.ndarray) -> np.ndarray:
    """``image`` (H, W, 1 or 3) as uint8 (H, W, 3)."""
    if image.dtype != np.uint8:
        values = np.nan_to_num(image.astype(np.float64))
        low, high = values.min(), values.max()
        if low < 0 or high > 1:
            values = 0.5 + 0.5 * values / max(abs(low), abs(high), 1e-12)
        image = np.round(255 * values).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))
