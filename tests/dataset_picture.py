"""Draw the picture of the guide's chapter on the whole dataset: ``python -m tests.dataset_picture``.

It is what Neuroglancer shows of tissues of a brain, with meshes, properties and annotations.
"""

import tempfile
from pathlib import Path

import numpy as np
import zmesh
from numpy.typing import NDArray
from PIL import Image

import precomputed_fs
from precomputed_fs import Volume, create_annotations, create_volume
from tests.support import browser
from tests.support.brain import template

PICTURE = Path(__file__).parents[1] / "precomputed_fs" / "guide" / "dataset.png"
NAMES = {1: "fluid", 2: "grey matter", 3: "white matter"}
STEP = 2  # millimetres
SIZE = (1000, 520)


def tissues(folder: Path) -> Volume:
    """Make a segmentation of a brain, with a mesh and a name for each tissue."""
    brain = template()[::STEP, ::STEP, ::STEP]
    labels = np.digitize(brain, (60, 150, 200)).astype(np.uint32)
    nm = STEP * 1e6
    volume = create_volume(folder, labels, resolution=nm, type="segmentation", encoding="compressed_segmentation")
    mesher = zmesh.Mesher((nm,) * 3)
    mesher.mesh(labels)
    volume.store_meshes({segment: mesher.get(segment) for segment in mesher.ids()})
    volume.store_segment_properties({"label": [*NAMES.values()]}, ids=[*NAMES])
    return volume


def drawn() -> NDArray[np.uint8]:
    """Return the picture: ``[row, column, rgb]``."""
    with tempfile.TemporaryDirectory() as name, browser.chromium() as chromium:
        volume = tissues(Path(name) / "tissues")
        middle = np.array(volume[0].shape[:3]) / 2
        path = middle + 20 * np.stack(
            [np.cos(t := np.linspace(0, 12, 300)), np.sin(t), np.linspace(-1, 1, 300)], axis=1
        )
        points = create_annotations(Path(name) / "points", path, dimensions=volume[0])
        view = precomputed_fs.view(volume, points, segments=[3], layout="4panel")
        try:
            with browser.opened(chromium, view.url, size=SIZE) as shown:
                assert shown.errors == []
                return shown.page.picture()
        finally:
            view.server.close()


if __name__ == "__main__":
    Image.fromarray(drawn()).quantize(128).save(PICTURE, optimize=True)
