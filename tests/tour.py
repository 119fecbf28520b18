"""Run the tour, `tour.ipynb`, from top to bottom in a fresh kernel.

``python -m tests.tour`` keeps what comes out of it: in the notebook, and the pictures that the guide shows.
"""

import base64
import copy
import io
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from numpy.typing import NDArray
from PIL import Image

from tests.demo import nothing_between

NOTEBOOK = Path(__file__).with_name("tour.ipynb")
GUIDE = NOTEBOOK.parents[1] / "precomputed_fs" / "guide"
PICTURES = {
    "slices": GUIDE / "brain.png",
    "overlay": GUIDE / "tissues.png",
}
"""What the guide shows, by the cell that draws it."""

_FOLDER = re.compile(rf"{re.escape(tempfile.gettempdir())}/tmp\w+/")
"""The temporary folder of one run."""

PATIENCE = 300  # seconds for a cell


def kept() -> Any:
    """Read the notebook, as it is in the repository."""
    return nbformat.read(NOTEBOOK, as_version=4)


def run(probes: Mapping[str, str] | None = None) -> Any:
    """Run the notebook; return it with its new outputs.

    Parameters
    ----------
    probes
        Code to be run as well, by the cell that it follows. Its outputs are not part of what is returned.
    """
    notebook = kept()
    metadata = copy.deepcopy(notebook.metadata)
    cells = notebook.cells
    notebook.cells = []
    for cell in cells:
        notebook.cells.append(cell)
        if probe := (probes or {}).get(cell.id):
            notebook.cells.append(nbformat.v4.new_code_cell(probe))
    # Kernels that are installed on this machine do not matter: what is left is the interpreter that runs this.
    kernels = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    with nothing_between(), tempfile.TemporaryDirectory() as settings:
        environment = {**os.environ, "IPYTHONDIR": settings}
        client = NotebookClient(notebook, kernels, timeout=PATIENCE, record_timing=False, resources=place)
        client.execute(env=environment, cleanup_kc=True)  # which else only ends kernels of its own
    notebook.cells, notebook.metadata = cells, metadata
    for number, cell in enumerate(code_cells(notebook).values(), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    return notebook


def code_cells(notebook: Any) -> dict[str, Any]:
    """Return the cells with code, by their names."""
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def for_keeps(notebook: Any) -> Any:
    """Leave out what means nothing later: outputs with the address of a server that is gone, and a folder's name."""
    lasting = copy.deepcopy(notebook)
    for cell in code_cells(lasting).values():
        cell.outputs = [output for output in cell.outputs if "127.0.0.1" not in str(output)]
        for data in (output.data for output in cell.outputs if "data" in output):
            for kind in data.keys() & {"text/html", "text/plain"}:
                data[kind] = _FOLDER.sub("/lab/", data[kind])
    return lasting


def picture(cell: Any) -> NDArray[np.uint8]:
    """Return the pixels of the picture that a cell displays."""
    (encoded,) = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        pixels: NDArray[np.uint8] = np.asarray(image)
        return pixels


def main() -> int:
    """Run the notebook and keep what comes out of it; return the exit code."""
    notebook = run()
    nbformat.write(for_keeps(notebook), NOTEBOOK)
    for name, path in PICTURES.items():
        Image.fromarray(picture(code_cells(notebook)[name])).save(path, format="PNG", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
