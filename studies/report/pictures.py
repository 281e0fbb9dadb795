"""The report's pictures: reconstruction strips and eigen-images as PNG data URIs, shown pixel by pixel."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from studies.errors import StudyError
from studies.records import Study
from studies.samples import PANELS, Samples, as_picture, read_samples

MOST_IMAGES, MOST_EIGENIMAGES, MOST_STRIPS = 6, 24, 12


@dataclass(frozen=True)
class PictureStrip:
    """One encoder's images: a caption per column, and rows of PNG data URIs."""

    label: str
    captions: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Gallery:
    """A study's pictures; ``problem`` tells why there are none."""

    study: str
    strips: tuple[PictureStrip, ...] = ()
    eigenimages: tuple[tuple[str, str], ...] = ()
    spectrum: np.ndarray | None = None
    problem: str | None = None


def gallery(study: Study) -> Gallery:
    """The pictures in a study's ``samples.npz``; a damaged file becomes the gallery's ``problem``."""
    try:
        samples = read_samples(study.folder)
    except StudyError as error:
        return Gallery(study.name, problem=str(error))
    if not samples.strips and samples.eigenimages is None:
        return Gallery(study.name, spectrum=samples.spectrum, problem="no samples.npz yet: no pictures to show")
    strips = []
    for strip in samples.strips[:MOST_STRIPS]:
        count = min(MOST_IMAGES, len(strip.original))
        rows = tuple(tuple(png_uri(getattr(strip, panel)[i]) for panel in PANELS) for i in range(count))
        strips.append(PictureStrip(strip.title, strip.captions, rows))
    return Gallery(study.name, tuple(strips), _eigenimages(samples), samples.spectrum)


def png_uri(image: np.ndarray) -> str:
    """``image`` (H, W, 1 or 3) as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(as_picture(image))).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _eigenimages(samples: Samples) -> tuple[tuple[str, str], ...]:
    """(caption, data URI) of the leading components."""
    if samples.eigenimages is None:
        return ()
    shares = samples.spectrum
    return tuple(
        (f"{i + 1}" if shares is None else f"{i + 1}: {100 * shares[i]:.2g} %", png_uri(image))
        for i, image in enumerate(samples.eigenimages[:MOST_EIGENIMAGES])
    )
