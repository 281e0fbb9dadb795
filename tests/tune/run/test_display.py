"""What a study prints on a terminal of 80 columns, in a pipe, and with --verbose or --quiet."""

from __future__ import annotations

import io
import re
import sys

import pytest

from tune.run.display import Display

NAME = "pmae r=0.20 p=2 seed=222034302"
DONE = {"status": "done", "phase": "explore", "val_linear": 0.333, "val_knn": 0.15, "seconds": 8.1}
FAILED = {"status": "failed", "phase": "confirm", "error": "out of memory", "seconds": 3.0}
PLAN = ("Digits, 8 x 8 gray, 1,295 images", [("training", "11 epochs, " * 12)], ["few seeds " * 12])


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def show(monkeypatch):
    """What a study prints that plans, runs two trials, and ends; on a terminal or in a pipe."""

    def shown(terminal=True, **options):
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "xterm")
        out = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        display = Display(**options)
        display.print_plan(*PLAN)
        display.start(94, 0, 2)
        display.print_detail("confirming")
        display.show_running(2)
        display.print_trial(DONE, NAME, ["the loss rose"])
        display.print_trial(FAILED, NAME)
        display.stop()
        display.print_always(f"report:  /{'x' * 100}", unbroken=True)
        return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split("[\r\n]+", out.getvalue())]

    return shown


def test_a_terminal_shows_the_plan_in_a_line_a_bar_and_what_went_wrong(show):
    lines = show()
    text = "\n".join(lines)
    assert lines[0].strip() == PLAN[0] and "epochs" not in text and "confirming" not in text and "k-NN" not in text
    assert any(re.search(r"━ 2/94 trials, 2 running, about 4 min left", line) for line in lines)
    assert f"warning: {NAME} failed: out of memory" in text and f"warning: {NAME}: the loss rose" in text


@pytest.mark.parametrize("options", [{}, {"verbose": True}])
def test_nothing_but_paths_is_wider_than_80_columns_or_cut_inside_a_word(show, options):
    lines = show(**options)
    path = next(line for line in lines if line.startswith("report:"))
    assert path.endswith("x" * 100)
    assert max(len(line) for line in lines if line != path) <= 80
    assert set(" ".join(lines).split()) >= {"few", "seeds"} and not any("…" in line for line in lines)


def test_verbose_shows_the_whole_plan_and_every_trial(show):
    text = "\n".join(show(verbose=True))
    assert "11 epochs" in text and "confirming" in text
    assert f"[ 1/94] explore {NAME} val   33.3 %  k-NN  15.0 %    8 s" in text


def test_a_pipe_gets_whole_lines_and_no_bar(show):
    lines = show(terminal=False)
    assert lines[0] == PLAN[0] and "about" not in "\n".join(lines) and "epochs" not in "\n".join(lines)
    assert f"warning: {PLAN[2][0]}" in lines and "confirming" in lines
    assert f"[ 2/94] confirm {NAME} failed: out of memory" in lines


@pytest.mark.parametrize("verbose", [False, True])  # a dry run is verbose
def test_quiet_leaves_warnings_and_the_result(show, verbose):
    lines = show(quiet=True, verbose=verbose)
    assert " ".join(line.strip() for line in lines if line).count("warning:") == 3
    assert not {"Digits,", "trials,", "confirming", "epochs,"} & set(" ".join(lines).split())
    assert any(line.startswith("report:") for line in lines)
