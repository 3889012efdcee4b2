"""What a notebook has to be besides runnable, which nbmake sees to: paired with its text, run in order, short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="jupytext is in the test extra; it is not installed here")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LINES = 30  # of a code cell, what a laptop shows together with the figure below
BYTES = 1_500_000

notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in jupytext.read(path).cells if cell.cell_type == "code"]


@notebook
def test_text_and_notebook_are_the_same(path: Path) -> None:
    outputs, text = (
        [(cell.cell_type, cell.source) for cell in jupytext.read(half).cells]
        for half in (path, path.with_suffix(".py"))
    )
    assert outputs == text, f"{path.name} is not what its .py says; `make notebooks` brings them together"


@notebook
def test_was_run_from_top_to_bottom(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@notebook
def test_outputs_hold_no_error_and_nothing_of_a_machine(path: Path) -> None:
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output
            shown = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"/(home|root|tmp|work|usr)/|site-packages| at 0x[0-9a-f]+", shown), shown


@notebook
def test_cells_fit_on_a_screen(path: Path) -> None:
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= LINES, cell.source


@notebook
def test_size(path: Path) -> None:
    assert path.stat().st_size <= BYTES
