"""What a notebook calls on a study that it has read."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

import studies
from studies.errors import StudyError
from tests.studies.make_study import make_study


def test_a_study_judges_itself_draws_its_curve_and_has_a_short_repr(tmp_path: Path) -> None:
    study = studies.read_study(make_study(tmp_path / "mine"))
    verdict = study.verdict()
    assert str(verdict) == verdict.answer and repr(verdict).startswith("Verdict(") and len(repr(study)) < 600
    assert study.verdict(margin=0.5).rows[0]["margin"] == 0.5
    figure = study.curve()
    assert isinstance(figure, Figure) and figure.axes
    assert figure._repr_png_().startswith(b"\x89PNG"), "a notebook displays it"
    assert len(study.trials.to_pandas()) == study.trials.num_rows


def test_a_study_without_trials_has_no_curve(tmp_path: Path) -> None:
    with studies.records.StudyWriter(tmp_path / "empty"):
        pass
    with pytest.raises(StudyError, match="no finished trial"):
        studies.read_study(tmp_path / "empty").curve()


def test_the_public_names_are_all_there() -> None:
    assert all(getattr(studies, name) is not None for name in studies.__all__)
    assert {"read_study", "judge", "write_report", "draw_figures"} <= set(dir(studies))
    with pytest.raises(AttributeError, match="no attribute 'jugde'"):
        _ = studies.jugde
