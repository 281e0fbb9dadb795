"""Colors of figures and page (Okabe & Ito 2008); a CSS variable of the page has another value in dark mode."""

from __future__ import annotations

BLUE, VERMILLION, GREEN, ORANGE = "#0072b2", "#d55e00", "#007a5a", "#b07800"
INK, MUTED, GRID, PAPER = "#1b1e23", "#5d6570", "#e6e9ee", "#ffffff"
METHOD_COLORS = {"pmae": BLUE, "mae": VERMILLION}
VERDICT_COLORS = {"holds": GREEN, "fails": VERMILLION, "inconclusive": MUTED, "uninformative": ORANGE}
VARIABLES = {
    BLUE: "--pmae", VERMILLION: "--mae", GREEN: "--holds", ORANGE: "--uninformative",
    INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper",
}  # fmt: skip
