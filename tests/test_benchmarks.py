"""The benchmarks can be imported (running them takes too long here), and tables of documents show their results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORT_ALL = """
import importlib, pathlib, sys
sys.path.insert(0, "benchmarks")
for file in sorted(pathlib.Path("benchmarks").glob("*.py")):
    importlib.import_module(file.stem)
import tables
stale = [str(path) for path in tables.READMES if tables.filled(path.read_text()) != path.read_text()]
assert not stale, f"run python benchmarks/tables.py: {stale}"
"""


def test_every_benchmark_can_be_imported_and_its_table_is_that_of_its_results() -> None:
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
