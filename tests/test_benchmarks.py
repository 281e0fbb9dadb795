"""The benchmarks can be imported: they share names with the packages, and run too long to be run here."""

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
"""


def test_every_benchmark_can_be_imported() -> None:
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
