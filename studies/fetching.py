"""Copies of studies in an object store, to be read as any other. They last as long as the process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from studies.errors import StudyError
from studies.store import Store

# Journals before their tables: rows that a table takes over meanwhile are then in both, not in neither.
READ = (
    "trials.journal",
    "history.journal",
    "trials.arrow",
    "history.arrow",
    "verdict.json",
    "samples.npz",
    "study.json",
)


def fetched(uri: str) -> Path:
    """A folder with copies of the study at ``uri``, or of those directly below it.

    Raises:
        StudyError: There is none, or the store does not answer.
    """
    store = Store.open(uri)
    here = store.modified("study.json") is not None
    name = store.root.rpartition("/")[2]
    studies = {name: store} if here else {n: store.below(n) for n in store.studies()}
    if not studies:
        raise StudyError(f"{store.uri} holds no study (no study.json); give a study's URI, which is <storage>/<name>")
    folder = Path(tempfile.mkdtemp(prefix="pmae-studies-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, study in studies.items():
        there = study.files()
        for file in READ:
            if file in there:
                study.fetch(file, folder / name / file)
    return folder / next(iter(studies)) if here else folder
