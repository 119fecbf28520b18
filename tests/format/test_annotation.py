import itertools
import json
import random
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.annotation import (
    Block,
    Layout,
    Ragged,
    client_differs,
    decode_many,
    decode_single,
    encode_lists,
    encode_many,
    encode_singles,
    properties_dtype,
    ranges,
    single_lengths,
)
from precomputed_fs.format.annotation_info import KINDS, AnnotationInfo, Property

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Not uint32: the writer of Neuroglancer 2.41 aligns it to 3 bytes (``_PROPERTY_DTYPES``), which its client does not
# read; its sources have 4 since.
PROPERTIES = {"a": "uint8", "c": "rgb", "f": "float32", "h": "uint16", "q": "rgba", "s": "int8", "i": "int32"}
FILES = [b"", b"\0" * 7, b"\1" + b"\0" * 7, b"\xff" * 8, b"\xff" * 64]


def layout_of(kind: str, names: str = "acfhqsi", relationships: int = 2) -> Layout:
    dtype = properties_dtype([Property(name, PROPERTIES[name]) for name in names])
    return Layout(kind, 3, dtype, relationships)


def block_of(kind: str, count: int, layout: Layout, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    geometry: NDArray[Any] | Ragged = rng.random((count, layout.vectors, 3), np.float32)
    if kind == "polyline":
        lengths = rng.integers(0, 5, count)
        geometry = Ragged.of(rng.random((lengths.sum(), 3), np.float32), lengths)
    related = []
    for _ in range(layout.relationships):
        lengths = rng.integers(0, 4, count)
        related.append(Ragged.of(rng.integers(0, 1 << 63, lengths.sum(), np.uint64), lengths))
    properties = np.zeros(count, layout.dtype)
    for name in layout.dtype.names or ():
        values = rng.integers(0, 100, properties[name].shape)
        properties[name] = values
    return Block(rng.integers(0, 1 << 63, count, np.uint64), geometry, properties, tuple(related))


def assert_equal(found: Block, expected: Block, *, has_related: bool) -> None:
    np.testing.assert_array_equal(found.ids, expected.ids)
    for name in expected.properties.dtype.names or ():
        np.testing.assert_array_equal(found.properties[name], expected.properties[name])
    pairs = [(found.geometry, expected.geometry)]
    if has_related:
        assert found.related is not None
        assert expected.related is not None
        pairs += zip(found.related, expected.related, strict=True)
    for one, other in pairs:
        for a, b in zip(one, other, strict=True) if isinstance(other, Ragged) else [(one, other)]:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 17])
