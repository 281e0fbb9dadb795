"""The report's pictures: reconstruction strips and eigen-images as PNG data URIs, shown pixel by pixel."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from studies.errors import StudyError
from studies.figures.pictures import error_legend
from studies.records import Study
from studies.views.image_strips import (
    PANELS,
    Samples,
    as_picture,
    component_picture,
    error_scale,
    read_samples,
    signed_picture,
)

MAX_IMAGES, MAX_EIGENIMAGES, MAX_STRIPS = 8, 24, 12


@dataclass(frozen=True)
class PictureStrip:
    """One encoder's images: per panel its caption and PNG data URIs, one per image."""

    label: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Gallery:
    """A study's pictures; ``problem`` tells why there are none."""

    study: str
    strips: tuple[PictureStrip, ...] = ()
    legend: str = ""
    eigenimages: tuple[tuple[str, str], ...] = ()
    spectrum: np.ndarray | None = None
    problem: str | None = None


def gallery(study: Study) -> Gallery:
    """The pictures in a study's ``samples.npz``; a corrupted file becomes the gallery's ``problem``."""
    try:
        samples = read_samples(study.folder)
    except StudyError as error:
        return Gallery(study.name, problem=str(error))
    if not samples.strips and samples.eigenimages is None:
        return Gallery(study.name, spectrum=samples.spectrum, problem="no samples.npz yet: no pictures to show")
    scale = error_scale(samples.strips)
    strips = []
    for strip in samples.strips[:MAX_STRIPS]:
        rows = []
        for caption, panel in zip(strip.captions, PANELS, strict=True):
            images = getattr(strip, panel)[:MAX_IMAGES]
            shown = [signed_picture(i, scale) if panel == "error" else as_picture(i) for i in images]
            rows.append((caption, tuple(map(png_uri, shown))))
        strips.append(PictureStrip(strip.title, tuple(rows)))
    return Gallery(study.name, tuple(strips), error_legend(scale), _eigenimages(samples), samples.spectrum)


def png_uri(image: np.ndarray) -> str:
    """``image`` (H, W, 3), uint8, as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _eigenimages(samples: Samples) -> tuple[tuple[str, str], ...]:
    """(caption, data URI) of the leading components."""
    if samples.eigenimages is None:
        return ()
    shares = samples.spectrum
    return tuple(
        (f"{i + 1}" if shares is None else f"{i + 1}: {100 * shares[i]:.2g} %", png_uri(component_picture(image)))
        for i, image in enumerate(samples.eigenimages[:MAX_EIGENIMAGES])
    )
