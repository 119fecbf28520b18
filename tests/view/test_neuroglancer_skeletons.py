"""What Neuroglancer's client makes of the skeletons and segment properties that we write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import Skeleton, create_volume
from tests.scene.samples import LARGEST, skeleton

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from precomputed_fs import Volume
    from precomputed_fs.view.server import Server
    from tests.support.browser import Neuroglancer

SEGMENTS = (7, 2**53 + 1, LARGEST)  # the last two are no JavaScript numbers
ORANGE = (255, 128, 64)
SIZE = (360, 360)


def placed(seed: int, count: int) -> Skeleton:
    """Make a skeleton of an odd number of vertices in the middle of the volume."""
    made = skeleton(seed, count)
    return Skeleton(made.vertices / 100 + 8000, made.edges, made.attributes)


SKELETONS = {segment: placed(segment % 1000, 2 * index + 31) for index, segment in enumerate(SEGMENTS)}


def volume_in(folder: Path) -> Volume:
    voxels = np.zeros((16, 16, 16), np.uint64)
    return create_volume(folder, voxels, resolution=(1000, 1000, 1000), type="segmentation", scales=1)


def show(neuroglancer: Neuroglancer, server: Server) -> Any:
    segments = list(map(str, SEGMENTS))
    colours: dict[str, Any] = {"segmentColors": dict.fromkeys(segments, "#" + bytes(ORANGE).hex())}
    viewer = {"layout": "3d", "projectionScale": 16, "showSlices": False}
    return neuroglancer.show(
        server.source, "segmentation", position=(8, 8, 8), resolution=(1000, 1000, 1000), size=SIZE, viewer=viewer,
        segments=segments, **colours,
    )  # fmt: skip


def orange_pixels(picture: NDArray[np.uint8]) -> int:
    red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
    return int((red > blue + 50).sum())


@pytest.mark.parametrize("sharding", [None, True], ids=["files", "shards"])
def test_the_client_decodes_the_skeletons_that_we_write(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path, sharding: bool | None
) -> None:
    volume = volume_in(tmp_path)
    volume.store_skeletons(SKELETONS, sharding=sharding)
    with show(neuroglancer, run(volume)) as view:
        assert view.errors == []
        found = view.skeletons()
        picture = view.slice()
    assert found.keys() == SKELETONS.keys()
    for segment, expected in SKELETONS.items():
        np.testing.assert_array_equal(found[segment].vertices, expected.vertices)
        np.testing.assert_array_equal(found[segment].edges, expected.edges)
        names = [attribute.id for attribute in volume.skeletons.info.vertex_attributes]
        assert found[segment].attributes == [expected.attributes[name].tobytes() for name in names]
    assert orange_pixels(picture) > 500


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.uint8(1), "Data type not supported by WebGL: UINT8"),
        (np.ones(5, np.float32), ""),  # an error of JavaScript, which the client's workers catch now and then
    ],
    ids=["uint8", "five components"],
)
def test_the_client_shows_no_skeletons_with_other_attributes(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path, values: Any, message: str
) -> None:
    """Where it does, the warnings of `store_skeletons` and the rules of `doctor` can go."""
    volume = volume_in(tmp_path)
    skeletons = {
        segment: Skeleton(made.vertices, made.edges, {"kind": np.array([values] * len(made.vertices))})
        for segment, made in SKELETONS.items()
    }
    with pytest.warns(UserWarning, match="Neuroglancer shows skeletons only if"):
        volume.store_skeletons(skeletons)
    with show(neuroglancer, run(volume)) as view:
        assert message in "\n".join(view.errors)
        assert orange_pixels(view.slice()) == 0


def test_the_client_decodes_the_properties_that_we_write(
    neuroglancer: Neuroglancer, run: Callable[..., Server], tmp_path: Path
) -> None:
    table: dict[str, Any] = {
        "name": ["one", "", "\u00fc"],
        "note": ["a", "b", "c"],
        "kind": ["x", "y", "x"],
        "size": np.array([-32768, 0, 32767], np.int16),
        "mean": np.array([0.1, 1e30, -2], np.float32),
        "tags": [["big", "red"], [], ["small"]],
    }
    descriptions = {"size": "in voxels"}
    volume = volume_in(tmp_path)
    volume.store_skeletons(SKELETONS)
    volume.store_segment_properties(
        table,
        ids=SEGMENTS,
        label="name",
        description="note",
        descriptions=descriptions,
        tag_descriptions={"red": "Red"},
    )
    with show(neuroglancer, run(volume)) as view:
        assert view.errors == []
        found = view.segment_properties()
    assert list(map(int, found["ids"])) == list(SEGMENTS)
    properties = {each["id"]: each for each in found["properties"]}
    assert {name: each["type"] for name, each in properties.items()} == {
        "name": "label", "note": "description", "kind": "string", "size": "number", "mean": "number", "tags": "tags",
    }  # fmt: skip
    for name, values in table.items():
        expected = [sorted(each, key=["red", "big", "small"].index) for each in values] if name == "tags" else values
        assert properties[name]["values"] == list(expected)
    assert (properties["size"]["typed"], properties["mean"]["typed"]) == ("Int16Array", "Float32Array")
    assert properties["size"]["description"] == "in voxels"
    assert properties["tags"]["tagDescriptions"] == ["Red", "", ""]
