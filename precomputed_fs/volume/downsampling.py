"""How lower scales are computed: each block of 2 voxels along some axes becomes one.

Images are averaged. An average of labels means nothing, so segmentations take the most frequent label of a block, or
simply the first.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import expected_one_of
from precomputed_fs.format.grid import Box, ChunkGrid, Triple
from precomputed_fs.volume.indexing import Touched, select, triple
from precomputed_fs.volume.labels import LabelDetector
from precomputed_fs.volume.progress import Progress, warn
from precomputed_fs.volume.scale import Scale

_FACTOR = 2
_NEARLY_ISOTROPIC = math.sqrt(2)
_AT_ONCE = 1 << 17  # voxels whose mode is found at once: the sorted labels stay in the processor's cache
_WIDEST = 8  # bytes of an integer; there is no wider type to sum these in
_BLOCK_BYTES = 32 << 20  # of the finer scale, from which a block of the next one is computed


def factors_for(size: Triple, resolution: tuple[float, float, float]) -> Triple:
    """Choose the axes to halve, such that voxels become more isotropic.

    An axis is halved if it has more than one voxel, and these are less than 1.4 times as long as the shortest ones.

    Parameters
    ----------
    size : tuple of int
        Voxels, xyz.
    resolution : tuple of float
        Nanometres, xyz.

    Examples
    --------
    >>> factors_for((6446, 6643, 8090), (4, 4, 40))
    (2, 2, 1)
    """
    shortest = min((step for step, voxels in zip(resolution, size, strict=True) if voxels > 1), default=math.inf)
    x, y, z = (
        _FACTOR if voxels > 1 and step < shortest * _NEARLY_ISOTROPIC else 1
        for step, voxels in zip(resolution, size, strict=True)
    )
    return x, y, z


def downsample(array: NDArray[Any], factors: Triple, method: str) -> NDArray[Any]:
    """Turn each block of voxels into one voxel.

    Parameters
    ----------
    array : ndarray
        (x, y, z, channel). If a size is not a multiple of its factor, the last block has fewer voxels.
    factors : tuple of int
        1 or 2 for each of x, y and z.
    method : {"average", "mode", "stride"}
        The mean, rounded half up; the most frequent value, or the smallest of several; the first one.

    Returns
    -------
    ndarray
        (x, y, z, channel), of the same type.
    """
    padding = [(0, -size % factor) for size, factor in zip(array.shape, (*factors, 1), strict=True)]
    if method != "stride" and any(after for _, after in padding):
        array = np.pad(array, padding, mode="edge")
    return METHODS[method](array, factors)


def _corners(array: NDArray[Any], factors: Triple) -> list[NDArray[Any]]:
    """Return one view per position in a block: the voxels at that position in all blocks."""
    starts = itertools.product(*map(range, factors))
    return [array[x :: factors[0], y :: factors[1], z :: factors[2]] for x, y, z in starts]


def _average(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    corners = _corners(array, factors)
    dtype, count = array.dtype, len(corners)
    if dtype.kind == "f":
        return np.asarray(sum(corner.astype(np.float64) for corner in corners) / count).astype(dtype)
    if dtype.itemsize == _WIDEST:  # sum(a) / n is sum(a // n) + sum(a % n) / n, which fits
        whole = sum(corner // count for corner in corners)
        rest = sum(corner % count for corner in corners)
        return np.asarray(whole + (rest + count // 2) // count).astype(dtype)
    wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
    total = np.full(corners[0].shape, count // 2, wide, order="F")
    for corner in corners:
        total += corner
    return (total // count).astype(dtype)


def _mode(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    thickness = factors[2] * max(1, _AT_ONCE // math.prod(array.shape[:2]))
    slabs = (array[:, :, z : z + thickness] for z in range(0, array.shape[2], thickness))
    return np.concatenate([_mode_of_slab(slab, factors) for slab in slabs], axis=2)


def _mode_of_slab(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    """Sort the voxels of each block, and find the first of the longest runs."""
    corners = _corners(array, factors)
    ranked = [*np.sort(np.stack(corners), axis=0)] if array.dtype.kind == "f" else _ranked(corners)
    mode = ranked[0].copy(order="K")
    longest = np.ones(mode.shape, np.uint8, order="F")
    run = np.ones(mode.shape, np.uint8, order="F")
    for before, here in itertools.pairwise(ranked):
        run *= here == before
        run += 1
        np.copyto(mode, here, where=run > longest)
        np.maximum(longest, run, out=longest)
    return mode


def _ranked(corners: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Sort integers across arrays: the first result has the smallest of each position, and so on.

    Comparing whole arrays takes a fifth of the time that `np.sort` takes for many short rows. It is not
    for floats: `np.minimum` and `np.maximum` both prefer NaN, so other values would be lost.
    """
    ranked = [np.array(corner, order="F") for corner in corners]
    spare = np.empty_like(ranked[0])
    for low, high in _sorting_network(len(ranked)):
        np.minimum(ranked[low], ranked[high], out=spare)
        np.maximum(ranked[low], ranked[high], out=ranked[high])
        ranked[low], spare = spare, ranked[low]
    return ranked


@functools.cache
def _sorting_network(count: int) -> list[tuple[int, int]]:
    """Return the pairs to compare and exchange in turn: Batcher's odd-even mergesort, 19 pairs for 8 values."""
    pairs = []
    steps = [1 << exponent for exponent in range((count - 1).bit_length())]
    for merged in steps:
        for step in [step for step in reversed(steps) if step <= merged]:
            lows = range(step % merged, count - step)
            pairs += [
                (low, low + step)
                for low in lows
                if (low - step % merged) // step % 2 == 0 and low // (2 * merged) == (low + step) // (2 * merged)
            ]
    return pairs


