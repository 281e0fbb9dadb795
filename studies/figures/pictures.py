"""Pictures of what the encoder saw (``samples.npz``): reconstruction strips, eigen-images, the explained variance.

The file holds ``eigenimages`` (k, H, W, C), ``spectrum`` (K,) and, per encoder, ``<trial id>/candidate`` (JSON of
label, method, ratio and patches), and ``<trial id>/original``, ``visible``, ``completed`` (uint8) and ``error``
(float32, completed minus original in levels over 255), each (n, H, W, C).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.errors import StudyError
from studies.figures.palette import BLUE, INK, MUTED, VERMILLION
from studies.figures.style import COLUMN, PAGE, SMALL, percent_ticks, place_inches
from studies.formatting import method_name, percent
from studies.statistics.ratio_curves import Setting

MARKED_SHARES = (0.5, 0.8, 0.95)
IMAGES, EIGENIMAGES, COLUMNS = 6, 16, 8  # as many as tune/trial/image_strips.py writes


@dataclass(frozen=True)
class Strip:
    """A few images reconstructed by one encoder; each array (n, H, W, C), uint8 but for the signed ``error``.

    ``candidate`` has ``label``, ``method``, ``ratio``, ``patch_size``, ``patch_stride``, ``mask_unit``, ``strategy``
    and ``basis``.
    """

    candidate: Mapping[str, Any]
    original: np.ndarray
    visible: np.ndarray
    completed: np.ndarray
    error: np.ndarray

    @property
    def title(self) -> str:
        """The candidate in words, for example ``PMAE, 20 % masked, patch 4``."""
        ratio, setting = self.candidate.get("ratio"), Setting.of(self.candidate)
        masked = [] if ratio is None else [f"{percent(ratio)} masked"]
        usual = (None, "expected", "random", "pca")
        special = [name for name in (setting.strategy, setting.basis) if name is not None and name not in usual]
        return ", ".join([method_name(setting.method), *masked, *setting.sides(), *special])

    def panels(self, scale: float) -> list[tuple[str, list[np.ndarray]]]:
        """Per panel its caption and images (H, W, 3), uint8; ``scale`` is the error that has the full color."""
        visible = "visible patches" if self.candidate["method"] == "mae" else "visible components"
        images = {"original": self.original, visible: self.visible, "visible + prediction": self.completed}
        # Images with one channel are shown as gray.
        panels = [(name, [np.broadcast_to(i, (*i.shape[:2], 3)) for i in found]) for name, found in images.items()]
        return [*panels, ("error", [signed_picture(image, scale) for image in self.error])]


@dataclass(frozen=True)
class Samples:
    """What ``samples.npz`` holds; empty or None where the file has nothing of it."""

    strips: tuple[Strip, ...] = ()
    eigenimages: np.ndarray | None = None
    spectrum: np.ndarray | None = None

    def captioned_eigenimages(self) -> list[tuple[str, np.ndarray]]:
        """``1: 26 %`` and a picture of the component, for each of the leading ones."""
        images = () if self.eigenimages is None else self.eigenimages[:EIGENIMAGES]
        shares = self.spectrum
        captions = [f"{i + 1}" if shares is None else f"{i + 1}: {100 * shares[i]:.2g} %" for i in range(len(images))]
        return [(caption, component_picture(image)) for caption, image in zip(captions, images, strict=True)]


def read_samples(folder: Path) -> Samples:
    """The pictures' arrays of a study folder; empty where the file is missing, a StudyError if it is corrupted."""
    path = folder / "samples.npz"
    if not path.exists():
        return Samples()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        keys = [name.removesuffix("candidate") for name in stored if name.endswith("/candidate")]
        parts = ("original", "visible", "completed", "error")
        strips = [Strip(json.loads(str(stored[f"{k}candidate"])), *(stored[k + part] for part in parts)) for k in keys]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StudyError(f"{path} cannot be read ({error}); delete it: the study is intact without it") from error
    return Samples(tuple(strips), stored.get("eigenimages"), stored.get("spectrum"))


def error_scale(strips: Sequence[Strip]) -> float:
    """The error (levels over 255) that all strips show in full color, so that they can be compared."""
    errors = [np.abs(strip.error).mean(axis=-1).ravel() for strip in strips]
    return max(float(np.quantile(np.concatenate(errors), 0.99)), 1e-3) if errors else 1.0


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


def strip_figure(strip: Strip, scale: float) -> Figure:
    """A row per panel of ``strip.panels(scale)``, a column per image."""
    count = min(IMAGES, len(strip.original))
    left, side, top = 0.95, (PAGE - 0.95) / IMAGES, 0.28
    panels = strip.panels(scale)
    height = top + side * len(panels)
    figure = Figure(figsize=(left + side * count, height))
    for row, (caption, images) in enumerate(panels):
        y = (len(panels) - 1 - row) * side
        figure.text(0, (y + side / 2) / height, caption.replace(" ", "\n", 1), va="center")
        for column in range(count):
            _show(figure, images[column], left + column * side, y, side * 0.96)
    figure.text(0, 0.995, strip.title, fontsize=8, fontweight="bold", va="top")
    figure.text(1, 0.99, error_legend(scale), fontsize=SMALL, color=MUTED, ha="right", va="top")
    return figure


def _show(figure: Figure, image: np.ndarray, left: float, bottom: float, side: float) -> Axes:
    axes = place_inches(figure, left, bottom, side, side)
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()
    return axes


def error_legend(scale: float) -> str:
    """What the colors of an error mean."""
    return f"error: blue too dark, red too bright; full color at {255 * scale:.0f} of 255 gray levels"


def eigenimage_figure(samples: Samples) -> Figure:
    """The leading principal components as images, each with its share of the variance."""
    shown = samples.captioned_eigenimages()
    rows, side = -(-len(shown) // COLUMNS), PAGE / COLUMNS
    figure = Figure(figsize=(PAGE, rows * (side + 0.16)))
    for index, (caption, image) in enumerate(shown):
        row, column = divmod(index, COLUMNS)
        axes = _show(figure, image, column * side, (rows - 1 - row) * (side + 0.16), side * 0.94)
        axes.set_title(caption, fontsize=SMALL, fontweight="normal", loc="center", pad=2)
    return figure


def spectrum_figure(spectrum: np.ndarray) -> Figure:
    """Running sum of the explained-variance ratios (K,) over the number of components (log axis)."""
    figure = Figure(figsize=(COLUMN, 1.9))
    axes = place_inches(figure, 0.42, 0.4, COLUMN - 0.62, 1.25)
    running = np.cumsum(spectrum)
    kept = np.unique(np.geomspace(1, len(spectrum), 300).round().astype(int))
    axes.semilogx(kept, running[kept - 1], color=BLUE)
    axes.set_title("Variance held by the leading components", pad=4)
    axes.set_xlabel("leading principal components")
    axes.set_ylim(0, 1.04)
    axes.set_xlim(1, len(spectrum))
    axes.xaxis.set_major_formatter("{x:g}")
    percent_ticks(axes.yaxis)
    for share in MARKED_SHARES:
        number = int(np.searchsorted(running, share)) + 1
        if number <= len(spectrum):
            axes.plot([number] * 2, [0, running[number - 1]], color=MUTED, lw=0.6, ls=(0, (3, 2)))
            axes.plot(number, running[number - 1], "o", color=VERMILLION, ms=3)
            axes.annotate(f"{100 * share:g} % in {number}", (number, running[number - 1]), xytext=(4, -8),
                          textcoords="offset points", fontsize=SMALL, color=INK)  # fmt: skip
    return figure
