"""Colours and markers of figures and report alike, so that a method looks the same everywhere.

The colours are those of Okabe & Ito (2008), which survive colour blindness; markers tell apart what colour cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from studies.curves import Setting

BLUE, SKY, GREEN, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#CC79A7"
VERMILLION, ORANGE, INK, GREY = "#D55E00", "#E69F00", "#1a1a1a", "#8a8a8a"
METHOD_COLOURS = {"pmae": (BLUE, SKY, GREEN, PURPLE), "mae": (VERMILLION, ORANGE, PURPLE, INK)}
VERDICT_COLOURS = {"holds": GREEN, "fails": VERMILLION, "inconclusive": GREY}
# Marker names of matplotlib and of Plotly: shape tells settings apart where colour cannot.
MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("P", "cross"),
)


class SeriesStyle(NamedTuple):
    """Colour (hex) and marker (matplotlib's, Plotly's) of one setting."""

    colour: str
    marker: str
    plotly_marker: str


def series_styles(settings: Iterable[Setting]) -> dict[Setting, SeriesStyle]:
    """A style per setting: the method's colours in order of patch size, shared by all data sets."""
    styles: dict[Setting, SeriesStyle] = {}
    ranks: dict[str, dict[Setting, int]] = {}
    for setting in settings:
        seen = ranks.setdefault(setting.method, {})
        rank = seen.setdefault(setting._replace(dataset=""), len(seen))
        colours = METHOD_COLOURS.get(setting.method, METHOD_COLOURS["pmae"])
        styles[setting] = SeriesStyle(colours[rank % len(colours)], *MARKERS[rank % len(MARKERS)])
    return styles