def _stride(array: NDArray[Any], factors: Triple) -> NDArray[Any]:
    return _corners(array, factors)[0]


METHODS: Mapping[str, Callable[[NDArray[Any], Triple], NDArray[Any]]] = {
    "average": _average,
    "mode": _mode,
    "stride": _stride,
}
"""How a block of voxels becomes one, by name."""


# -------------------------------------------------------------------------------------------------------- whole scales


_OTHER_NAMES = {"majority": "mode", "mean": "average", "nearest": "stride", "subsample": "stride"}


def checked_method(method: str | None, layer_type: str) -> str:
    """Check a method, or choose one: the mode for segmentations, else the average.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if method is None:
        return "mode" if layer_type == "segmentation" else "average"
    if method not in METHODS:
        raise ValueError(expected_one_of("downsampling", METHODS, method, _OTHER_NAMES))
    return method


def halved(bounds: Box, factors: Triple) -> Box:
    """Return the box of the voxels that all voxels of a box are made into."""
    start = triple(low // factor for low, factor in zip(bounds.start, factors, strict=True))
    stop = triple(-(-high // factor) for high, factor in zip(bounds.stop, factors, strict=True))
    return Box(start, stop)


def compute_lower_scales(
    scales: Sequence[Scale],
    method: str,
    *,
    boxes: Sequence[Box] | None = None,
    skip_empty: bool,
    shows: bool | None,
    detector: LabelDetector | None = None,
) -> None:
    """Compute each scale but the first from the one before: see `Volume.downsample`.

    Parameters
    ----------
    scales : sequence of Scale
        The finest first.
    method : str
    boxes : sequence of Box, optional
        What to compute of each scale; by default everything.
    skip_empty : bool
        See `Scale.write`.
    shows : bool, optional
        Whether progress is shown.
    detector : LabelDetector, optional
        Looks at the finest scale; if that may be labels, a UserWarning says that averages were made of these.
    """
    pairs = [(*pair, factors_between(*pair)) for pair in itertools.pairwise(scales)]  # raises before any is written
    wanted = [scale.bounds for scale in scales] if boxes is None else boxes
    for (finer, coarser, factors), part in zip(pairs, wanted[1:], strict=True):
        xs, ys, zs = map(range, part.start, part.stop)
        touched = Touched(_blocks(coarser, factors), (xs, ys, zs))
        with Progress(f"downsampling to {coarser.key}", len(touched), shows, unit="block") as bar:
            for coords in touched:
                box = Box.of(coords) & part
                block = _block_of(finer, box, factors)
                if detector is not None:
                    detector.add(block)
                voxels = downsample(block, factors, method)
                coarser.write(box, voxels, skip_empty=skip_empty, progress=False, flush=False)
                bar.relative_update(1)
        coarser.volume.flush_unless_in_block()
        if detector is not None and (likeness := detector.likeness_to_labels(of=math.prod(finer.shape))):
            message = (
                f"{finer.volume.url}: these integers {likeness}, and lower scales are averages, which mean nothing for "
                'labels: pass type="segmentation", or type="image" if that is meant'
            )
            warn(message)
        detector = None


def factors_between(finer: Scale, coarser: Scale) -> Triple:
    """Return by which factor each axis is coarser."""
    for x, y, z in itertools.product((1, _FACTOR), repeat=3):
        if halved(finer.bounds, (x, y, z)) == coarser.bounds and all(
            math.isclose(coarse, fine * factor, rel_tol=1e-6)
            for coarse, fine, factor in zip(coarser.resolution, finer.resolution, (x, y, z), strict=True)
        ):
            return x, y, z
    message = (
        f"{coarser.shown}, {coarser.bounds}, is not {finer.shown}, {finer.bounds}, halved along some axes: "
        "write it yourself"
    )
    raise ValueError(message)


def _blocks(scale: Scale, factors: Triple) -> ChunkGrid:
    """Cut a scale into boxes of whole chunks, such that the finer voxels of a box take a bounded number of bytes."""
    block = list(scale.chunk_size)
    voxel_bytes = math.prod(factors) * scale.shape[3] * scale.dtype.itemsize
    for axis in itertools.cycle(range(3)):
        if math.prod(block) * voxel_bytes * 2 > _BLOCK_BYTES:
            break
        if all(size <= length for size, length in zip(scale.info.size, block, strict=True)):
            break
        block[axis] *= 2
    return ChunkGrid(scale.info.size, triple(block), scale.voxel_offset)


def _block_of(finer: Scale, box: Box, factors: Triple) -> NDArray[Any]:
    """Read the finer voxels that a box is computed from."""
    start = triple(map(operator.mul, box.start, factors))
    stop = triple(map(operator.mul, box.stop, factors))
    selection = select(Box(start, stop) & finer.bounds, finer.shape, finer.bounds)
    # Absent chunks may have been left out as empty, perhaps all of them.
    voxels: NDArray[Any] = finer.read_selection(selection, missing="zeros", progress=False, warns=False)
    before = [(max(0, low - first), 0) for low, first in zip(finer.bounds.start, start, strict=True)]
    # If a volume begins at an odd coordinate, half of its first block is outside.
    return np.pad(voxels, [*before, (0, 0)], mode="edge") if any(count for count, _ in before) else voxels
