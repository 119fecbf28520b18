"""The tour: a fresh kernel runs it, what it computes is right, and what is kept of it is what it says now."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nilearn.datasets import load_mni152_template
from PIL import Image

import precomputed_fs
from tests import tour

PROBES = {
    "slice": """
import json, sys, urllib.request
from pathlib import Path
import precomputed_fs
folder = Path(probed)
np.save(folder / "piece", piece)
np.save(folder / "all", vol[0][...])
""",
    "dask": """
np.save(folder / "computed", [mean, share])
""",
    "paint": """
np.save(folder / "tissues", tissues[0][...])
np.save(folder / "lower", tissues[1][...])
""",
    "view": """
page = urllib.request.urlopen(view.url).read().decode()
served = int(precomputed_fs.open_volume(view.server.url)[0][30, 0, -10, 0])
""",
    "close": """
said = dict(page=page, served=served, open=view.server.is_open, python=sys.executable, package=precomputed_fs.__file__)
(folder / "said.json").write_text(json.dumps(said))
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
    """Return the template's voxels from left to right, front to back, top to bottom."""
    return np.rint(load_mni152_template(resolution=1).get_fdata() * 255).astype(np.uint8)[:, ::-1, ::-1]


def test_what_it_computes(taken: Tour, brain: Any) -> None:
    np.testing.assert_array_equal(taken.array("all")[..., 0], brain)
    template = load_mni152_template(resolution=1)
    x, y, z = np.meshgrid(range(-20, 20), range(-40, 10), [5], indexing="ij")  # millimetres: right, back, down
    at = np.rint(np.linalg.inv(template.affine) @ [x.ravel(), -y.ravel(), -z.ravel(), np.ones(x.size)]).astype(int)
    expected = np.rint(template.get_fdata()[tuple(at[:3])] * 255)
    np.testing.assert_array_equal(taken.array("piece").ravel(), expected)
    np.testing.assert_allclose(taken.array("computed"), [brain.mean(), (brain > 0).mean()])


def test_what_it_writes(taken: Tour, brain: Any) -> None:
    found = taken.array("tissues")[..., 0]
    x, y, z = np.ogrid[-98:99, -98:135, -116:73]
    ball = (x - 30) ** 2 + y**2 + (z + 10) ** 2 <= 10**2
    assert (found[ball] == 4).all()
    np.testing.assert_array_equal(found[~ball], np.digitize(brain, (60, 150, 200))[~ball])
    assert {1, 2, 3, 4} < {*np.unique(taken.array("lower"))}
    assert 400 < (taken.array("lower") == 4).sum() < 700  # an eighth of the ball's 4189


def test_it_runs_this_package_in_this_interpreter(taken: Tour) -> None:
    assert taken.said()["python"] == sys.executable
    assert taken.said()["package"] == precomputed_fs.__file__


def test_what_it_views(taken: Tour) -> None:
    said = taken.said()
    (shown,) = taken.cell("view").outputs
    assert re.search(r'<iframe src="http://127\.0\.0\.1:\d+/', shown.data["text/html"])
    assert "neuroglancer" in said["page"].lower()
    assert said["served"] == 4
    assert said["open"] is False


def test_it_shows_and_says_nothing_else(taken: Tour) -> None:
    outputs = {name: cell.outputs for name, cell in tour.code_cells(taken.notebook).items() if cell.outputs}
    patience = "Matplotlib is building the font cache"  # which it may say of a slow machine, the first time
    assert set(outputs) == {"brain", "open", "slice", "slices", "plot", "tissues", "dask", "paint", "view"}
    streams = [output for cell in outputs.values() for output in cell if output.output_type == "stream"]
    assert [output.text for output in streams if patience not in output.text] == []
    for name in ("open", "tissues"):
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
