"""Where layers are, and in which coordinates they are shown."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from precomputed_fs import FsspecAccessor, Mesh, Skeleton, create_meshes, create_skeletons, create_volume, view
from precomputed_fs.view.extent import Frame, frame_of
from precomputed_fs.view.sources import Alone, source_of
from precomputed_fs.view.state import Layer, view_state
from tests.view.serving import points_info

URL = "memory://test_extent"


def alone(name: str, info: bytes) -> Any:
    with FsspecAccessor(f"{URL}/{name}") as accessor:
        accessor.store_file("info", info, overwrite=True)
    return source_of(f"{URL}/{name}")


def volume() -> Any:
    return create_volume(f"{URL}/vol", np.ones((10, 20, 30), np.uint32), resolution=(4, 4, 40), overwrite=True)


def test_annotations_alone_have_their_own_coordinates() -> None:
    points = alone("points", points_info())
    assert isinstance(points, Alone)
    frame = frame_of([points])
    assert frame == Frame({"y": [8e-9, "m"], "x": [4e-9, "m"], "z": [4e-8, "m"]}, (0, -10, 0), (100, 200, 30))
    assert frame.position == [50.5, 95.5, 15.5]
    assert frame.extents == pytest.approx([200, 210, 300])


def test_annotations_beside_a_volume_are_aligned_in_metres() -> None:
    frame = frame_of([alone("points", points_info()), volume()])
    assert [*frame.dimensions] == ["x", "y", "z"]
    assert frame.low == pytest.approx((-10, 0, 0))
    assert frame.high == pytest.approx((200, 200, 30))


@pytest.mark.parametrize(
    "members",
    [
        {"dimensions": {"x": [1, ""], "y": [1, "m"], "z": [1, "m"]}},
        {"dimensions": {"a": [1, "m"], "y": [1, "m"], "z": [1, "m"]}},
        {"dimensions": {"x": [1, "m"]}},
        {"dimensions": {"x": 5, "y": [1, "m"], "z": [1, "m"]}},
        {"dimensions": {"x": [0, "m"], "y": [1, "m"], "z": [1, "m"]}},
        {"lower_bound": "abc"},
        {"upper_bound": [1e999, 1, 1]},
    ],
)
def test_what_does_not_tell_where_it_is_does_not_matter(members: dict[str, Any]) -> None:
    """The client tells what is wrong with it."""
    vol = volume()
    assert frame_of([vol, alone("odd", points_info(**members))]) == frame_of([vol])


def test_a_flat_collection_of_two_axes_is_shown() -> None:
    info = points_info(dimensions={"x": [4e-9, "m"], "y": [4e-9, "m"]}, lower_bound=[0, 0], upper_bound=[10, 20])
    frame = frame_of([alone("plane", info)])
    assert (frame.position, frame.extents, frame.is_flat) == ([5.5, 10.5], [10, 20, 1], False)


def test_meshes_alone_are_shown_in_three_dimensions() -> None:
    meshes = alone("meshes", json.dumps({"@type": "neuroglancer_legacy_mesh"}).encode())
    state, _ = view_state([Layer(meshes, "precomputed://there", "meshes")], None, 600, [1, 2])
    assert state == {
        "dimensions": {"x": [1e-9, "m"], "y": [1e-9, "m"], "z": [1e-9, "m"]},
        "layers": [{"name": "meshes", "source": "precomputed://there", "type": "segmentation", "segments": ["1", "2"]}],
        "selectedLayer": {"layer": "meshes"},
        "layout": "3d",
    }


def test_meshes_and_skeletons_alone_are_where_the_first_selected_segment_is() -> None:
    corners = np.array([[-5, 0, 0], [95, 0, 0], [0, 40, 0], [0, 0, 60]], np.float32)
    create_meshes(f"{URL}/own", {7: Mesh(corners, np.array([[0, 1, 2], [1, 2, 3]]))}, overwrite=True)
    create_skeletons(f"{URL}/skeletons", {7: Skeleton(corners, np.array([[0, 1]]))}, overwrite=True)
    for name in ("own", "skeletons"):
        source = source_of(f"{URL}/{name}")
        frame = frame_of([source], [7, 8])
        assert frame.low == pytest.approx((-5, 0, 0), abs=0.1)
        assert frame.high == pytest.approx((95, 40, 60), abs=0.1)
        state, _ = view_state([Layer(source, "a", name)], None, 600, [7])
        assert (state["position"], state["layout"]) == ([45.5, 20.5, 30.5], "3d")
        assert not frame_of([source], [8]).is_known
        assert not frame_of([source]).is_known


def test_segments_are_selected_in_segmentations() -> None:
    points, labels = alone("points", points_info()), volume()
    layers = [Layer(labels, "a", "labels"), Layer(points, "b", "points")]
    state, _ = view_state(layers, None, 600, iter([2**64 - 1, int(np.uint8(3))]))
    assert state["layers"] == [
        {"name": "labels", "source": "a", "type": "segmentation", "segments": [str(2**64 - 1), "3"]},
        {"name": "points", "source": "b", "type": "annotation"},
    ]
    for wrong in ([-1], [2**64]):
        with pytest.raises(ValueError, match="segments: expected ids from 0 to 18446744073709551615, got "):
            view_state(layers, None, 600, wrong)
    with pytest.raises(TypeError, match="segments"):
        view_state(layers, None, 600, ["one"])  # type: ignore[list-item]


def test_annotations_are_viewed_beside_a_volume() -> None:
    alone("points", points_info())
    labels = volume()
    shown = view(labels, f"{URL}/points")
    assert shown.volumes == (labels,)
    assert repr(shown).startswith("<View of memory://test_extent/vol and memory://test_extent/points: http://")
    folder = source_of(f"{URL}/points")
    assert view(folder).server is view(folder).server
    shown.server.close()
    view(folder).server.close()


def test_what_cannot_be_shown_is_named() -> None:
    labels = volume()
    labels.store_segment_properties({"label": ["one"]}, ids=[1])
    with pytest.raises(TypeError, match="or what open_annotations, open_meshes or open_skeletons returns, got Segment"):
        view(labels, labels.segment_properties)
