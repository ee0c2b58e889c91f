"""The notebooks of examples/: they run, and show what they promise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
SHOWN = {
    "01-score-your-texts.ipynb": "macro_f1",
    "02-watch-a-rollout.ipynb": "send_email",
    "03-compare-quant-types.ipynb": "Q4_0",
}
"""A word in the tables that each notebook shows."""


def outputs(notebook: Any) -> Iterator[tuple[str, str]]:
    """(MIME type or stream, text) of every output."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                yield output.name, output.text
            yield from output.get("data", {}).items()


def test_every_notebook_is_tested() -> None:
    assert {file.name for file in EXAMPLES.glob("*.ipynb")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs_and_shows_its_table_and_picture(
    name: str, merged_base: Path, tmp_path: Path
) -> None:
    notebook = nbformat.read(EXAMPLES / name, 4)
    # an error in a cell raises
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    found = list(outputs(notebook))
    assert any(kind == "text/html" and SHOWN[name] in data for kind, data in found)
    assert any(kind == "image/png" for kind, _ in found)


@pytest.mark.parametrize("name", SHOWN)
def test_saved_outputs_are_complete_and_name_no_machine(name: str) -> None:
    notebook = nbformat.read(EXAMPLES / name, 4)
    assert all(
        cell.outputs or "pd.set" in cell.source
        for cell in notebook.cells
        if cell.cell_type == "code"
    )
    found = list(outputs(notebook))
    assert any(kind == "image/png" for kind, _ in found)
    assert not any(kind == "stderr" or "/home/" in data or "/root/" in data for kind, data in found)
