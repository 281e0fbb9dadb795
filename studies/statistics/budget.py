"""Which trials had the same budget and configuration, so that their accuracies may be compared."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]

# Entries of a configuration that differ between trials which are meant to be compared.
FREE_ENTRIES = frozenset({"ratio", "ratio_range", "seed", "root", "data_seed", "data_root", "trial_id"})


def same_budget(rows: Sequence[Row], label: str, free: frozenset[str], warnings: list[str]) -> list[Row]:
    """The finished rows with the most common epochs, precision, evaluation and configuration.

    Args:
        rows: Trials of one comparison.
        label: Its name, for warnings.
        free: Entries of a configuration that may differ.
        warnings: Gets a line for each kind of row that is left out.
    """
    done = [row for row in rows if row["status"] == "done"]
    for name, value_of in (
        ("number of epochs", lambda row: row["epochs"]),
        ("precision", lambda row: row["precision"]),
        ("evaluation", lambda row: row["evaluation"]),
        ("configuration", lambda row: _fingerprint(row["config"], row["pool"], free)),
    ):
        counts = Counter(value_of(row) for row in done)
        if len(counts) < 2:
            continue
        usual = max(counts, key=lambda value: (counts[value], str(value)))
        others = [row for row in done if value_of(row) != usual]
        done = [row for row in done if value_of(row) == usual]
        how = _difference(usual, value_of(others[0])) if name == "configuration" else f"{usual}"
        warnings.append(
            f"{label}: {len(others)} trials have another {name} than the {len(done)} that are compared "
            f"({how}) and are left out: {names(others)}"
        )
    for name in ("code_version", "device", "versions"):
        values = sorted({str(row[name]) for row in done if row[name] is not None})
        if len(values) > 1:
            how = _difference(values[0], values[1]) if name == "versions" else ", ".join(values)
            warnings.append(f"{label}: compared trials differ in {name}: {how}")
    return done


@functools.lru_cache(maxsize=4096)
def _fingerprint(text: str | None, pool: str | None, free: frozenset[str]) -> str:
    """The configuration as canonical JSON without what may differ; the text itself where it is not JSON."""
    try:
        values = json.loads(text) if text else {}
    except ValueError:
        return str(text)
    flat = {name: value for name, value in _flatten(values) if name.rpartition(".")[2] not in free}
    return json.dumps({**flat, "pool": pool}, sort_keys=True)


def _flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(values, Mapping):
        return [(prefix, values)]
    return [pair for name, value in values.items() for pair in _flatten(value, f"{prefix}.{name}".lstrip("."))]


def _difference(usual: str, other: str) -> str:
    try:
        ours, theirs = json.loads(usual), json.loads(other)
    except ValueError:
        return "not readable as JSON"
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return ", ".join(f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}" for name in names[:4])


def names(rows: Sequence[Row], most: int = 5) -> str:
    """The first few ``rows`` by trial, ratio and seed, for messages."""
    named = [f"{row['trial_id'] or 'unnamed'} (ratio {row['ratio']:g}, seed {row['seed']})" for row in rows[:most]]
    return ", ".join(named) + (f" and {len(rows) - most} more" if len(rows) > most else "")
