"""The records of a study on disk: writing them row by row, reading one study or many.

A study's folder holds ``trials.arrow`` and ``history.arrow`` (Arrow IPC files), ``study.json`` (its plan) and
``verdict.json``. What they hold is in ``storage/rows.py``, how rows survive a crash in ``storage/tables.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from studies.errors import StudyError
from studies.storage import rows as stored
from studies.storage.atomic import read_json
from studies.storage.rows import HISTORY_SCHEMA, SCHEMA_VERSION, TRIAL_SCHEMA, check_document
from studies.storage.tables import JournaledTable, read_table, with_column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from studies.verdict import Verdict

TRIAL_KEYS = ("trial_id",)
HISTORY_KEYS = ("trial_id", "epoch")


@dataclass(frozen=True, repr=False)
class Study:
    """One study as it is stored, finished or not.

    Attributes:
        trials: One row per trial and seed, columns of ``TRIAL_SCHEMA``.
        history: One row per epoch of a trial, columns of ``HISTORY_SCHEMA``.
        plan: ``study.json``; empty where it is missing.
        stored_verdict: ``verdict.json``; None where there is none yet, or one of another version.
        folder, name: Where it is, and its name.
    """

    trials: pa.Table
    history: pa.Table
    plan: dict[str, Any] = field(default_factory=dict)
    stored_verdict: dict[str, Any] | None = None
    folder: Path = Path()
    name: str = ""

    def __repr__(self) -> str:
        answer = (self.stored_verdict or {}).get("answer") or "not judged yet"
        return f"Study({self.name!r}, {self.trials.num_rows} trials: {answer})"

    def verdict(self, **rules: Any) -> Verdict:
        """Judge the study as :func:`studies.judge` does, with its keyword arguments; by default those of the plan."""
        from studies.verdict import judge

        return judge(self, **rules)

    def curve(self) -> Figure:
        """A figure for notebooks: accuracy over the achieved masking ratio; StudyError if no trial has ended yet."""
        from studies.figures.draw import ratio_figure

        return ratio_figure(self)


class StudyWriter:
    """Writes a study's records into ``folder``; opening a folder that has records continues them.

    Use it as a context manager, or call :meth:`close`. One writer at a time: hold ``studies.storage.lock.StudyLock``.

    Args:
        folder: The study's own folder; made if it is missing.
        name: The study's name, filled in where a row has none; None is the folder's name.

    Raises:
        StudyError: tables are there that cannot be read, or that belong to another study.
        StudyWriteError: the folder cannot be written to.
    """

    def __init__(self, folder: Path | str, name: str | None = None) -> None:
        self.folder = Path(folder).absolute()
        self.name = self.folder.name if name is None else name
        self._trials = JournaledTable(self.folder / "trials.arrow", TRIAL_SCHEMA, TRIAL_KEYS)
        self._history = JournaledTable(self.folder / "history.arrow", HISTORY_SCHEMA, HISTORY_KEYS)
        others = set(self._trials.table["study"].unique().to_pylist()) - {self.name, None}
        if others:
            raise StudyError(
                f"{self.folder} holds the study {', '.join(sorted(others))}, not {self.name}; "
                "choose another --storage or --name"
            )
        self._trials.compact()
        self._history.compact()

    @property
    def trials(self) -> pa.Table:
        """All rows so far, those of an earlier run included."""
        return self._trials.table

    @property
    def history(self) -> pa.Table:
        """All epochs so far, those of an earlier run included."""
        return self._history.table

    def add_trial(self, row: Mapping[str, Any]) -> None:
        """Write one row; it is on disk when this returns. A row with the same ``trial_id`` is replaced.

        Raises:
            StudyError: an unknown or missing column, or a value that the column cannot hold.
            StudyWriteError: the disk is full or the folder is not writable; existing content is intact.
        """
        self.add_trials([row])

    def add_trials(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write several rows in one go; see :meth:`add_trial`."""
        self._trials.add([stored.complete_trial(row, self.name) for row in rows])

    def add_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write epochs of one or more trials; an epoch that a trial already has is replaced. See :meth:`add_trial`."""
        self._history.add([stored.complete_row(row, HISTORY_SCHEMA, "history", self.name) for row in rows])

    def close(self) -> None:
        """Bring both Arrow files up to date. Writing may continue afterwards."""
        self._trials.close()
        self._history.close()

    def __enter__(self) -> StudyWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_study(path: Path | str) -> Study:
    """The study at ``path``: a folder, a ``trials.arrow``, or the only one inside; StudyError if it cannot be read."""
    found = find_studies(path)
    if len(found) > 1:
        raise StudyError(f"{path} holds {len(found)} studies; name one: {', '.join(str(f) for f in found)}")
    return _read(found[0])


def read_studies(paths: Iterable[Path | str] | Path | str) -> list[Study]:
    """All studies in ``paths`` (of studies or storage) under unique names; StudyError if one cannot be read."""
    given: Sequence[Path | str] = [paths] if isinstance(paths, (str, Path)) else list(paths)
    folders = [folder for path in given for folder in find_studies(path)]
    return disambiguate_names([_read(folder) for folder in dict.fromkeys(folders)])


def find_studies(path: Path | str) -> list[Path]:
    """The folders of the study at ``path``, or of those directly inside it, by name; a StudyError without one."""
    folder = Path(path).absolute()
    if folder.is_file() and folder.suffix == ".arrow":
        folder = folder.parent
    if _is_study(folder):
        return [folder]
    inside = sorted(child for child in folder.iterdir() if _is_study(child)) if folder.is_dir() else []
    if not inside:
        what = "holds no study (no trials.arrow or study.json)" if folder.is_dir() else "does not exist"
        raise StudyError(f"{path} {what}; give a study's folder, which is <storage>/<name> of the run")
    return inside


def _is_study(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("trials.arrow", "trials.journal", "study.json"))


def _read(folder: Path) -> Study:
    trials = read_table(folder / "trials.arrow", TRIAL_SCHEMA, TRIAL_KEYS)
    plan = read_json(folder / "study.json") or {}
    version, way_out = plan.get("schema_version", SCHEMA_VERSION), "restore it from a copy or delete it"
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StudyError(
            f"{folder / 'study.json'} has schema version {version}, this program reads up to {SCHEMA_VERSION}: "
            "it was written by a newer version; update this one with 'git pull' and 'pip install -e .'"
        )
    check_document(folder / "study.json", plan, stored.StudyRecord, way_out)
    check_document(folder / "study.json", plan.get("resources") or {}, stored.Resources, way_out, "resources")
    verdict = read_json(folder / "verdict.json")
    if verdict is not None and verdict.get("schema_version") != SCHEMA_VERSION:
        verdict = None  # judged again
    if verdict is not None:
        check_document(folder / "verdict.json", verdict, stored.VerdictRecord, "delete it, and it is judged again")
    names = trials["study"].unique().drop_null().to_pylist()
    name = str(plan.get("name") or (names[0] if names else folder.name))
    history = read_table(folder / "history.arrow", HISTORY_SCHEMA, HISTORY_KEYS)
    # Rows of another program may have no name.
    trials, history = (with_column(table, "study", table["study"].fill_null(name)) for table in (trials, history))
    return Study(trials, history, plan, verdict, folder, name)


def last_change(study: Study, *names: str) -> float | None:
    """When one of these files was last written to, in seconds since 1970; None where there is none of them."""
    files = [study.folder / name for name in names]
    return max((file.stat().st_mtime for file in files if file.exists()), default=None)


def is_stale(study: Study) -> bool:
    """Whether the study's table was written to since its ``verdict.json``."""
    written, judged = last_change(study, "trials.arrow", "trials.journal"), last_change(study, "verdict.json")
    return (written or 0.0) > (judged or 0.0)


def is_finished(study: Study) -> bool:
    """Whether the verdict, which is written last, is newer than the table and than the plan, which resuming writes."""
    judged, planned = last_change(study, "verdict.json"), last_change(study, "study.json")
    return judged is not None and (planned or 0.0) <= judged and not is_stale(study)


def disambiguate_names(studies: Sequence[Study]) -> list[Study]:
    """Append the folder to study names that several have; otherwise their trials would count as repeated rows."""
    names = Counter(study.name for study in studies)
    places = [f"{study.folder.parent.name}/{study.folder.name}" for study in studies]
    apart = []
    for study, place in zip(studies, places, strict=True):
        if names[study.name] > 1:
            name = f"{study.name} ({place if places.count(place) == 1 else study.folder})"
            trials, history = (
                with_column(table, "study", pa.array([name] * table.num_rows, pa.string()))
                for table in (study.trials, study.history)
            )
            study = replace(study, name=name, trials=trials, history=history)
        apart.append(study)
    return apart
