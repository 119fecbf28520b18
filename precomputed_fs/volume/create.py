"""How a pyramid is made: its place claimed, its chunks stored, its `info` last, so that half of one never opens."""

import contextlib
import math
import operator
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from precomputed_fs.accessor import OPTION_DEFAULTS, FsspecAccessor
from precomputed_fs.codecs import ENCODINGS, take_parameters
from precomputed_fs.errors import (
    AlreadyExistsError,
    InvalidInfoError,
    NotFoundError,
    ReadOnlyError,
)
from precomputed_fs.format.grid import Box, ChunkGrid, Triple
from precomputed_fs.format.info import Info, ScaleInfo
from precomputed_fs.format.info_text import HtmlError
from precomputed_fs.format.lengths import VoxelSize, is_same
from precomputed_fs.format.scene_types import VOLUME
from precomputed_fs.keywords import WritingOptions, spelled_out
from precomputed_fs.pyramid import claims
from precomputed_fs.pyramid.making import REPLACE, check_kind, closing_archive, making, what_is_there
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.downsampling import checked_method, compute_lower_scales
from precomputed_fs.volume.extensions import check_not_read_from
from precomputed_fs.volume.indexing import checked_missing, triple
from precomputed_fs.volume.intake import read_source
from precomputed_fs.volume.labels import LabelDetector, may_be_labels
from precomputed_fs.volume.ome_zarr import Level
from precomputed_fs.volume.placement import FILE, MEMBER, transform_of
from precomputed_fs.volume.planning import ArrayOptions, normalized, plan
from precomputed_fs.volume.progress import Progress
from precomputed_fs.volume.sources import is_dask
from precomputed_fs.volume.volume import Volume

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage
    from numpy.typing import ArrayLike

    from precomputed_fs.store.location import Location


