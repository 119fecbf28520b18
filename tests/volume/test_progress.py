"""Progress: when it is shown."""

import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from precomputed_fs import (
    Scale,
)
from precomputed_fs.volume.progress import Progress
from tests.volume.samples import make, voxels


def test_short_reads_show_no_progress(scale: Scale, capsys: pytest.CaptureFixture[str]) -> None:
    scale[...]
    assert capsys.readouterr().err == ""


def test_progress_is_shown_if_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = make(tmp_path, progress=True, scales=2)
    err = capsys.readouterr().err
    assert "writing 8_8_40" in err
    volume[0].read(..., progress=False)
    assert capsys.readouterr().err == ""
    volume[0][...]
    assert re.search(r"reading 8_8_40: .*/45", capsys.readouterr().err)


@pytest.mark.parametrize(("is_terminal", "shows"), [(True, True), (False, False)])
def test_long_reads_show_progress_on_a_terminal(
    scale: Scale, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool, shows: bool
) -> None:
    monkeypatch.setattr("precomputed_fs.volume.progress._PATIENCE", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    scale[...]
    assert ("reading 8_8_40" in capsys.readouterr().err) is shows
    scale.read(..., progress=False)
    assert capsys.readouterr().err == ""


def test_a_stream_without_isatty_is_not_a_terminal(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precomputed_fs.volume.progress._PATIENCE", 0)
    monkeypatch.setattr(sys, "stderr", object())
    assert np.array_equal(scale[...], voxels())


CELLS = [
    """
import numpy as np
from precomputed_fs import create_volume
def make():
    options = {"resolution": 8, "chunk_size": 4, "scales": 1, "progress": True, "overwrite": True}
    create_volume("memory://bars", np.ones((9, 9, 9), np.uint8), **options)
make()
""",
    "import sys; sys.modules['ipywidgets'] = None; make()",  # as if it were not installed
]


@pytest.mark.processes
def test_a_notebook_shows_widgets_where_it_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in CELLS])
    kernels = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    NotebookClient(notebook, kernels, timeout=60).execute(cleanup_kc=True)
    (widget,), texts = (cell.outputs for cell in notebook.cells)
    assert "application/vnd.jupyter.widget-view+json" in widget.data
    assert "writing 8_8_8: " in widget.data["text/plain"]
    assert "writing 8_8_8: 100%" in "".join(output.text for output in texts)


def test_a_bar_appears_also_if_nobody_knows_how_many_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("storing", None, True) as progress:
        progress.relative_update(7)
    assert "storing: 7chunk" in capsys.readouterr().err
