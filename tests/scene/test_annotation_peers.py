"""Annotations that other tools wrote, and what other tools read of those written here."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import create_annotations, open_annotations
from precomputed_fs.format.annotation_info import KINDS

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 200
PROPERTIES = {"size": "uint16", "colour": "rgb", "score": "float32"}


def geometry_of(kind: str) -> Any:
    rng = np.random.default_rng(2)
    base = rng.random((COUNT, 1, 3)) * 900
    if kind == "point":
        return base[:, 0]
    if kind == "polyline":
        return [point + rng.normal(0, 30, (2 + i % 4, 3)) for i, point in enumerate(base)]
    return np.concatenate([base, base + rng.random((COUNT, 1, 3)) * 60], axis=1)


def values() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {
        "size": rng.integers(0, 1 << 16, COUNT, np.uint16),
        "colour": rng.integers(0, 256, (COUNT, 3), np.uint8),
        "score": rng.random(COUNT, np.float32),
    }


SEGMENTS = [[5, 1 << 60] if i % 3 else [] for i in range(COUNT)]


def written_by_neuroglancer(folder: Path, kind: str) -> None:
    neuroglancer = pytest.importorskip("neuroglancer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuroglancer import write_annotations

    space = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[4, 4, 40])
    specs = [neuroglancer.AnnotationPropertySpec(id=name, type=type_) for name, type_ in PROPERTIES.items()]
    writer = write_annotations.AnnotationWriter(space, kind, relationships=["segment"], properties=specs)
    for i, (geometry, segments) in enumerate(zip(geometry_of(kind), SEGMENTS, strict=True)):
        vectors = [geometry] if kind in ("point", "polyline") else [*geometry]
        given = {name: column[i] for name, column in values().items()}
        getattr(writer, f"add_{kind}")(*vectors, id=i, segment=segments, **given)
    writer.write(folder)


def written_here(folder: Path, kind: str, **how: Any) -> None:
    create_annotations(
        folder,
        geometry_of(kind),
        kind=kind,
        dimensions=(4, 4, 40),
        properties=values(),
        relationships={"segment": SEGMENTS},
        **how,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_collection_of_neuroglancers_writer(tmp_path: Path, kind: str) -> None:
    written_by_neuroglancer(tmp_path / "theirs", kind)
    written_here(tmp_path / "ours", kind, sharding=False)
    theirs, ours = open_annotations(tmp_path / "theirs"), open_annotations(tmp_path / "ours")
    assert (theirs.kind, theirs.dimensions, theirs.relationships) == (ours.kind, ours.dimensions, ours.relationships)
    for one, other in (
        (theirs.within(), ours.within()),
        (theirs.get(range(50)), ours.get(range(50))),
        (theirs.related("segment", 5), ours.related("segment", 5)),
    ):
        assert one.ids.tolist() == other.ids.tolist()
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.geometry, b.geometry)
            assert {key: np.array(value).tolist() for key, value in a.properties.items()} == {
                key: np.array(value).tolist() for key, value in b.properties.items()
            }
    # The same files but for the levels, which their writer does not make.
    for name in ("by_id/7", "by_id/8", "rel_segment/5", f"rel_segment/{1 << 60}"):
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    assert {path.name for path in (tmp_path / "theirs" / "by_id").iterdir()} == {
        path.name for path in (tmp_path / "ours" / "by_id").iterdir()
    }
    said = [json.loads((tmp_path / name / "info").read_text()) for name in ("theirs", "ours")]
    for info in said:
        info["annotation_type"] = info["annotation_type"].upper()  # as the specification has it
        for member in ("spatial", "lower_bound", "upper_bound"):
            del info[member]
    assert said[0] == said[1]


@pytest.mark.parametrize("sharding", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_neuroglancers_reader_reads_what_is_written_here(tmp_path: Path, kind: str, *, sharding: bool) -> None:
    pytest.importorskip("neuroglancer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuroglancer.read_precomputed_annotations import AnnotationReader
    written_here(tmp_path, kind, sharding=sharding, limit=30)
    ours = open_annotations(tmp_path)
    assert len(ours.info.levels) > 2
    reader = AnnotationReader(f"file://{tmp_path}")
    everything = {int(each.id): each for each in reader.get_within_spatial_bounds()}
    assert sorted(everything) == [*range(COUNT)]
    names = [each.id for each in ours.properties]
    for one in ours.get([3, 4]):
        theirs = reader.by_id[one.id]
        for each in (theirs, everything[one.id]):
            given = each.to_json()
            vectors = [given[key] for key in ("point", "pointA", "pointB", "center", "radii") if key in given]
            np.testing.assert_allclose(given.get("points") or vectors, np.atleast_2d(one.geometry), rtol=1e-6)
            found = dict(zip(names, each.props, strict=True))
            np.testing.assert_allclose(found["score"], one.properties["score"])
        assert one.related is not None
        assert [list(map(int, ids)) for ids in theirs.segments] == [one.related["segment"].tolist()]
    assert {int(each.id) for each in reader.relationships["segment"][5]} == {*ours.related("segment", 5).ids.tolist()}


@pytest.mark.parametrize("sharding", [False, True])
def test_cloud_volume_reads_points(tmp_path: Path, *, sharding: bool) -> None:
    """Read by 12.15: only points, as ``np.hstack(geometry, decoded["_pt2"])`` fails for others; no absent files."""
    pytest.importorskip("cloudvolume")
    from cloudvolume.datasource.precomputed.annotation import PrecomputedAnnotationSource

    written_here(tmp_path, "point", sharding=sharding, limit=30 if sharding else 100)
    ours = open_annotations(tmp_path)
    assert len(ours.info.levels) > 1
    theirs = PrecomputedAnnotationSource(f"file://{tmp_path}", cache=False)
    related = theirs.get_by_relationship("segment", [5])[5]
    expected = ours.related("segment", 5)
    assert related.ids.tolist() == expected.ids.tolist()
    np.testing.assert_array_equal(related.geometry, expected.geometry)
    for name in PROPERTIES:
        np.testing.assert_array_equal(related.properties[name], expected.properties[name])
    # It reads one level at a time; together they have each annotation once.
    levels = [theirs.get_all(mip=mip) for mip in range(len(ours.info.levels))]
    assert sorted(np.concatenate([level.ids for level in levels]).tolist()) == [*range(COUNT)]
