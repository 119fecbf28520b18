"""Methods of volumes and scales for other tools; package `interop` implements them: see `extensions`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from precomputed_fs.keywords import spelled_out
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.extensions import call_later
from precomputed_fs.volume.indexing import Index

if TYPE_CHECKING:
    import nibabel
    import xarray
    import zarr

    from precomputed_fs.volume.volume import Volume


# ----------------------------------------------------------------------------------------------------- dask and xarray


@spelled_out()
def to_dask(self: Any, chunks: Any = None) -> Any:  # noqa: ANN401 - a Scale; dask ships no types
    """Make a dask array (x, y, z, channel) of the scale, whose indices count from 0. Nothing is read yet.

    Parameters
    ----------
    chunks : optional
        The blocks, made of whole chunks. By default as many chunks as fit dask's ``array.chunk-size`` (128 MiB); in a
        sharded scale whole shards, or if a shard is larger, a contiguous part of one. A text such as
        ``"32MiB"`` is another limit. Or in voxels, multiples of `chunk_size`: an integer for all of x, y
        and z; one for each of them; or a mapping of axes. -1 is a whole axis, None or "auto" the default, a
        tuple lists each block's length.

    Returns
    -------
    dask.array.Array
        Each task reads its block, many chunks at once; if the array is sliced, only the part that remains. Absent
        chunks are treated as the volume was opened with; blocks without any chunks cause no warning.

    Raises
    ------
    ImportError
        If dask is not installed; the extra "dask" brings it.
    ValueError
        If blocks would cut through chunks, or there would be more than 2**20 along an axis.

    Notes
    -----
    The array's name depends on the URL, the options, the `info` and the blocks alone, and is the same each time: do
    not keep ``persist``-ed blocks of a scale that is written to. Tasks carry the options that the volume was
    opened with, credentials included, like a pickled volume; names do not show them.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/dask", np.ones((200, 150, 100), np.uint8), resolution=(8, 8, 8))
    >>> vol[0].to_dask(chunks=(128, 64, -1)).chunks
    ((128, 72), (64, 64, 22), (100,), (1,))
    """
    return call_later("to_dask", self, chunks)


@spelled_out()
def to_xarray(self: Any, chunks: Any = None) -> "xarray.DataArray":  # noqa: ANN401 - a Scale
    """Make a DataArray of the scale, lazy through dask: dimensions x, y, z and channel.

    Parameters
    ----------
    chunks : optional
        See `to_dask`.

    Returns
    -------
    xarray.DataArray
        Its coordinates are the **centres of voxels in nanometres**: ``(i + 0.5) * resolution`` for the voxel at the
        absolute coordinate ``i``, which in Neuroglancer extends from ``i * resolution`` to ``(i + 1) * resolution``.
        So ``sel(..., method="nearest")`` finds the voxel that contains a position. Its attributes are numbers,
        texts and lists: the keywords with which `create_volume` makes such a scale again,
        ``create_volume(url, data, **data.attrs)``.

    Raises
    ------
    ImportError
        If dask or xarray is not installed; the extra "xarray" brings them.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/xarray", np.ones((20, 15, 10), np.uint8), resolution=(8, 8, 40))
    >>> data = vol[0].to_xarray()
    >>> data.dims, data.x.values[:3], data.attrs["resolution"]
    (('x', 'y', 'z', 'channel'), array([ 4., 12., 20.]), [8, 8, 40])
    """
    lazy: xarray.DataArray = call_later("to_xarray", self, chunks)
    return lazy


@spelled_out()
def store(
    self: Any,  # noqa: ANN401 - a Scale
    array: Any,  # noqa: ANN401 - dask ships no types
    box: Index = ...,
    *,
    skip_empty: bool = False,
    compute: bool = True,
) -> Any:  # noqa: ANN401
    """Write a dask array into the scale, or into a box of it, block by block and in parallel.

    Each task writes whole chunks, and of a sharded scale whole shards. So no two tasks write the same object, in
    whatever threads, processes or machines dask runs them, and a task that failed may be repeated. If the
    array's blocks do not consist of whole chunks, it is lazily rechunked to the default blocks of `to_dask`.

    Parameters
    ----------
    array : dask.array.Array or xarray.DataArray
        Of the box's shape, (x, y, z, channel), or (x, y, z) if there is one channel. A DataArray with the
        dimensions x, y and z is brought into this order.
    box : Box, or an index as in ``scale[...]``
        In absolute coordinates, without steps or integers; by default the whole scale. The rest of chunks that it
        covers in part is kept.
    skip_empty : bool
        See `write`.
    compute : bool
        Whether to write now, with dask's current scheduler. If False, a dask array without dimensions is
        returned: computing it stores the array, and gives the number of chunks.

    Raises
    ------
    ImportError
        If dask is not installed; the extra "dask" brings it.
    TypeError
        If it is not a dask array, or its type cannot be cast to the volume's without loss.
    IndexError, ValueError
        If the box goes beyond the volume, or the array has another shape than the box, or is read from this
        very scale: a repeated task would read what it has written.

    Notes
    -----
    Chunks of a shard are encoded block by block; when the shard is written, one worker has all of its encoded chunks
    in memory. If a hash other than "identity" scatters chunks over several shards, this applies to the whole scale.

    Examples
    --------
    >>> import dask.array, numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/store", np.zeros((100, 80, 60), np.uint8), resolution=(8, 8, 8))
    >>> vol[0].store(dask.array.ones((100, 80, 60), dtype=np.uint8, chunks=30))
    >>> stored = vol[0].store(dask.array.full((64, 80, 60), 7, dtype=np.uint8), np.s_[:64], compute=False)
    >>> int(stored.compute()), vol[0][63:65, 0, 0, 0]
    (2, array([7, 1], dtype=uint8))
    """
    return call_later("store", self, array, box, skip_empty=skip_empty, compute=compute)


# ---------------------------------------------------------------------------------------------------------------- Zarr


def to_zarr(self: "Volume") -> "zarr.Group":
    """Return the volume as a Zarr v3 group, with OME-Zarr 0.5 metadata: read-only and lazy, nothing is copied.

    Returns
    -------
    zarr.Group
        With an array for each scale, the finest first: ``group["scale0/image"]``. Of a segmentation, these are
        ``group["scale0/labels"]``, and ``group["labels/segmentation/scale0"]``, where viewers look for labels. Axes
        are (z, y, x), or (c, z, y, x) if there are several channels. Indices begin at 0, whatever the volume's offset.

    Raises
    ------
    ImportError
        If zarr is not installed; the extra "zarr" brings it.

    Notes
    -----
    Each Zarr chunk is one chunk of the scale, fetched by one request. An absent one is read as zeros, unless the volume
    says ``missing="raise"``; if one cannot be read, reading fails. Listings do not show chunks.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/zarr", np.ones((20, 15, 10), np.uint8), resolution=(8, 8, 40))
    >>> array = vol.to_zarr()["scale0/image"]
    >>> array.shape, array[4, 3, 2]
    ((10, 15, 20), array(1, dtype=uint8))
    """
    group: zarr.Group = call_later("to_zarr", self)
    return group


@spelled_out()
def export_zarr(
    self: "Volume",
    url: AnyURL,
    *,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> None:
    """Write the volume as an OME-Zarr 0.5 image, with all its scales, as `to_zarr` shows it; zarr itself writes it.

    Parameters
    ----------
    url : str, path or UPath
        Where to write it, such as "s3://bucket/brain.zarr".
    storage_options : mapping, optional
        fsspec's options for that place.
    overwrite : bool
        Whether to replace a Zarr hierarchy that is there; other files are never replaced.
    progress : bool, optional
        See `open_volume`.

    Raises
    ------
    AlreadyExistsError
        If there is one, and ``overwrite=False``; or if other files are there.
    ValueError
        If the volume itself is there.
    ReadOnlyError
        If this is not where zarr can write, such as an archive.
    ImportError
        If zarr is not installed; the extra "zarr" brings it.
    DataAccessError
        If a chunk cannot be read.
    """
    call_later("export_zarr", self, url, storage_options=storage_options, overwrite=overwrite, progress=progress)


# --------------------------------------------------------------------------------------------------------------- NIfTI


@spelled_out()
def to_nifti(
    self: Any,  # noqa: ANN401 - a Scale
    box: Index | None = None,
    *,
    missing: str | None = None,
    progress: bool | None = None,
) -> "nibabel.Nifti1Image":
    """Read the scale, or a box of it, as a NIfTI image of nibabel.

    Parameters
    ----------
    box : Box, or an index as in ``scale[...]``, optional
        In absolute coordinates, without steps; by default the whole scale. An axis indexed by an integer keeps
        length 1.
    missing, progress
        See `read`.

    Returns
    -------
    nibabel.Nifti1Image
        (x, y, z), or (x, y, z, channel), in memory. A Nifti2Image if an axis has more than 32,767 voxels.

    Raises
    ------
    ImportError
        If nibabel is not installed; the extra "nifti" brings it.
    IndexError, ValueError
        If the box goes beyond the volume, is empty or has steps.
    DataAccessError
        If a chunk cannot be read.

    Notes
    -----
    The affine gives each voxel's centre in millimetres. `info` keeps that of the image which `create_volume` was given;
    otherwise ``transform.json`` of neuroglancer-scripts is used. Without either, x runs right, y anterior, z superior,
    and the voxel at ``i`` has its centre at ``(i + 0.5) * resolution``.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/nifti", np.ones((20, 15, 10), np.uint8), resolution="1 mm")
    >>> image = vol[0].to_nifti(np.s_[10:20, :, 5])
    >>> image.shape, image.affine[:3, 3]
    ((10, 15, 1), array([10.5,  0.5,  5.5]))
    """
    image: nibabel.Nifti1Image = call_later("to_nifti", self, box, missing=missing, progress=progress)
    return image
