"""Pictures of what the encoder saw: reconstruction strips, eigen-images and the spectrum of explained variance."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from studies.figures.style import percent_axis
from studies.palette import BLUE, GREY, INK, VERMILLION
from studies.samples import PANELS, Strip, as_picture

MARKED_SHARES = (0.5, 0.8, 0.95)


def strip_figure(strip: Strip, images: int = 6) -> Figure:
    """One row per image: original, visible part, prediction, target of the loss."""
    rows = min(images, len(strip.original))
    figure = Figure(figsize=(1.35 * len(PANELS), 1.35 * rows + 0.5))
    grid = figure.subplots(rows, len(PANELS), squeeze=False)
    for column, name in enumerate(PANELS):
        for row in range(rows):
            axes = grid[row, column]
            axes.imshow(as_picture(getattr(strip, name)[row]), interpolation="nearest")
            axes.set_axis_off()
        grid[0, column].set_title(strip.captions[column], fontsize=9, fontweight="normal", loc="center")
    if strip.label:
        figure.suptitle(strip.title, fontsize=10.5, fontweight="bold")
    return figure


def eigenimage_figure(eigenimages: np.ndarray, spectrum: np.ndarray | None, columns: int = 8) -> Figure:
    """The leading principal components as images (k, H, W, C), each with its share of the variance."""
    shown = eigenimages[: 3 * columns]
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.15 * columns, 1.42 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if index < len(shown):
            axes.imshow(as_picture(shown[index]), interpolation="nearest")
            share = "" if spectrum is None else f"  {100 * spectrum[index]:.2g} %"
            axes.set_title(f"{index + 1}{share}", fontsize=8.5, fontweight="normal", loc="center", pad=3)
    return figure


def spectrum_figure(spectrum: np.ndarray) -> Figure:
    """Explained variance of each component (log-log), and their running sum with the usual shares marked.

    Args:
        spectrum: Explained-variance ratios (K,), falling.
    """
    ranks = np.arange(1, len(spectrum) + 1)
    figure = Figure(figsize=(8.4, 3.3))
    left, right = figure.subplots(1, 2)
    positive = spectrum > 0  # constant pixels leave components without variance: no place on a log axis
    left.loglog(ranks[positive], spectrum[positive], color=BLUE, lw=1.8)
    left.set_title("Explained variance")
    left.set_xlabel("principal component")
    left.set_ylabel("share of the variance")
    left.set_ylim(bottom=max(spectrum[positive].min(), spectrum.max() * 1e-6) / 2)
    running = np.cumsum(spectrum)
    right.semilogx(ranks, running, color=BLUE, lw=1.8)
    right.set_title("Running sum")
    right.set_xlabel("principal components taken together")
    right.set_ylim(0, 1.04)
    percent_axis(right.yaxis, 0)
    for axes in (left, right):
        axes.xaxis.set_major_formatter("{x:g}")
    for share in MARKED_SHARES:
        count = int(np.searchsorted(running, share)) + 1
        if count <= len(spectrum):
            reached = running[count - 1]
            right.plot([count, count], [0, reached], color=GREY, lw=0.8, ls=(0, (3, 2)))
            right.plot(count, reached, "o", color=VERMILLION, ms=5)
            right.annotate(
                f"{100 * share:g} % in {count}", (count, reached), xytext=(6, -11),
                textcoords="offset points", fontsize=8.5, color=INK,
            )  # fmt: skip
    return figure