_LONGEST = 2  # times the longer one
_BLOCK_BYTES = 256 << 20  # that are read at once
_BLOCKS = 8  # of the source, if these are larger; zarr decodes as many at once


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def create_volume(
    url: AnyURL,
    source: "AnyURL | Location | Mapping[str, Any] | Info | ArrayLike | SpatialImage",
    *,
    resolution: VoxelSize | None = None,
    voxel_offset: Sequence[int] | None = None,
    chunk_size: int | Sequence[int] | None = None,
    axes: str | None = None,
    encoding: str | None = None,
    type: str | None = None,  # noqa: A002 - the name that it has in `info`
    sharding: bool | Mapping[str, Any] | None = None,
    scales: int | None = None,
    downsampling: str | None = None,
    skip_empty: bool = False,
    overwrite: bool = False,
    missing: str = "zeros",
    progress: bool | None = None,
    **options: Unpack[WritingOptions],
) -> Volume:
    """Make a pyramid: an empty one from an `info`, or from an array one with all lower scales.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`.
    source : mapping, array, path, URL, or image of nibabel
        An `info`: chunks that exist already stay. Or an array (x, y, z) or (x, y, z, channel), or any object
        that has a ``shape`` and a ``dtype`` and can be sliced, such as an open HDF5 data set: it is read chunk by
        chunk. A dask array is stored like `Scale.store` does. Or a NIfTI or .npy file, or an OME-Zarr image, wherever
        fsspec reaches (a ``UPath`` has storage options of its own): see the notes. All parameters up to `downsampling`
        are for arrays and images.
    resolution : float, str, or a sequence of 3
        Voxel size: nanometres, or texts with a unit such as "1 mm"; one for all axes, or xyz. An image has its own.
    voxel_offset : sequence of 3 int
        Coordinates of the array's first voxel, xyz; by default 0.
    chunk_size : int or sequence of 3 int
        Voxels, for all axes or xyz; by default 64, or less if a chunk would have more than 8 MiB.
    axes : str
        What the array's axes are, in their order: some of x, y and z, and c for channels, such as "zyx", "czyx" or
        "yxc". By default "xyz" or "xyzc", and more than 16 channels are refused as a probable mistake.
    encoding : str
        See `precomputed_fs.codecs`; by default "raw". Its parameters are further keywords, such as ``jpeg_quality=90``.
    type : {"image", "segmentation"}, optional
        In any case. By default "segmentation" if `encoding` is for labels; for a `Scale` the type of its volume;
        "segmentation" for booleans, and for integers of 32 bits or more, whose mean would be meaningless; else "image".
    sharding : bool or mapping
        True to shard as `propose_sharding` says; or each scale's ``sharding``.
    scales : int, optional
        Number of scales; by default halving goes on until one chunk holds all voxels, as far as possible: a box on
        both sides of 0 keeps a voxel on either side.
    downsampling : {"average", "mode", "stride"}, optional
        How a lower scale is computed from the one before; by default the average of images, the most frequent label
        of segmentations.
    skip_empty : bool
        Whether chunks of zeros are left out.
    overwrite : bool
        Whether to replace an existing `info` and chunks of the same names, or a pyramid that another process began.
        Other files stay: if they could be mistaken for a part of the new pyramid, the call is refused.
    missing, progress
        See `open_volume`.
    **options
        Parameters of `encoding`, and options of `FsspecAccessor`. `gzip` is None by default: chunks are compressed in
        buckets and in shards, but not on disk, where few readers look for ``.gz`` files.

    Raises
    ------
    AlreadyExistsError
        If there is an `info` or another pyramid was begun, and ``overwrite=False``; if existing scales of the same
        keys are stored in a way that cannot be overwritten; if there is an `info` of something else, such as meshes;
        or if another process is making a pyramid there.
    InvalidInfoError, ValueError, TypeError
        If the scales are invalid, or the encoding cannot store such voxels; before anything is written.

    Warns
    -----
    UserWarning
        If integers of 8 or 16 bits were averaged that may be labels, because they have few distinct values or
        mostly equal their neighbours, and neither `type` nor `downsampling` was given. If voxels are smaller than 1 nm
        or larger than 1 m, as they are if `resolution` is in another unit.

    Notes
    -----
    `info` is stored after all chunks, and an old one is deleted before any chunk is replaced: half of a pyramid never
    opens. Until then, ``info.partial`` says what is being made, since when and by which process. If that fails or
    is killed, what it has stored stays, and the same call starts over; from another machine, which cannot tell
    whether the process is gone, with ``overwrite=True``. Archives have no ``info.partial``, as nobody reads them before
    they are complete.

    Booleans are stored as a uint8 segmentation of 0 and 1, the fields of a structured type (RGB) as channels. Tensors
    (such as PyTorch's) are converted to NumPy arrays.

    Of an image, voxels are scaled as its header says; those that nibabel makes float64 are stored as float32. Labels
    (``type="segmentation"``, an encoding for labels, the header's intent, or int64) are stored as integers that hold
    them. Axes stay as they are in the file: a voxel has the same indices, plus `voxel_offset`, as in nibabel; times and
    components of vectors are channels. `info` keeps the header's affine as its member ``nifti``, and
    ``transform.json`` has it as neuroglancer-scripts writes it; `Scale.to_nifti` uses it. If `resolution` is given and
    differs from the header's, the affine does not hold and is not kept. A compressed or remote file is decompressed
    into a temporary file first, so memory does not hold its voxels.

    Of an OME-Zarr image (0.4 or 0.5: a group of zarr, or a URL with a name that ends in ".zarr"), the levels become
    scales, as long as each has the voxels that whole numbers of those of the level before make; the scales after these
    are computed. Voxel size and offset are those of its metadata; float64 and float16 are stored as float32. It is read
    block by block, so that few of its chunks are read twice.
    """
    checked_missing(missing)
    for_array = ArrayOptions(
        resolution=resolution,
        voxel_offset=voxel_offset,
        chunk_size=chunk_size,
        axes=axes,
        encoding=encoding,
        type=type,
        sharding=sharding,
        scales=scales,
        downsampling=downsampling,
    )
    accessor_options: dict[str, Any] = {"gzip": None, **options}
    parameters = take_parameters(encoding or "raw", accessor_options)
    accessor = FsspecAccessor(url, **accessor_options)
    array, levels = None, tuple[Level, ...]()
    if isinstance(source, (Info, Mapping)):
        _check_for_info(source, for_array)
        info = source if isinstance(source, Info) else Info.parse(source)
    else:
        array, for_array, placed, _, levels = read_source(source, for_array)
        info = plan(array, for_array, parameters, {} if placed is None else {MEMBER: placed.to_info()}, levels)
    info = normalized(info)
    transform = transform_of(info)
    method = checked_method(downsampling, info.type)
    pyramid = accessor.pyramid
    if not pyramid.can_write:
        raise ReadOnlyError(f"{pyramid.url}: this cannot be written to; create it where the data is to be stored")
    volume = Volume(accessor, info, missing=missing, progress=progress)
    if array is None:
        with closing_archive(pyramid):
            _store_info(pyramid, info, overwrite=overwrite)
            _store_transform(pyramid, transform, overwrite=overwrite)
        return volume
    _check_readable(array, volume)
    detector = None
    if type is None and downsampling is None and may_be_labels(array, info):
        detector = LabelDetector(volume.dtype)
    how = {"array": [*array.shape, str(array.dtype)], "gzip": accessor_options["gzip"], "flat": pyramid.options.flat}
    with closing_archive(pyramid), _making(pyramid, info, how, overwrite=overwrite):
        if not levels:
            volume[0].write(volume[0].bounds, array, skip_empty=skip_empty)
        taken = _take_levels(volume, levels, skip_empty=skip_empty)
        computed = volume.scales[max(0, taken - 1) :]
        compute_lower_scales(computed, method, skip_empty=skip_empty, shows=progress, detector=detector)
        _store_transform(pyramid, transform, overwrite=overwrite)
    return volume


