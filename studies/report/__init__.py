"""One self-contained page about one or several studies."""

from studies.report.page import write_report

__all__ = ["write_report"]
