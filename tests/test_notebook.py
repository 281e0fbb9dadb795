"""The example notebook runs from its first cell to its last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "own_images.ipynb"
MAX_BYTES = 300_000


def test_the_notebook_is_small_and_was_executed_in_order():
    import nbformat

    assert NOTEBOOK.stat().st_size < MAX_BYTES
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]


# Put after the cell that sets the options: trainings too short to learn anything, for the sake of time.
SHORT = """
from dataclasses import replace
options = replace(
    options,
    confirm=replace(options.confirm, confirm_seeds=2),
    training=replace(options.training, epochs=1),
)
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("short", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_notebook_runs(short, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if short:
        options = next(i for i, c in enumerate(notebook.cells) if "options = StudyOptions(" in c.source)
        notebook.cells.insert(options + 1, nbformat.v4.new_code_cell(SHORT))
    client = NotebookClient(
        notebook, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    answer = next(c for c in notebook.cells if "verdict.answer" in c.source).outputs[0]["text"]
    assert "masking 20 %" in answer.lower()
