"""Decodes the labels of a box, or at points, into any array, without the GIL. Compiled by Numba.

Indices are unsigned: Numba looks whether a signed one is negative.
"""
# ruff: noqa: PLR0917 - Numba compiles plain functions of numbers and arrays

from typing import Any

import numba
import numpy as np

from precomputed_fs.codecs.chunks import Array
from precomputed_fs.codecs.label_blocks import Kernel
from precomputed_fs.format.grid import Triple

_U = np.uint64
_MOST_BITS = 16
_WORDS = numba.types.Array(numba.types.uint32, 1, "C", readonly=True)
_CUTS = numba.types.Array(numba.types.int64, 2, "C", readonly=True)
_AXIS = numba.types.Array(numba.types.int64, 1, "C")
_THREE = numba.types.UniTuple(numba.types.int64, 3)
_part_of_it = numba.njit(error_model="numpy")


def load_for_boxes(data_type: str) -> Kernel:
    """Compile `_box` for labels of a type, or load it from Numba's cache on disk.

    The cache is beside this file or in the user's folder. Where neither can be written to, there is none.
    """
    return _compiled(_box, data_type, _CUTS)


def load_for_points(data_type: str) -> Kernel:
    """Compile `_points`, or load it: see `load_for_boxes`."""
    return _compiled(_points, data_type, _AXIS)


def _compiled(function: Kernel, data_type: str, axis: numba.types.Array) -> Kernel:
    labels = numba.types.Array(getattr(numba.types, data_type), 4, "A")
    signature = (_WORDS, _WORDS, _THREE, _THREE, numba.types.int64, axis, axis, axis, _THREE, labels)
    try:
        return _compiled_once(function, signature, cache=True)
    except Exception:  # noqa: BLE001 - whatever is wrong with the folder, or a file in it
        return _compiled_once(function, signature, cache=False)


def _compiled_once(function: Kernel, signature: tuple[Any, ...], *, cache: bool) -> Kernel:
    kernel: Any = numba.njit(function, nogil=True, error_model="numpy", cache=cache)
    kernel.compile(signature)
    kernel.disable_compile()  # for arrays of other layouts: these are taken as they are
    compiled: Kernel = kernel
    return compiled


def _box(  # pragma: no cover - it runs as machine code
    words: Array,
    starts: Array,
    grid: Triple,
    block_size: Triple,
    voxels: int,
    xs: Array,
    ys: Array,
    zs: Array,
    steps: Triple,
    out: Array,
) -> bool:
    """Decode a box; see `Kernel`."""
    columns, rows, layers = grid
    width, height, _ = block_size
    header_words = 2 * columns * rows * layers
    for channel in range(starts.size):
        for z in range(zs.shape[0]):
            for y in range(ys.shape[0]):
                for x in range(xs.shape[0]):
                    number = xs[x, 2] + columns * (ys[y, 2] + rows * zs[z, 2])
                    part = out[xs[x, 0] : xs[x, 1], ys[y, 0] : ys[y, 1], zs[z, 0] : zs[z, 1], channel]
                    at = (xs[x, 3], ys[y, 3], zs[z, 3])
                    block = words[starts[channel] :]
                    if not _block(block, number, header_words, voxels, width, height, at, steps, part):
                        return False
    return True


def _points(  # pragma: no cover
    words: Array,
    starts: Array,
    grid: Triple,
    block_size: Triple,
    voxels: int,
    xs: Array,
    ys: Array,
    zs: Array,
    size: Triple,
    out: Array,
) -> bool:
    """Decode points; see `Kernel`."""
    columns, rows, layers = grid
    width, height, depth = block_size
    header_words = 2 * columns * rows * layers
    for i in range(xs.size):
        x, y, z = xs[i], ys[i], zs[i]
        if min(x, y, z) < 0 or x >= size[0] or y >= size[1] or z >= size[2]:
            return False
        number = x // width + columns * (y // height + rows * (z // depth))
        at = (x % width, y % height, z % depth)
        for channel in range(starts.size):
            part = out[i : i + 1, :, :, channel]
            block = words[starts[channel] :]
            if not _block(block, number, header_words, voxels, width, height, at, (1, 1, 1), part):
                return False
    return True


@_part_of_it
def _block(  # pragma: no cover
    words: Array,
    number: int,
    header_words: int,
    voxels: int,
    width: int,
    height: int,
    at: Triple,
    steps: Triple,
    out: Array,
) -> bool:
    """Decode a part of a block after the checks that `LabelBlocks` makes."""
    label_words = _U(out.itemsize // 4)
    end = _U(words.size)
    header = _U(words[_U(2 * number)])
    bits, table, values = header >> _U(24), header & _U(0xFFFFFF), _U(words[_U(2 * number + 1)])
    if table < _U(header_words) or bits > _U(_MOST_BITS) or bits & (bits - _U(1)):
        return False
    if bits and values + (bits * _U(voxels) + _U(31)) // _U(32) > end:
        return False
    if table + (label_words << bits) > end:
        last = _last_label(words, values, bits, voxels) if bits else _U(0)
        if table + (last + _U(1)) * label_words > end:
            return False
    if bits:
        _spread(words, table, values, bits, width, height, at, steps, out)
    else:
        label = _U(words[table])
        if label_words > 1:
            label |= _U(words[table + _U(1)]) << _U(32)
        _fill(label, out)
    return True


@_part_of_it
def _last_label(words: Array, values: np.uint64, bits: np.uint64, voxels: int) -> np.uint64:  # pragma: no cover
    """Return the largest index into the table of labels."""
    mask = (_U(1) << bits) - _U(1)
    last = _U(0)
    for i in range(voxels):
        position = _U(i) * bits
        last = max(last, (_U(words[values + (position >> _U(5))]) >> (position & _U(31))) & mask)
    return last


@_part_of_it
def _spread(  # pragma: no cover
    words: Array,
    table: np.uint64,
    values: np.uint64,
    bits: np.uint64,
    width: int,
    height: int,
    at: Triple,
    steps: Triple,
    out: Array,
) -> None:
    """Look up the label of each voxel."""
    mask = (_U(1) << bits) - _U(1)
    step = _U(steps[0]) * bits
    for k in range(out.shape[2]):
        for j in range(out.shape[1]):
            row = (at[2] + k * steps[2]) * height + at[1] + j * steps[1]
            position = _U(row * width + at[0]) * bits
            for i in range(out.shape[0]):
                index = (_U(words[values + (position >> _U(5))]) >> (position & _U(31))) & mask
                position += step
                if out.itemsize > 4:  # noqa: PLR2004
                    label = table + _U(2) * index
                    out[i, j, k] = _U(words[label]) | (_U(words[label + _U(1)]) << _U(32))
                else:
                    out[i, j, k] = words[table + index]


@_part_of_it
def _fill(label: np.uint64, out: Array) -> None:  # pragma: no cover
    for k in range(out.shape[2]):
        for j in range(out.shape[1]):
            for i in range(out.shape[0]):
                out[i, j, k] = label