@pytest.mark.parametrize("names", ["", "a", "acfhqsi"])
def test_what_is_encoded_is_decoded(kind: str, count: int, names: str) -> None:
    layout = layout_of(kind, names)
    block = block_of(kind, count, layout)
    assert_equal(decode_many(encode_many(block, layout), layout), block, has_related=False)
    singles = [*map(bytes, encode_singles(block, layout))]
    assert single_lengths(block, layout).tolist() == [*map(len, singles)]
    decoded = [decode_single(data, key, layout) for data, key in zip(singles, block.ids.tolist(), strict=True)]
    if decoded:
        assert_equal(Block.joined(decoded), block, has_related=True)
    lists = [*encode_lists(block, [0, count // 2, count // 2, count], layout)]
    assert [len(decode_many(data, layout)) for data in lists] == [count // 2, 0, count - count // 2]


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_neuroglancers_writer(tmp_path: Path, kind: str) -> None:
    neuroglancer = pytest.importorskip("neuroglancer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neuroglancer import write_annotations

    space = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[4, 4, 40])
    specs = [neuroglancer.AnnotationPropertySpec(id=name, type=type_) for name, type_ in PROPERTIES.items()]
    writer = write_annotations.AnnotationWriter(space, kind, relationships=["pre", "post"], properties=specs)
    layout = layout_of(kind)
    block = block_of(kind, 9, layout)
    if isinstance(block.geometry, Ragged):  # at least 2 points
        block = block.take(block.geometry.lengths > 1)
    assert block.related is not None
    for i, key in enumerate(block.ids.tolist()):
        values = {name: block.properties[name][i] for name in PROPERTIES}
        related = {name: lists.item(i).tolist() for name, lists in zip(("pre", "post"), block.related, strict=True)}
        geometry = block.geometry.item(i) if isinstance(block.geometry, Ragged) else block.geometry[i]
        vectors = [geometry] if kind == "polyline" else [*geometry]
        getattr(writer, f"add_{kind}")(*vectors, id=key, **values, **related)
    writer.write(tmp_path)

    info = AnnotationInfo.parse(json.loads((tmp_path / "info").read_text()))
    assert Layout.of(info) == layout
    assert (info.kind, dict(info.dimensions)) == (kind, {"x": (4e-9, "m"), "y": (4e-9, "m"), "z": (4e-8, "m")})
    assert encode_many(block, layout) == (tmp_path / "spatial0" / "0_0_0").read_bytes()
    singles = zip(block.ids.tolist(), encode_singles(block, layout), strict=True)
    assert all(bytes(data) == (tmp_path / "by_id" / str(key)).read_bytes() for key, data in singles)


def test_properties_are_sorted_by_size_and_padded() -> None:
    dtype = layout_of("point", "acfhqs").dtype
    assert dtype.names == ("f", "h", "a", "c", "q", "s")
    assert [dtype.fields[name][1] for name in dtype.names] == [0, 4, 6, 7, 10, 14]  # type: ignore[index]
    assert dtype.itemsize == 16


def test_colours_that_the_client_expects_elsewhere_are_found() -> None:
    def differs(*types: str) -> bool:
        properties = [Property(f"p{i}", type_) for i, type_ in enumerate(types)]
        return client_differs(Layout("point", 3, properties_dtype(properties), 0))

    assert not differs(*["float32"] * 100)
    assert not differs(*["uint8"] * 300)
    assert not differs(*["rgb"] * 2)
    assert differs(*["float32"] * 59, "uint16", "rgb")  # 12 + 236 + 2 bytes before it
    assert not differs(*["float32"] * 60, "rgb")


# ------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", ["point", "polyline"])
@pytest.mark.parametrize("data", FILES)
def test_lengths_that_are_impossible_are_damage(kind: str, data: bytes) -> None:
    layout = layout_of(kind)
    with pytest.raises(CorruptDataError):
        decode_many(data, layout)
    with pytest.raises(CorruptDataError):
        decode_single(data, 5, layout)


@pytest.mark.parametrize("kind", ["line", "polyline"])
def test_mutated_files_are_read_or_damage(kind: str) -> None:
    layout = layout_of(kind)
    block = block_of(kind, 8, layout)
    many, single = encode_many(block, layout), bytes(next(encode_singles(block, layout)))
    rng = random.Random(3)
    failures = 0
    for _ in range(600):
        for data in (many, single):
            mutated = bytearray(data)
            for _ in range(rng.randint(1, 4)):
                mutated[rng.randrange(min(len(data), 40))] = rng.choice((0, 1, 2, 127, 128, 255))
            mutated = mutated[: rng.choice((len(data), rng.randrange(len(data))))]
            try:
                found = (
                    decode_many(bytes(mutated), layout) if data is many else decode_single(bytes(mutated), 1, layout)
                )
            except CorruptDataError:
                failures += 1
            else:
                assert len(found) <= len(mutated)
    assert 200 < failures < 1200


# ------------------------------------------------------------------------------------------------------------- arrays


def test_ranges() -> None:
    starts, lengths = np.array([5, 0, 9]), np.array([2, 0, 3])
    expected = itertools.chain.from_iterable(range(a, a + n) for a, n in zip(starts, lengths, strict=True))
    assert ranges(starts, lengths).tolist() == [*expected]
    assert ranges(starts[:0], lengths[:0]).tolist() == []


def test_some_of_a_block() -> None:
    layout = layout_of("polyline")
    block = block_of("polyline", 6, layout)
    some = block.take(np.array([4, 1]))
    assert some.ids.tolist() == block.ids[[4, 1]].tolist()
    assert isinstance(some.geometry, Ragged)
    assert isinstance(block.geometry, Ragged)
    assert some.geometry.item(0).tolist() == block.geometry.item(4).tolist()
    assert some.related is not None
    assert block.related is not None
    assert some.related[1].item(1).tolist() == block.related[1].item(1).tolist()
    assert_equal(Block.joined([block.take(np.arange(6) < 2), block.take(np.arange(2, 6))]), block, has_related=True)
