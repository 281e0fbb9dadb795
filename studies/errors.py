"""Errors of reading and writing studies; each message names the file or value and the way out."""

from __future__ import annotations


class StudyError(ValueError):
    """A study folder, table or row that cannot be used as it is."""


class StudyWriteError(StudyError):
    """A file could not be written, for example because the disk is full; the previous content is intact."""


class StudyLockedError(StudyError):
    """Another running study holds the folder."""
