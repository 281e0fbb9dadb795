"""A study's folder on disk: valid names and paths, new and existing folders."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

from pmae.errors import ConfigError
from pmae.files import make_writable_folder, user_path
from studies.storage.atomic import read_json
from studies.storage.object_store import without_secrets
from studies.storage.rows import StudyRecord

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STUDY_FILES = ("study.json", "trials.arrow", "trials.journal")
RESUME_NEEDS = ("name", "created_at", "dataset", "phases", "options", "command", "resources")  # of study.json


def storage_path(storage: str, create: bool = True) -> Path:
    """The absolute path of ``--storage``, a path or ``file://PATH``.

    Args:
        storage: What the user gave.
        create: Create the folder; otherwise nothing is written, and what could not be created is still refused.

    Raises:
        ConfigError: It is a file, a study's own folder, or not writable.
    """
    if not storage:
        raise ConfigError("--storage is empty; give a folder, for example runs")
    try:
        text = unquote(urlsplit(storage).path) if "://" in storage else storage
    except ValueError as error:  # brackets that do not match
        raise ConfigError(f"--storage {storage!r} is not a valid path or URI ({error})") from None
    path = user_path(text, "--storage").absolute()
    try:
        return _checked(path, create)
    except OSError as error:
        raise ConfigError(
            f"--storage {path} is not writable ({error.strerror or error}); choose another folder or free some space"
        ) from error


def _checked(path: Path, create: bool) -> Path:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--storage {path} is a file; give a folder")
    if is_study(path):
        raise ConfigError(
            f"--storage {path} is itself a study; give its parent folder: --storage {path.parent} --name NAME"
        )
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"--storage {path} is not writable ({existing}); choose another folder or fix its permissions"
        )
    if create:
        make_writable_folder(path)
    else:
        with tempfile.TemporaryFile(dir=existing):  # never has a name where the system can do without
            pass
    return path


def study_name(name: str) -> str:
    """``name`` if it is valid; raises :class:`ConfigError` for anything that could be a path outside the storage."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name is {name!r}; a name has letters, digits, '.', '_' and '-' only, begins with a letter or a digit "
            "and has at most 100 characters"
        )
    return name


def as_study_name(text: str) -> str:
    """A valid study name made from a dataset's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "study"


def new_folder(storage: Path, name: str) -> Path:
    """The folder of a new study.

    Raises:
        ConfigError: The folder is in use.
    """
    folder = storage / study_name(name)
    if is_study(folder):
        raise ConfigError(f"{folder} holds a study already; resume it (--resume), or use another --name or --storage")
    if folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not a study; use another --name or --storage")
    return folder


def existing_folder(storage: Path, name: str | None, place: str) -> tuple[Path, StudyRecord]:
    """Folder and ``study.json`` of the study to resume; without a name the only one in ``storage``.

    Args:
        storage: Folder of the studies on this machine.
        name: The study's name, or None.
        place: ``--storage`` as shown in messages.

    Raises:
        ConfigError: It does not exist, or there are several and ``name`` is None.
    """
    names = sorted(p.name for p in storage.iterdir() if is_study(p)) if storage.is_dir() else []
    listed = f"the studies in {place} are {', '.join(names)}" if names else f"there is no study in {place}"
    if name is None:
        if len(names) != 1:
            advice = "give --name" if names else "leave --resume out to start one"
            raise ConfigError(f"--resume: {listed}; {advice}")
        name = names[0]
    folder = storage / study_name(name)
    record = read_json(folder / "study.json")
    if record is None:
        raise ConfigError(f"--resume: no study {name!r} in {place}; {listed}; leave --resume out to start one")
    missing = [name for name in RESUME_NEEDS if name not in record]
    if missing:
        raise ConfigError(
            f"--resume: {folder / 'study.json'} lacks {', '.join(missing)}: it is corrupted "
            "or of another program; delete the folder, or use another --name"
        )
    return folder, cast(StudyRecord, record)


def is_study(folder: Path) -> bool:
    """Whether ``folder`` is a study's."""
    return any((folder / name).is_file() for name in _STUDY_FILES)


def without_options(argv: Sequence[str], options: Collection[str]) -> list[str]:
    """``argv`` without ``options``, each with one value, given as ``--name X`` or ``--name=X``."""
    kept, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept


def command_line(
    argv: list[str] | tuple[str, ...], program: str, changes: Mapping[str, str | None] | None = None
) -> str:
    """The shell command that runs ``program`` again with ``argv``; ``changes`` appends options (None: a flag).

    Passwords and tokens in URLs are left out, since it is stored and printed.
    """
    import shlex

    words = [without_secrets(word) for word in argv]
    for option, value in (changes or {}).items():
        if option not in words:
            words += [option] if value is None else [option, value]
    return shlex.join(["python", program, *words])
