"""What Neuroglancer's client decodes of annotations that were written here: by id, in each cell, by related object."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import create_annotations, create_volume, open_annotations
from precomputed_fs.format.annotation import Layout, encode_many
from precomputed_fs.format.annotation_info import KINDS
from tests.support import browser, servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precomputed_fs.scene.annotations import AnnotationCollection
    from tests.support.browser import Chromium, Neuroglancer, Page

COUNT = 60
SEGMENT = 2**63 + 7  # no JavaScript number
IDS = np.arange(COUNT, dtype=np.uint64) * np.uint64(2**56) + np.uint64(3)

_SCRIPT = """() => window.annotations = (() => {
  const pause = () => new Promise(resolve => setTimeout(resolve, 30));
  const until = async get => { for (;; await pause()) { const value = get(); if (value != null) return value; } };
  const source = name => until(() => viewer.layerManager.managedLayers.find(layer => layer.name === name)
    ?.layer?.annotationStates?.states[0]?.source);

  async function single(name, id) {
    const {value} = await (async reference => { await until(() => reference.value); return reference; })(
      (await source(name)).getReference(id));
    const vectors = value.points ?? [value.point, value.pointA, value.pointB, value.center, value.radii];
    return {
      vectors: vectors.filter(vector => vector !== undefined).map(vector => Array.from(vector)),
      properties: value.properties.map(Number),
      related: value.relatedSegments.map(ids => Array.from(ids, String)),
    };
  }

  async function cells(name, key) {
    const sources = (await source(name)).spatiallyIndexedSources;
    const level = await until(() => [...sources].find(({parameters}) => parameters.url.endsWith(`/${key}/`)));
    const found = [], [X, Y, Z] = level.spec.upperChunkBound;
    for (let x = 0; x < X; ++x) for (let y = 0; y < Y; ++y) for (let z = 0; z < Z; ++z)
      found.push(await level.fetchChunk(Float32Array.of(x, y, z), ({data}) => data && {
        ids: data.serializedAnnotations.typeToIds.flat(), data: data.serializedAnnotations.data.toBase64(),
      }, {}));
    return found.filter(cell => cell);
  }

  async function related(name, id) {
    const now = await source(name);
    const data = await until(() => now.segmentFilteredSources[0].chunks.get(id)?.data);
    return data.serializedAnnotations.typeToIds.flat();
  }

  return {single, cells, related};
})()"""


@dataclass
class Shown:
    """Collections in the client, a layer for each kind."""

    page: Page
    collections: dict[str, AnnotationCollection]


def geometry_of(kind: str) -> Any:
    rng = np.random.default_rng(4)
    base = rng.random((COUNT, 1, 3)) * 50 + 5
    if kind == "point":
        return base[:, 0]
    if kind == "polyline":
        return [point + rng.normal(0, 3, (2 + i % 4, 3)) for i, point in enumerate(base)]
    return np.concatenate([base, base + rng.random((COUNT, 1, 3)) * 6], axis=1)


@pytest.fixture(scope="module")
def shown(chromium: Chromium, neuroglancer: Neuroglancer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    volume = create_volume(
        folder / "volume",
        np.full((64, 64, 64), SEGMENT, np.uint64),
        resolution=(8, 8, 8),
        scales=1,
        type="segmentation",
    )
    rng = np.random.default_rng(3)
    properties = {
        "size": rng.integers(0, 2**16, COUNT, np.uint16),
        "colour": rng.integers(0, 256, (COUNT, 3), np.uint8),
        "score": rng.random(COUNT, np.float32),
        "count": rng.integers(0, 2**32, COUNT, np.uint32),
    }
    for kind in KINDS:
        create_annotations(
            folder / kind,
            geometry_of(kind),
            kind=kind,
            dimensions=volume[0],
            limit=30,
            ids=IDS,
            properties=properties,
            relationships={"segment": [[SEGMENT, 5] if i % 3 else [] for i in range(COUNT)]},
            sharding=kind in ("point", "polyline"),
        )
    with servers.fault_server(browser.cors(servers.files(folder))) as server:
        layers = [
            {
                "name": kind,
                "type": "annotation",
                "source": f"precomputed://{server.url}/{kind}/",
                "linkedSegmentationLayer": {"segment": "volume"},
                "filterBySegmentation": ["segment"] if kind in ("line", "polyline") else [],
            }
            for kind in KINDS
        ]
        segments = {"name": "volume", "type": "segmentation", "source": f"precomputed://{server.url}/volume/"}
        state = {
            "dimensions": {axis: [8e-9, "m"] for axis in "xyz"},
            "position": [32, 32, 32],
            "layout": "xy",
            "showAxisLines": False,
            "showDefaultAnnotations": False,
            "layers": [segments | {"segments": [str(SEGMENT)]}, *layers],
        }
        with chromium.page(neuroglancer.url, size=(240, 240)) as page:
            # Not in the URL: the client then drops a segmentation whose code is loaded after that of annotations.
            page.evaluate("() => new Promise(resolve => setTimeout(resolve, 1000))")
            page.evaluate("state => viewer.state.restoreState(state)", {"layers": [segments]})
            browser.loaded(page)
            page.evaluate("state => viewer.state.restoreState(state)", state)
            browser.loaded(page)
            page.evaluate(_SCRIPT)
            yield Shown(page, {kind: open_annotations(folder / kind) for kind in KINDS})


@pytest.mark.parametrize("kind", ["line", "polyline"])
def test_by_related_object(shown: Shown, kind: str) -> None:
    found = shown.page.evaluate("(kind, id) => annotations.related(kind, id)", kind, str(SEGMENT))
    assert found == [*map(str, shown.collections[kind].related("segment", SEGMENT).ids.tolist())]
    assert len(found) == COUNT // 3 * 2


@pytest.mark.parametrize("kind", KINDS)
def test_by_id(shown: Shown, kind: str) -> None:
    collection = shown.collections[kind]
    for one in collection.get(IDS[[0, 7, 8]]):
        decoded = shown.page.evaluate("(kind, id) => annotations.single(kind, id)", kind, str(one.id))
        np.testing.assert_array_equal(np.array(decoded["vectors"], np.float32), np.atleast_2d(one.geometry))
        expected = [
            int.from_bytes(one.properties[each.id].tobytes(), "little") if each.is_colour else one.properties[each.id]
            for each in collection.properties
        ]
        np.testing.assert_allclose(decoded["properties"], expected)
        assert one.related is not None
        assert decoded["related"] == [[*map(str, one.related["segment"].tolist())]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("line", "polyline")])
def test_in_each_cell(shown: Shown, kind: str) -> None:
    collection = shown.collections[kind]
    blocks = {tuple(block.ids.tolist()): block.block for block in collection.blocks(exact=False)}
    levels = collection.info.levels
    assert len(levels) > 1
    ids: set[str] = set()
    for level in levels:
        for cell in shown.page.evaluate("(kind, key) => annotations.cells(kind, key)", kind, level.index.key):
            ids |= {*cell["ids"]}
            found = tuple(map(int, cell["ids"]))
            if kind == "point":  # of others, `blocks` leaves out what another cell had
                assert (
                    base64.b64decode(cell["data"])
                    == encode_many(blocks[found], Layout.of(collection.info))[8 : -8 * len(found)]
                )
    assert ids == {*map(str, IDS.tolist())}
