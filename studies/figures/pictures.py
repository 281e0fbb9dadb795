"""Pictures of what the encoder saw: reconstruction strips, eigen-images and the spectrum of explained variance."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from studies.figures.style import COLUMN, PAGE, SMALL, percent_ticks, place_inches
from studies.views.image_strips import PANELS, Strip, as_picture, component_picture, signed_picture
from studies.views.palette import BLUE, INK, MUTED, VERMILLION

MARKED_SHARES = (0.5, 0.8, 0.95)
IMAGES = 6


def strip_figure(strip: Strip, scale: float) -> Figure:
    """A row per panel (original, visible part, visible + prediction, error), a column per image.

    Args:
        strip: The images.
        scale: The error shown in full color.
    """
    count = min(IMAGES, len(strip.original))
    left, side, top = 0.95, (PAGE - 0.95) / IMAGES, 0.28
    figure = Figure(figsize=(left + side * count, top + side * len(PANELS)))
    for row, name in enumerate(PANELS):
        y = (len(PANELS) - 1 - row) * side
        figure.text(
            0, (y + side / 2) / (top + side * len(PANELS)), strip.captions[row].replace(" ", "\n", 1), va="center"
        )
        for column in range(count):
            axes = place_inches(figure, left + column * side, y, side * 0.96, side * 0.96)
            image = getattr(strip, name)[column]
            axes.imshow(signed_picture(image, scale) if name == "error" else as_picture(image), interpolation="nearest")
            axes.set_axis_off()
    figure.text(0, 0.995, strip.title, fontsize=8, fontweight="bold", va="top")
    figure.text(1, 0.99, error_legend(scale), fontsize=SMALL, color=MUTED, ha="right", va="top")
    return figure


def error_legend(scale: float) -> str:
    """What the colors of an error mean."""
    return f"error: blue too dark, red too bright; full color at {255 * scale:.0f} of 255 gray levels"


def eigenimage_figure(eigenimages: np.ndarray, spectrum: np.ndarray | None, columns: int = 8) -> Figure:
    """The leading principal components as images (k, H, W, C), each with its share of the variance."""
    shown = eigenimages[: 3 * columns]
    rows, side = -(-len(shown) // columns), PAGE / columns
    figure = Figure(figsize=(PAGE, rows * (side + 0.16)))
    for index, image in enumerate(shown):
        row, column = divmod(index, columns)
        axes = place_inches(figure, column * side, (rows - 1 - row) * (side + 0.16), side * 0.94, side * 0.94)
        axes.imshow(component_picture(image), interpolation="nearest")
        axes.set_axis_off()
        share = "" if spectrum is None else f": {100 * spectrum[index]:.2g} %"
        axes.set_title(f"{index + 1}{share}", fontsize=SMALL, fontweight="normal", loc="center", pad=2)
    return figure


def spectrum_figure(spectrum: np.ndarray) -> Figure:
    """Running sum of the explained variance over the number of components (log axis), the usual shares marked.

    Args:
        spectrum: Explained-variance ratios (K,), falling.
    """
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
