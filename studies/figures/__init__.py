"""A study's figures as PNG files, made for papers and slides. Interactive plots are the report's own."""

from studies.figures.draw import draw_figures

__all__ = ["draw_figures"]
