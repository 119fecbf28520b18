"""The compiled kernels: the same labels as NumPy's and the library's, and the same damage, whatever is asked for."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import compressed_segmentation
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precomputed_fs import CorruptDataError
from precomputed_fs.codecs.chunks import DamagedError
from precomputed_fs.codecs.compressed_segmentation import BOX_KERNELS, POINT_KERNELS
from precomputed_fs.codecs.label_blocks import LabelBlocks, label_blocks
from tests.codecs.samples import BLOCK_SIZE, SEGMENTATION, Array, Case, codec_of, sample, small_arrays, voxels_of
from tests.codecs.test_damage import mutated

if TYPE_CHECKING:
    from precomputed_fs.codecs import Codec
    from precomputed_fs.codecs.label_blocks import Kernel
    from precomputed_fs.format.grid import Triple

ALL = slice(None)
WHOLE = (ALL, ALL, ALL, ALL)
DATA_TYPES = ("uint32", "uint64")

pytest.importorskip("numba")


class Kernels(NamedTuple):
    box: Kernel
    points: Kernel

    def of(self, index: Any) -> Kernel:
        return self.box if isinstance(index[0], slice) else self.points


@pytest.fixture(scope="module")
def loaded() -> dict[str, Kernels]:
    from precomputed_fs.codecs import label_kernel

    return {name: Kernels(label_kernel.load_for_boxes(name), label_kernel.load_for_points(name)) for name in DATA_TYPES}


@pytest.fixture(autouse=True)
def kernels(_without_kernels: None, loaded: dict[str, Kernels], monkeypatch: pytest.MonkeyPatch) -> dict[str, Kernels]:
    """Let kernels decode, and for boxes nothing else unless a block is damaged."""
    monkeypatch.delattr(compressed_segmentation, "decompress")
    for name, kernels in loaded.items():
        monkeypatch.setattr(BOX_KERNELS[name], "_function", kernels.box)
        monkeypatch.setattr(POINT_KERNELS[name], "_function", kernels.points)
    return loaded


def blocks_of(codec: Codec, data: bytes, size: Triple) -> LabelBlocks:
    return label_blocks(codec, data, size, codec.parameters[BLOCK_SIZE])


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[slice, slice, slice, slice]:
    """Draw the index of a box, with steps."""
    box = []
    for length in shape:
        start = draw(st.integers(0, length - 1))
        box.append(slice(start, draw(st.integers(start, length)), draw(st.integers(1, 11))))
    x, y, z, channels = box
    return x, y, z, channels


@settings(max_examples=80, deadline=None)
@given(
    array=small_arrays(np.dtype("uint64"), 3, largest=12),
    block_size=st.tuples(*[st.integers(1, 7)] * 3),
    data_type=st.sampled_from(DATA_TYPES),
    data=st.data(),
)
def test_a_box_is_what_was_encoded_there(array: Array, block_size: Triple, data_type: str, data: st.DataObject) -> None:
    codec = codec_of(SEGMENTATION, data_type, 3, **{BLOCK_SIZE: list(block_size)})
    array = array.astype(data_type)
    encoded, size = codec.encode(array), array.shape[:3]
    whole = codec.decode(encoded, size)
    np.testing.assert_array_equal(whole, array)
    assert whole.dtype == codec.dtype
    box = data.draw(boxes(array.shape))
    room = np.full([2 * length + 1 for length in array.shape], 77, data_type, order=data.draw(st.sampled_from("CF")))
    out = room[1::2, 1::2, ::-2, 1::2][tuple(slice(0, length) for length in array[box].shape)]
    assert codec.decode_part(encoded, size, box, out) is out
    np.testing.assert_array_equal(out, array[box])
    assert np.count_nonzero(room != 77) <= out.size, "nothing else is written"


@settings(max_examples=80, deadline=None)
@given(
    array=small_arrays(np.dtype("uint64"), 3, largest=12),
    block_size=st.tuples(*[st.integers(1, 7)] * 3),
    data_type=st.sampled_from(DATA_TYPES),
    data=st.data(),
)
def test_points_are_what_was_encoded_there(
    loaded: dict[str, Kernels], array: Array, block_size: Triple, data_type: str, data: st.DataObject
) -> None:
    codec = codec_of(SEGMENTATION, data_type, 3, **{BLOCK_SIZE: list(block_size)})
    array = array.astype(data_type)
    count = data.draw(st.integers(0, 5))
    lists = [st.lists(st.integers(0, length - 1), min_size=count, max_size=count) for length in array.shape[:3]]
    x, y, z = (np.array(data.draw(axis), data.draw(st.sampled_from([np.int64, np.uint8]))) for axis in lists)
    points = (x, y, z, slice(data.draw(st.integers(0, 2)), 3, data.draw(st.integers(1, 2))))
    blocks = blocks_of(codec, codec.encode(array), array.shape[:3])
    expected = array[points]
    room = np.full([2 * length + 1 for length in expected.shape], 77, data_type)
    out = room[1::2, 1::2]
    assert blocks.decode(loaded[data_type].points, points, out) is out
    np.testing.assert_array_equal(out, expected)
    assert np.count_nonzero(room != 77) <= out.size, "nothing else is written"
    np.testing.assert_array_equal(blocks.decode(loaded[data_type].points, points, None), expected)


@pytest.mark.parametrize("x", [12, -1, -13, 2**40])
def test_points_outside_of_the_chunk_are_left_to_numpy(kernels: dict[str, Kernels], x: int) -> None:
    codec, data = sample(Case(SEGMENTATION, "uint64", 1))
    points = (np.array([3, x]), np.array([0, 0]), np.array([0, 0]), ALL)
    assert blocks_of(codec, data, (12, 10, 9)).decode(kernels["uint64"].points, points, None) is None


def test_no_layout_of_arrays_is_compiled_for_while_reading(kernels: dict[str, Kernels]) -> None:
    codec, data = sample(Case(SEGMENTATION, "uint64", 1))
    for order in ("C", "F"):
        codec.decode_part(data, (12, 10, 9), WHOLE, np.empty((12, 10, 9, 1), np.uint64, order))
        codec.decode_part(data, (12, 10, 9), (*np.zeros((3, 2), int), ALL), np.empty((2, 1), np.uint64, order))
    assert [len(kernel.signatures) for kernel in kernels["uint64"]] == [1, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("labels", [1, 2, 3, 5, 17, 257, 60_000])
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_blocks_of_any_number_of_bits(labels: int, data_type: str) -> None:
    codec = codec_of(SEGMENTATION, data_type, 1, **{BLOCK_SIZE: [40, 40, 40]})
    array = (np.arange(64_000, dtype=data_type) % labels * 60_001 + 1).reshape(40, 40, 40, 1)
    data = codec.encode(array)
    np.testing.assert_array_equal(codec.decode(data, (40, 40, 40)), array)
    points = (*np.random.default_rng(0).integers(0, 40, (3, 50)), ALL)
    np.testing.assert_array_equal(codec.decode_part(data, (40, 40, 40), points), array[points])


@pytest.mark.parametrize("side", [64, 2**20, 2**31 - 1])
def test_blocks_may_be_larger_than_all_chunks(side: int) -> None:
    """Of one label, they take no room; of more, they take more than there is, which is noticed without overflow."""
    codec = codec_of(SEGMENTATION, "uint64", 1, **{BLOCK_SIZE: [side] * 3})
    data = struct.pack("<3IQ", 1, 2, 0xFFFFFFFF, 7)
    np.testing.assert_array_equal(codec.decode(data, (4, 3, 10)), np.full((4, 3, 10, 1), 7))
    for bits in (1, 2, 4, 8, 16):
        with pytest.raises(CorruptDataError, match="a block's voxels lie after the end"):
            codec.decode(struct.pack("<3I2Q", 1, bits << 24 | 2, 2, 7, 8), (4, 3, 10))


def test_an_array_of_another_type_or_shape_is_copied_to() -> None:
    case = Case(SEGMENTATION, "uint64", 1)
    codec, data = sample(case)
    expected = voxels_of(case)[20:32, 20:30, 5:14]
    for out in (np.zeros((12, 10, 9, 1)), np.zeros((12, 10, 9, 4), np.uint64)):
        codec.decode_part(data, (12, 10, 9), WHOLE, out)
        np.testing.assert_array_equal(out, np.broadcast_to(expected.astype(out.dtype), out.shape))
    too_small = np.zeros((11, 10, 9, 1), np.uint64)
    with pytest.raises(ValueError, match="broadcast"):
        codec.decode_part(data, (12, 10, 9), WHOLE, too_small)


# -------------------------------------------------------------------------------------------------------------- damage


def outcome(blocks: LabelBlocks, box: Any) -> Array | None:
    try:
        return blocks.pick(box)
    except DamagedError:
        return None


def assert_same_outcome(kernels: Kernels, codec: Codec, data: bytes, size: Triple, box: Any) -> bool:
    """Compare with NumPy; return whether the data are damaged there."""
    try:
        blocks = blocks_of(codec, data, size)
    except DamagedError:
        return True
    expected = outcome(blocks, box)
    decoded = blocks.decode(kernels.of(box), box, None)
    assert (decoded is None) == (expected is None)
    if decoded is not None:
        np.testing.assert_array_equal(decoded, expected)
    return decoded is None


@pytest.mark.parametrize("data_type", DATA_TYPES)
@pytest.mark.parametrize("block_size", [(8, 8, 8), (3, 5, 2), (16, 16, 16)])
def test_damage_is_noticed_as_numpy_notices_it(kernels: dict[str, Kernels], data_type: str, block_size: Triple) -> None:
    codec = codec_of(SEGMENTATION, data_type, 2, **{BLOCK_SIZE: list(block_size)})
    data = codec.encode(voxels_of(Case(SEGMENTATION, data_type, 3))[20:32, 20:30, 5:14, :2])
    damaged = 0
    for seed in range(300):
        chance = random.Random(seed)
        changed = mutated(data, chance)
        box = (slice(7, 9), slice(2, 9, 3), slice(8, 9), slice(1, 2))
        points = (np.array([7, 11, 0]), np.array([9, 2, 2]), np.array([8, 8, 0]), slice(1, 2))
        for index in (WHOLE, box, points):
            damaged += assert_same_outcome(kernels[data_type], codec, changed, (12, 10, 9), index)
    assert 75 < damaged < 825


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_no_changed_word_leads_outside(kernels: dict[str, Kernels], data_type: str) -> None:
    """Each word in turn leads to just before and after the end, and far away."""
    codec, data = sample(Case(SEGMENTATION, data_type, 3), (9, 9, 2))
    words = np.frombuffer(data, "<u4")
    damaged = 0
    for position in range(words.size):
        high = int(words[position]) & 0xFF000000
        for value in (words.size - 1, words.size, high | words.size - 1, high | words.size, 0xFFFFFFFF, 1 << 29):
            changed = words.copy()
            changed[position] = value
            for index in (WHOLE, (np.array([0, 8]), np.array([0, 8]), np.array([0, 1]), ALL)):
                damaged += assert_same_outcome(kernels[data_type], codec, changed.tobytes(), (9, 9, 2), index)
    assert damaged


def test_the_message_is_that_of_numpy() -> None:
    codec, data = sample(Case(SEGMENTATION, "uint32", 1))
    changed = bytearray(data)
    changed[4 * 3 + 3] = 3  # bits of a voxel, of the second block
    with pytest.raises(CorruptDataError, match=r"chunk of 12 x 10 x 9 voxels.*: a block has 3 bits a voxel"):
        codec.decode(bytes(changed), (12, 10, 9))
    codec.decode_part(bytes(changed), (12, 10, 9), (slice(0, 8), ALL, ALL, ALL))


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    from precomputed_fs.codecs import label_kernel

    asked = []

    def compile_(_: object, __: object, *, cache: bool) -> type[bool]:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function '_box': no locator available")
        return bool

    monkeypatch.setattr(label_kernel, "_compiled_once", compile_)
    for load in (label_kernel.load_for_boxes, label_kernel.load_for_points):
        assert load("uint32") is bool
    assert asked == [True, False, True, False]