def _take_levels(volume: Volume, levels: Sequence[Level], *, skip_empty: bool) -> int:
    """Write the scales that the source has itself, block by block as it stores them; return how many these are."""
    count = 0
    for scale, level in zip(volume, levels, strict=False):
        if scale.shape[:3] != level.array.shape[:3] or not is_same(scale.resolution, level.resolution):
            break
        if not level.fits(scale.voxel_offset, levels[0], volume[0].voxel_offset):
            break
        count += 1
        size = _block_size(scale.chunk_size, level.block, scale.shape[3] * scale.dtype.itemsize)
        grid = ChunkGrid(scale.info.size, size, scale.voxel_offset)
        with Progress(f"writing {scale.key}", math.prod(grid.shape), volume.progress, unit="block") as bar:
            for cell in np.ndindex(*grid.shape):
                box = Box.of(grid.chunk(triple(cell)))
                cuts = tuple(
                    slice(low - first, high - first)
                    for low, high, first in zip(box.start, box.stop, scale.voxel_offset, strict=True)
                )
                scale.write(box, level.array[cuts], skip_empty=skip_empty, progress=False, flush=False)
                bar.relative_update(1)
        volume.flush_unless_in_block()
    return count


def _block_size(chunk: Triple, block: Triple, voxel_bytes: int) -> Triple:
    """Return the size of what is read at once: whole chunks, and as much of the source's as memory may hold."""
    sizes = list(map(_common_multiple, chunk, block))
    most = max(_BLOCK_BYTES, _BLOCKS * math.prod(block) * voxel_bytes)
    while math.prod(sizes) * voxel_bytes > most and any(map(operator.gt, sizes, chunk)):
        counts = list(map(operator.floordiv, sizes, chunk))
        longest = counts.index(max(counts))
        sizes[longest] = -(-counts[longest] // 2) * chunk[longest]
    return triple(sizes)


def _common_multiple(chunk: int, block: int) -> int:
    """Return a multiple of the chunk's length, of the other's as well if that is not much longer than both."""
    common = math.lcm(chunk, block)
    return common if common <= _LONGEST * max(chunk, block) else chunk * -(-block // chunk)


def _check_for_info(source: Mapping[str, Any] | Info, for_array: ArrayOptions) -> None:
    """Check that no option is given that `info` contains itself; without `scales`, the mapping is not an `info`."""
    needless = for_array.given()
    if needless and "scales" not in source:
        raise TypeError(f"expected an array or an `info`, got {type(source).__name__}: pass one array of it")
    if needless:
        raise TypeError(f"{', '.join(needless)}: for arrays; `info` says it itself")


def _check_readable(array: Any, volume: Volume) -> None:  # noqa: ANN401 - an array, or a lazy one
    """Check that writing will not change what the array is read from, and that lower scales can read what is written.

    Raises
    ------
    ValueError
        If either is not so.
    """
    pyramid = volume.pyramid
    if is_dask(array):
        check_not_read_from(array, pyramid.location, [scale.key for scale in volume.info.scales])
    if len(volume) > 1 and not pyramid.can_read:
        message = f"{pyramid.url}: an archive that is being written cannot be read, as lower scales need: scales=1"
        raise ValueError(message)


# --------------------------------------------------------------------------------------------------- the order of steps


def _store_info(pyramid: Pyramid, info: Info, *, overwrite: bool) -> None:
    """Store an `info` alone, unless another pyramid is there or is being made."""
    infos, there = claims.look(pyramid, reads_first=False)
    if there is not None and (overwrite or not infos):
        claims.check_free(pyramid, there, overwrite=overwrite, advice=REPLACE)
    if overwrite and pyramid.can_read:
        _check_leftovers(pyramid, info, there, replaces_data=False)
        check_kind(pyramid, VOLUME, is_there=bool(infos))
    try:
        pyramid.store_info(info.to_json(), overwrite=overwrite, listed=infos)
    except AlreadyExistsError as exc:
        raise AlreadyExistsError(f"{pyramid.url}: {what_is_there(pyramid)}; {REPLACE}") from exc
    if there is not None:
        pyramid.store.delete(claims.PARTIAL)


def _store_transform(pyramid: Pyramid, transform: bytes | None, *, overwrite: bool) -> None:
    """Store ``transform.json`` for the new pyramid, or delete that of an old one."""
    if transform is not None:
        pyramid.store_file(FILE, transform, "application/json", overwrite=pyramid.can_read)
    elif overwrite and pyramid.can_read:
        pyramid.delete_file(FILE)


@contextlib.contextmanager
def _making(pyramid: Pyramid, info: Info, how: Mapping[str, Any], *, overwrite: bool) -> Iterator[None]:
    """Claim the place for a block that stores all chunks, and then store the `info`."""

    def check(there: claims.Claimed | None) -> None:
        _check_leftovers(pyramid, info, there, replaces_data=True)

    what = {**how, "info": info.to_dict()}
    with (
        making(pyramid, info.to_json(), what, overwrite=overwrite, check_leftovers=check),
        pyramid.expecting_info(info.to_dict()),
        pyramid.replacing_shards([scale.key for scale in info.scales]),
    ):
        yield


# ------------------------------------------------------------------------------------------------------- what is there


def _check_leftovers(pyramid: Pyramid, info: Info, claimed: claims.Claimed | None, *, replaces_data: bool) -> None:
    """Check that existing chunks cannot be mistaken for a part of the new pyramid.

    Raises
    ------
    AlreadyExistsError
        If they can.
    """
    try:
        there = Info.parse(pyramid.fetch_info(), most=pyramid.options.max_info_bytes)
        _check_not_mixed(pyramid, info, there, replaces_data=replaces_data)
    except (NotFoundError, InvalidInfoError) as exc:
        if isinstance(exc, HtmlError) and pyramid.is_remote:  # not a store, whatever it answers to a write
            raise
    with contextlib.suppress(InvalidInfoError):
        if claimed is not None:
            begun = Info.parse(claimed.what.get("info", {}), most=pyramid.options.max_info_bytes)
            _check_not_mixed(pyramid, info, begun, replaces_data=replaces_data)


def _check_not_mixed(pyramid: Pyramid, info: Info, there: Info, *, replaces_data: bool) -> None:
    is_same_type = (info.data_type, info.num_channels) == (there.data_type, there.num_channels)
    before = {posixpath.normpath(scale.key): scale for scale in there.scales}
    for scale in info.scales:
        old = before.get(posixpath.normpath(scale.key))
        if old is None:
            continue
        is_same_grid = (scale.grid, scale.sharding) == (old.grid, old.sharding)
        if replaces_data:  # shards merge with what is there; other chunks are all replaced
            is_mixed = scale.sharding is not None and old.sharding is not None and not is_same_grid
        else:
            is_mixed = not (is_same_grid and is_same_type and _decoding(scale) == _decoding(old))
        if is_mixed:
            message = (
                f"{pyramid.url}: scale {scale.key} is stored differently there, and its chunks would be taken for new "
                "ones: delete them first, or choose another key"
            )
            raise AlreadyExistsError(message)


def _decoding(scale: ScaleInfo) -> list[Any]:
    """Return what is needed to decode a scale's chunks."""
    row = ENCODINGS.get(scale.encoding)
    required = [parameter.key for parameter in row.parameters if parameter.required] if row else []
    return [scale.encoding, *map(scale.parameters.get, required)]
