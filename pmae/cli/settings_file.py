"""``--config FILE``: options from a YAML or JSON file, read as if they came first on the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pmae.cli.options import option_words, options_of
from pmae.config import REPLACES, SECTIONS, SETTINGS
from pmae.errors import ConfigError, did_you_mean


def expand_config(argv: Sequence[str], options: type, searched: Mapping[str, str] | None = None) -> list[str]:
    """Replace each ``--config FILE`` by the options in the file; the other words of ``argv`` override them.

    Raises:
        ConfigError: The file cannot be read, has an unknown option, or a setting that is ``searched`` over (mapped to
            the option to use instead) is given.
    """
    rest, files = [], []
    words = iter(argv)
    for word in words:
        name, equals, file = word.partition("=")
        if name == "--config":
            files.append(file if equals else next(words, ""))
        else:
            rest.append(word)
    searched = searched or {}
    asked = {word.partition("=")[0][2:].replace("-", "_") for word in rest if word.startswith("--")}
    for name in asked & {*searched}:
        _refuse_searched(name, searched, "")
    replaced = {name.partition(".")[2] for a in asked for name in REPLACES.get(SETTINGS.get(a, ""), ())}
    read = [_words(read_settings(file), options, file, asked | replaced, searched) for file in files]
    return [word for words_ in (*read, rest) for word in words_]


def read_settings(file: str) -> Mapping[str, Any]:
    """Read the mapping in a YAML or JSON file; of a ``study.json`` the options of the study."""
    import yaml

    path = Path(file).expanduser()
    if not file or not path.is_file():
        raise ConfigError(f"--config is {file!r}; it must be a YAML or JSON file")
    try:
        parse = json.loads if path.suffix == ".json" else yaml.safe_load  # YAML refuses tabs and splits surrogate pairs
        values = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--config: {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"--config: {path} holds {type(values).__name__}; it must map option names to values")
    return values["options"] if "schema_version" in values and "options" in values else values


def _refuse_searched(name: str, searched: Mapping[str, str], where: str) -> None:
    option = f"--{name.replace('_', '-')}"
    raise ConfigError(f"{where}{option}: a study searches over it; use {searched[name]} to say which values it tries")


def _words(
    values: Mapping[str, Any], options: type, file: str, overridden: set[str], searched: Mapping[str, str]
) -> list[str]:
    known = {name: default for name, (_, default) in options_of(options).items() if name != "config"}
    words, fields = [], dataclasses.fields(options)
    groups = {f.name for f in fields if f.default_factory is not dataclasses.MISSING}
    for name, value in _flat(values, {*SECTIONS, *groups}):
        if name in searched:
            _refuse_searched(name, searched, f"--config: {file}: ")
        if name not in known:
            raise ConfigError(
                f"--config: {file} has an unknown option {name!r}{did_you_mean(name, known)}; "
                f"options are {', '.join(sorted(known))}"
            )
        is_flag = known[name] is False
        if is_flag and not isinstance(value, bool | None):
            raise ConfigError(f"--config: {file}: {name} is {value!r}; it must be true or false")
        if name in overridden or value is None or (is_flag and not value):
            continue
        words.append(f"--{name.replace('_', '-')}")
        if not is_flag:
            words += option_words(value)
    return words


def _flat(values: Mapping[str, Any], groups: set[str]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if isinstance(value, Mapping) and name in groups:
            yield from _flat(value, groups)
        else:
            yield name, value
