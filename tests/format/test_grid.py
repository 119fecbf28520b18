"""Names, coordinates and ids of chunks."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs.format.compression import SUFFIXES, split_suffix
from precomputed_fs.format.grid import (
    ChunkCoords,
    ChunkGrid,
    chunk_coords,
    chunk_name,
    compressed_morton_code,
    layout_of,
    parse_chunk_name,
)

COORDS: ChunkCoords = (0, 64, 64, 128, 128, 189)

# Volumes may be larger than 2^31 voxels on a side.
intervals = st.tuples(st.integers(-(2**40), 2**40), st.integers(1, 2**20)).map(lambda pair: (pair[0], sum(pair)))
boxes = st.tuples(intervals, intervals, intervals).map(lambda xyz: (*xyz[0], *xyz[1], *xyz[2]))


def parsed(name: str, separator: str) -> ChunkCoords:
    """Read the coordinates off a name, as another tool does."""
    interval = r"(-?\d+)-(-?\d+)"
    match = re.fullmatch(separator.join([interval] * 3), name)
    assert match is not None, name
    x0, x1, y0, y1, z0, z1 = map(int, match.groups())
    return x0, x1, y0, y1, z0, z1


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("coords", "flat", "subdirectories"),
    [
        (COORDS, "0-64_64-128_128-189", "0-64/64-128/128-189"),
        ((-64, 0, -128, -64, -1, 1), "-64-0_-128--64_-1-1", "-64-0/-128--64/-1-1"),
        ((2**31, 2**31 + 64, 0, 1, 0, 1), "2147483648-2147483712_0-1_0-1", "2147483648-2147483712/0-1/0-1"),
    ],
    ids=["from zero", "negative", "beyond 32 bits"],
)
def test_name_in_both_layouts(coords: ChunkCoords, flat: str, subdirectories: str) -> None:
    assert chunk_name(coords) == flat
    assert chunk_name(coords, flat=True) == flat
    assert chunk_name(coords, flat=False) == subdirectories


@given(boxes)
def test_flat_name_parses_back_to_its_coordinates(coords: ChunkCoords) -> None:
    assert parsed(chunk_name(coords), "_") == parse_chunk_name(chunk_name(coords)) == coords


@pytest.mark.parametrize(
    "name",
    [
        "",
        "info",
        "0-64",
        "0-64_0-64",
        "0-64/0-64/0-64",
        "0-64_0-64_0-64.gz",
        "0-64_0-64_0-64_0-64",
        "\u0660-64_0-64_0-64",
    ],
)
def test_other_names_are_not_parsed_as_those_of_chunks(name: str) -> None:
    assert parse_chunk_name(name) is None


def test_a_name_with_a_reversed_axis_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="ymin < ymax"):
        parse_chunk_name("0-64_64-0_0-64")


@given(boxes)
def test_subdirectory_name_parses_back_to_its_coordinates(coords: ChunkCoords) -> None:
    assert parsed(chunk_name(coords, flat=False), "/") == coords


@given(boxes, st.sampled_from(SUFFIXES))
def test_a_suffix_comes_off_a_name_again(coords: ChunkCoords, suffix: str) -> None:
    assert split_suffix(chunk_name(coords) + suffix) == (chunk_name(coords), suffix)


def test_names_of_neighbours_differ() -> None:
    edges = [-128, -64, 0, 64, 128]
    names = {chunk_name((*x, *y, *z)) for x in pairwise(edges) for y in pairwise(edges) for z in pairwise(edges)}
    assert len(names) == 4**3


# -------------------------------------------------------------------------------------------------------- coordinates


@given(boxes)
def test_valid_coordinates_come_back_as_a_tuple(coords: ChunkCoords) -> None:
    assert chunk_coords(list(coords)) == coords
    assert chunk_coords(iter(coords)) == coords


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_numpy_integers_become_plain_ones(dtype: type[np.integer[Any]]) -> None:
    checked = chunk_coords(np.array([0, 64, 1, 2, 100, 127]).astype(dtype))
    assert checked == (0, 64, 1, 2, 100, 127)
    assert {type(value) for value in checked} == {int}
    assert chunk_name(checked) == "0-64_1-2_100-127"


@pytest.mark.parametrize(
    ("coords", "named"),
    [
        ((), "6 integers"),
        ((0, 64, 0, 64, 0), "6 integers"),
        ((0, 64, 0, 64, 0, 64, 0), "6 integers"),
        ((0, 0, 0, 64, 0, 64), "xmin < xmax"),
        ((0, 64, 64, 0, 0, 64), "ymin < ymax"),
        ((0, 64, 0, 64, 64, 63), "zmin < zmax"),
        ((0, -64, 0, 64, 0, 64), "xmin < xmax"),
        ((0.0, 64, 0, 64, 0, 64), "integers"),
        ((0, np.float32(64), 0, 64, 0, 64), "integers"),
        ((0, Fraction(64), 0, 64, 0, 64), "integers"),
        ((0, None, 0, 64, 0, 64), "integers"),
        (("0", "64", "0", "64", "0", "64"), "integers"),
        ("0-64_0-64", "integers"),
        (((0, 64), (0, 64), (0, 64)), "integers"),
    ],
    ids=str,
)
def test_what_spans_no_box_is_a_value_error(coords: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        chunk_coords(coords)
    assert str(caught.value).startswith("chunk_coords: expected ")
    assert str(tuple(coords)) in str(caught.value)


def test_coordinates_that_are_no_sequence_are_a_type_error() -> None:
    with pytest.raises(TypeError):
        chunk_coords(64)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- layout


@given(boxes)
def test_layout_is_told_by_the_entry_below_the_key(coords: ChunkCoords) -> None:
    assert layout_of(chunk_name(coords)) is True
    assert layout_of(chunk_name(coords, flat=False).partition("/")[0]) is False


@pytest.mark.parametrize(
    "name",
    [
        "",
        "info",
        "0.shard",
        "3f.shard",
        "0-64_0-64",
        "0-64_0-64_0-64.gz",
        "0-64_0-64_0-64_0-64",
        "0-64/0-64/0-64",
        "a-b",
        "0-",
        "-64",
        "64",
        "1e+06-2e+06",
        "0-64 ",
        "0-64\n",
        "0-64_0-64_0-64\n",
    ],
)
def test_other_entries_tell_no_layout(name: str) -> None:
    assert layout_of(name) is None


# -------------------------------------------------------------------------------------------------------- chunk grids

triples = st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
offsets = st.tuples(*[st.integers(-(2**33), 2**33)] * 3)


@given(st.builds(ChunkGrid, triples, triples, offsets), st.data())
def test_a_cell_and_its_chunk_lead_to_each_other(grid: ChunkGrid, data: st.DataObject) -> None:
    x, y, z = (data.draw(st.integers(0, count - 1)) for count in grid.shape)
    chunk = grid.chunk((x, y, z))
    assert chunk_coords(chunk) == chunk
    assert grid.cell(chunk) == (x, y, z)


@given(triples, st.integers(1, 300), st.integers(-(2**33), 2**33))
def test_the_chunks_of_an_axis_cover_it_once(size: tuple[int, int, int], chunk: int, offset: int) -> None:
    grid = ChunkGrid(size, (chunk, size[1], size[2]), (offset, 0, 0))
    assert grid.shape[1:] == (1, 1)
    chunks = [grid.chunk((x, 0, 0)) for x in range(grid.shape[0])]
    assert (chunks[0][0], chunks[-1][1]) == (offset, offset + size[0])
    assert all(before[1] == after[0] for before, after in pairwise(chunks))
    assert {each[1] - each[0] for each in chunks[:-1]} <= {chunk}


@pytest.mark.parametrize(
    ("coords", "said"),
    [
        ((64, 128, 0, 64, 0, 64), "the chunk there is .54, 90, "),
        ((-10, 54, 0, 64, 0, 63), "the chunk there is .-10, 54, "),
        ((54, 118, 0, 64, 0, 64), "the chunk there is .54, 90, "),
        ((118, 182, 0, 64, 0, 64), "outside of the volume"),
        ((-74, -10, 0, 64, 0, 64), "outside of the volume"),
        ((-10, 54, 64, 128, 0, 64), "outside of the volume"),
    ],
    ids=["inside a chunk", "cut short", "not clipped", "behind", "before", "aside"],
)
def test_what_is_no_chunk_of_the_grid_is_a_value_error(coords: ChunkCoords, said: str) -> None:
    grid = ChunkGrid(size=(100, 64, 64), chunk_size=(64, 64, 64), voxel_offset=(-10, 0, 0))
    for number in (grid.cell, grid.chunk_id):
        with pytest.raises(ValueError, match=said):
            number(coords)


def test_the_id_of_a_chunk_is_the_code_of_its_cell() -> None:
    grid = ChunkGrid(size=(300, 100, 64), chunk_size=(64, 64, 64), voxel_offset=(-10, 0, 7))
    cells = [(x, y, 0) for x in range(5) for y in range(2)]
    assert [grid.chunk_id(grid.chunk(cell)) for cell in cells] == [
        compressed_morton_code(cell, (5, 2, 1)) for cell in cells
    ]


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 4, 4), (5, 1, 3), (1, 9, 2), (2, 3, 17)])
def test_morton_codes_number_the_cells_without_collisions(shape: tuple[int, int, int]) -> None:
    cells = [(x, y, z) for x in range(shape[0]) for y in range(shape[1]) for z in range(shape[2])]
    codes = [compressed_morton_code(cell, shape) for cell in cells]
    assert len(set(codes)) == len(cells)
    bits = sum((count - 1).bit_length() for count in shape)
    assert max(codes) < 2**bits


@pytest.mark.parametrize(
    ("cell", "shape", "code"),
    [
        ((0, 0, 0), (1, 1, 1), 0),
        ((1, 0, 0), (2, 2, 2), 0b001),
        ((0, 1, 0), (2, 2, 2), 0b010),
        ((0, 0, 1), (2, 2, 2), 0b100),
        ((3, 3, 3), (4, 4, 4), 0b111111),
        ((0, 0, 1), (1, 1, 2), 0b1),
        ((4, 1, 0), (5, 2, 1), 0b1010),
        ((2**21 - 1, 0, 0), (2**21, 2**21, 2**21), int("001" * 21, 2)),
    ],
    ids=str,
)
def test_morton_codes_of_the_specification(cell: tuple[int, int, int], shape: tuple[int, int, int], code: int) -> None:
    assert compressed_morton_code(cell, shape) == code


def test_a_grid_that_needs_more_than_64_bits_has_no_morton_codes() -> None:
    with pytest.raises(ValueError, match="64"):
        compressed_morton_code((0, 0, 0), (2**22, 2**22, 2**22))
