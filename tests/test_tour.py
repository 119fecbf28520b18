"""The tour: a fresh kernel runs it, what it computes is right, and what is kept of it is what it says now."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import precomputed_fs
from tests import tour
from tests.support.brain import template

PROBES = {
    "slice": """
import json, sys, urllib.request
from pathlib import Path
import numpy as np
import precomputed_fs
probes = Path(probed)
np.save(probes / "piece", piece)
np.save(probes / "all", vol[0][...])
""",
    "points": """
np.save(probes / "points", _)
""",
    "paint": """
np.save(probes / "tissues", tissues[0][...])
np.save(probes / "lower", tissues[1][...])
""",
    "dask": """
np.save(probes / "computed", [mean, share])
""",
    "back": """
np.save(probes / "half", image.get_fdata())
np.save(probes / "affine", image.affine)
""",
    "bucket": """
np.save(probes / "copied", there[0][...])
""",
    "view": """
page = urllib.request.urlopen(view.url).read().decode()
served = int(precomputed_fs.open_volume(view.server.url)[0][30, -20, 10, 0])
said = dict(page=page, served=served, python=sys.executable, package=precomputed_fs.__file__)
(probes / "said.json").write_text(json.dumps(said))
""",
}
"""What is looked at inside the kernel, by the cell after which that is done."""


@dataclass(frozen=True)
class Tour:
    """A run of the notebook."""

    notebook: Any
    folder: Path

    def array(self, name: str) -> Any:
        """Return an array of a probe."""
        return np.load(self.folder / f"{name}.npy")

    def said(self) -> Any:
        """Return what the probes said in the end."""
        return json.loads((self.folder / "said.json").read_text(encoding="utf-8"))

    def cell(self, name: str) -> Any:
        """Return an executed cell."""
        return tour.code_cells(self.notebook)[name]


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Tour:
    """Take the tour."""
    folder = tmp_path_factory.mktemp("tour")
    probes = {name: f"probed = {str(folder)!r}\n{code}" for name, code in PROBES.items()}
    return Tour(tour.run(probes), folder)


@pytest.fixture(scope="module")
def brain() -> Any:
    """Return the voxels of the file that the tour begins with."""
    return template()


def at(brain: Any, x: Any, y: Any, z: Any) -> Any:
    """Return the voxels at some places, in whole millimetres of the scan's own space, by its affine."""
    return brain[np.asarray(x) + 98, np.asarray(y) + 134, np.asarray(z) + 72]


def test_what_it_computes(taken: Tour, brain: Any) -> None:
    np.testing.assert_array_equal(taken.array("all")[..., 0], brain)
    x, y = np.meshgrid(range(-20, 20), range(-40, 10), indexing="ij")
    np.testing.assert_array_equal(taken.array("piece")[..., 0], at(brain, x, y, 5))
    np.testing.assert_array_equal(taken.array("points").ravel(), [*at(brain, [-40, 0], [-20, 0], [55, 10]), 0])
    np.testing.assert_allclose(taken.array("computed"), [brain.mean(), (brain > 0).mean()])
    np.testing.assert_array_equal(taken.array("copied")[..., 0], brain)


def test_what_it_writes(taken: Tour, brain: Any) -> None:
    found = taken.array("tissues")[..., 0]
    x, y, z = np.ogrid[-98:99, -134:99, -72:117]
    ball = (x - 30) ** 2 + (y + 20) ** 2 + (z - 10) ** 2 <= 10**2
    assert (found[ball] == 4).all()
    np.testing.assert_array_equal(found[~ball], np.digitize(brain, (60, 150, 200))[~ball])
    assert {1, 2, 3, 4} < {*np.unique(taken.array("lower"))}
    assert 400 < (taken.array("lower") == 4).sum() < 700  # an eighth of the ball's 4189


def test_what_goes_back_to_nifti(taken: Tour, brain: Any) -> None:
    half = taken.array("half")
    assert half.shape == (99, 117, 95)
    np.testing.assert_allclose(half[20:40, 20:40, 20:40].mean(), brain[40:80, 40:80, 40:80].mean(), atol=0.5)
    np.testing.assert_array_equal(taken.array("affine")[:3], [[2, 0, 0, -97.5], [0, 2, 0, -133.5], [0, 0, 2, -71.5]])


def test_it_runs_this_package_in_this_interpreter(taken: Tour) -> None:
    assert taken.said()["python"] == sys.executable
    assert taken.said()["package"] == precomputed_fs.__file__


def test_what_it_views(taken: Tour, brain: Any) -> None:
    said = taken.said()
    (shown,) = taken.cell("view").outputs
    assert re.search(r'<iframe src="http://127\.0\.0\.1:\d+/', shown.data["text/html"])
    assert "neuroglancer" in said["page"].lower()
    assert said["served"] == at(brain, 30, -20, 10)


def test_it_shows_and_says_nothing_else(taken: Tour) -> None:
    outputs = {name: cell.outputs for name, cell in tour.code_cells(taken.notebook).items() if cell.outputs}
    patience = "Matplotlib is building the font cache"  # which it may say of a slow machine, the first time
    assert set(outputs) == {
        *("open", "slices", "plot", "slice", "points", "labels", "overlay", "paint", "dask", "back", "bucket", "view")
    }
    streams = [output for cell in outputs.values() for output in cell if output.output_type == "stream"]
    assert [output.text for output in streams if patience not in output.text] == []
    for name in ("open", "labels"):
        html = outputs[name][0].data["text/html"]
        assert html.count("<tr>") == 1 + 3
        assert html.count("<img ") == 3
    assert tour.picture(taken.cell("plot")).std() > 20


def test_what_is_kept_is_what_it_says_now(taken: Tour) -> None:
    kept, now = tour.code_cells(tour.kept()), tour.code_cells(tour.for_keeps(taken.notebook))
    assert {name: texts(cell) for name, cell in kept.items()} == {name: texts(cell) for name, cell in now.items()}
    assert [cell.execution_count for cell in kept.values()] == [*range(1, len(kept) + 1)]
    for name, path in tour.PICTURES.items():
        drawn = tour.picture(now[name]).astype(float)
        with Image.open(path) as picture:
            np.testing.assert_allclose(np.asarray(picture, float), drawn, atol=2)
        np.testing.assert_allclose(tour.picture(kept[name]).astype(float), drawn, atol=2)
        assert path.stat().st_size < 60_000


def texts(cell: Any) -> list[str]:
    """Return what a cell's outputs say, apart from pictures."""
    data = [output.data for output in cell.outputs if "data" in output]
    return [re.sub('src="[^"]*"', "", output.get("text/html", output["text/plain"])) for output in data]


def test_the_notebook_is_small_and_knows_nothing_of_a_machine() -> None:
    kept = tour.NOTEBOOK.read_text(encoding="utf-8")
    assert len(kept) < 300_000
    outputs = str([cell.outputs for cell in tour.code_cells(tour.kept()).values()])
    for word in ("127.0.0.1", "localhost", "/tmp", "/home", "/root"):
        assert word not in re.sub("[A-Za-z0-9+/=\\\\n]{100,}", "", outputs)
