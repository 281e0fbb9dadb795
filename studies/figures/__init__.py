"""A study's figures for papers and slides, and the SVG that the page shows."""

from studies.figures.draw import draw_figures

__all__ = ["draw_figures"]
