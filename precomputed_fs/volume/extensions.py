"""Methods of volumes and scales that packages above implement: pictures, dask, xarray, Neuroglancer.

This package sits below these and imports none of them: `_IMPLEMENTED_BY` names the function behind each method, and it
is imported when the method is first called. So opening a volume stays quick, and imports run one way.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from precomputed_fs.keywords import spelled_out
from precomputed_fs.store.location import Location
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.indexing import Index

if TYPE_CHECKING:
    import nibabel
    import xarray
    import zarr
    from PIL.Image import Image

    from precomputed_fs.volume.scale import Scale
    from precomputed_fs.volume.volume import Volume

_PICTURE_PIXELS = 512  # of a picture's longer side, by default

_IMPLEMENTED_BY = {
    "show": "precomputed_fs.view.pictures:show",
    "plot": "precomputed_fs.view.plots:plot",
    "html": "precomputed_fs.view.notebook:html",
    "view": "precomputed_fs.view.views:view",
    "neuroglancer_url": "precomputed_fs.view.links:neuroglancer_url",
    "to_dask": "precomputed_fs.interop.dask:to_dask",
    "to_xarray": "precomputed_fs.interop.xarray:to_xarray",
    "to_zarr": "precomputed_fs.interop.zarr:to_zarr",
    "export_zarr": "precomputed_fs.interop.zarr_export:export_zarr",
    "store": "precomputed_fs.interop.dask_store:store",
    "to_nifti": "precomputed_fs.interop.nifti:to_nifti",
    "resize": "precomputed_fs.volume.resizing:resize",
    "check_not_read_from": "precomputed_fs.interop.dask:check_not_read_from",
    "meshes": "precomputed_fs.scene.meshes:meshes_of",
    "store_meshes": "precomputed_fs.scene.mesh_writing:store_meshes",
    "segment_properties": "precomputed_fs.scene.segment_properties:properties_of",
    "store_segment_properties": "precomputed_fs.scene.segment_property_writing:store_segment_properties",
    "skeletons": "precomputed_fs.scene.skeletons:skeletons_of",
    "store_skeletons": "precomputed_fs.scene.skeleton_writing:store_skeletons",
}
"""``module:function`` behind each name."""


def call_later(name: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever the function takes and returns
    """Import the function behind a name, and call it."""
    module, _, function = _IMPLEMENTED_BY[name].partition(":")
    return getattr(importlib.import_module(module), function)(*args, **options)


# ------------------------------------------------------------------------------------------------------------ pictures


def html(self: Any) -> str:  # noqa: ANN401 - a Volume or a Scale
    """Describe the volume or scale to a notebook: a table of its scales, and a thumbnail."""
    described: str = call_later("html", self)
    return described


@spelled_out()
def show(
    self: Any,  # noqa: ANN401 - a Volume or a Scale
    *,
    x: int | None = None,
    y: int | None = None,
    z: int | None = None,
    size: int | None = _PICTURE_PIXELS,
    channel: int | None = None,
    limits: Iterable[float] | None = None,
    orientation: str | None = None,
    overlay: "Volume | Scale | None" = None,
    alpha: float = 0.4,
    progress: bool | None = None,
) -> "Image":
    """Make a picture of a slice.

    In a notebook, the picture shows itself. Voxels are drawn in their true proportions.

    A volume reads the slice from its coarsest scale that has all the detail the picture can show. A scale reads it
    from itself: every chunk that the slice crosses, which may be very many in the finest scale of a large volume. If
    it has more voxels than the picture has pixels, it keeps every n-th, so that memory is bounded by the picture.

    Parameters
    ----------
    x, y, z : int, optional
        Where to slice, in absolute voxel coordinates: of the scale, or of the volume's first scale, whichever
        is read. Each one given makes a slice; several stand side by side. Without any, all three are shown, through
        the middle; or, of a volume one voxel thick, the one that is not a line.
    size : int or None
        Pixels of the longer side of a slice, or with several, of the volume's longest side. None for one
        pixel per voxel of the first scale; if voxels are anisotropic, per shortest side.
    channel : int, optional
        The channel to show. By default three channels are shown as red, green and blue, and of any other number
        the first one is shown.
    limits : two floats, optional
        The values shown as black and white; not for segmentations. By default the percentiles 0.5 and 99.5 of the
        slice; uint8 is shown as it is, unless all of the slice is darker than 128.
    orientation : {"neuroglancer", "anatomical"} or three letters, optional
        How slices lie. As Neuroglancer shows them: in an xy slice x grows to the right and y downwards, in an xz slice
        z grows downwards, in a yz slice z grows to the left. Or upright, as an atlas shows a body: anterior or superior
        is at the top, and the left side is on the left. That needs to know where x, y and z point: "anatomical" takes
        what NIfTI usually has, right, anterior and superior; letters such as "LPS" say otherwise. By default as the
        volume's own ``orientation``, see `open_volume`. Only the picture is turned, coordinates are not.
    overlay : Volume or Scale, optional
        What to lay over the slice, such as labels: its voxels at the same place in nanometres, whatever their size and
        offset. Segments have their colours and 0 is transparent; an image is drawn in grey. A volume reads it from
        the scale that suits the picture.
    alpha : float
        How opaque the overlay is, from 0 to 1.
    progress : bool, optional
        See `open_volume`.

    Returns
    -------
    PIL.Image.Image
        Of mode L or RGB. A segmentation is RGBA: each id has the colour that Neuroglancer gives it by default,
        the same in every picture, and 0 is transparent. Several slices have transparent gaps (LA, RGBA).
        ``save("x.jpg")`` makes white of what is transparent, which JPEG cannot store.

    Raises
    ------
    ImportError
        If Pillow is not installed; the extra "plot" brings it.
    IndexError
        If the slice is outside of the volume, or there is no such channel.
    ValueError
        If the picture would have more than 2**27 pixels, `limits` are given for a segmentation, or the overlay lies
        elsewhere.
    DataAccessError
        If a chunk cannot be read.
    """
    picture: Image = call_later(
        "show", self, (x, y, z), size=size, channel=channel, limits=limits, orientation=orientation, overlay=overlay,
        alpha=alpha, progress=progress,
    )  # fmt: skip
    return picture


@spelled_out()
def plot(
    self: Any,  # noqa: ANN401 - a Volume or a Scale
    *,
    x: int | None = None,
    y: int | None = None,
    z: int | None = None,
    size: int | None = _PICTURE_PIXELS,
    channel: int | None = None,
    limits: Iterable[float] | None = None,
    cmap: Any = None,  # noqa: ANN401 - a name, or matplotlib's Colormap
    orientation: str | None = None,
    overlay: "Volume | Scale | None" = None,
    alpha: float = 0.4,
    ax: Any = None,  # noqa: ANN401 - matplotlib's Axes, or several
    progress: bool | None = None,
) -> Any:  # noqa: ANN401 - matplotlib's Axes, or several
    """Plot a slice with matplotlib: like `show`, with axes in voxels and in nanometres.

    Parameters
    ----------
    x, y, z, size, channel, limits, orientation, overlay, alpha, progress
        See `show`. The axes count voxels of the scale, or of the volume's first scale, whichever is read.
    cmap : str or matplotlib.colors.Colormap, optional
        The colours of an image's values; by default "gray". Not for segmentations or three channels, which have
        colours.
    ax : matplotlib Axes, or a sequence of these, optional
        Where to plot: one for each slice. By default in a new figure, in which all slices are at one scale.

    Returns
    -------
    matplotlib Axes, or an array of these
        A single Axes, or one per slice.

    Raises
    ------
    ImportError
        If matplotlib is not installed; the extra "plot" brings it.
    ValueError
        If `cmap` is unknown or does not apply, or there are more or fewer `ax` than slices; see also `show`.
    IndexError, DataAccessError
        See `show`.
    """
    return call_later(
        "plot", self, (x, y, z), size=size, channel=channel, limits=limits, cmap=cmap, orientation=orientation,
        overlay=overlay, alpha=alpha, ax=ax, progress=progress,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- Neuroglancer


@spelled_out()
def view(
    self: Any,  # noqa: ANN401 - a Volume
    *others: Any,  # noqa: ANN401 - what is not a volume yet is opened
    names: Sequence[str] | None = None,
    segments: Iterable[int] | None = None,
    layout: str | None = None,
    height: int = 600,
) -> Any:  # noqa: ANN401 - a View
    """Show the volume in Neuroglancer: in a notebook below the cell, elsewhere at the view's ``url``.

    A segmentation is shown with the meshes, skeletons and segment properties that its `info` names.

    The pyramid may be anywhere and stored in any way: a server in this process reads it for the web client, which
    the package ``neuroglancer`` brings. The browser has to be on this machine, or to reach the server's port
    at its own 127.0.0.1. In a notebook of a Jupyter with jupyter-server-proxy, as JupyterHubs have it, it may be
    anywhere: the view then goes through Jupyter.

    Parameters
    ----------
    *others : Volume, or its URL
        What to show over it, in further layers, aligned in nanometres: ``image.view(labels)``. Annotations, and meshes,
        skeletons or segment properties on their own, too: see `precomputed_fs.view`.
    names : sequence of str, optional
        The names of the layers; by default the last parts of the URLs.
    segments : iterable of int, optional
        Segments to select in each segmentation: their meshes and skeletons are shown, and slices show no others. By
        default none is, and slices show all.
    layout : str, optional
        "4panel", "4panel-alt", "xy", "xz", "yz", "xy-3d", "xz-3d", "yz-3d" or "3d"; by default "4panel", or "xy" if
        the volume is a single slice.
    height : int
        In a notebook, in pixels.

    Returns
    -------
    View
        Its ``server`` runs until it is closed, or the interpreter ends; further views share it.

    Raises
    ------
    ImportError
        If ``neuroglancer`` is not installed; the message says how to install it.
    ValueError
        If there is no such layout, not one name for each layer, or no pixel of `height`.

    Notes
    -----
    Black and white are chosen from voxels of the coarsest scale: all of them if they are few chunks, or else a chunk in
    the middle. uint8 is shown as it is, unless all is darker than 128.
    """
    return call_later("view", self, *others, names=names, segments=segments, layout=layout, height=height)


@spelled_out()
def neuroglancer_url(
    self: Any,  # noqa: ANN401 - a Volume
    base: str = "https://neuroglancer-demo.appspot.com",
    *,
    layout: str | None = None,
) -> str:
    """Make a link to share, which shows the volume in a Neuroglancer on the web.

    Parameters
    ----------
    base : str
        The address of that Neuroglancer.
    layout : str, optional
        See `view`.

    Raises
    ------
    ValueError
        If the link would not work for others: the volume is not at http://, https://, s3:// or gs://, was opened with
        credentials or ``anon=False``, or has an encoding that Neuroglancer does not decode. Whether it is public is
        not checked. Also if there is no such layout.
    """
    link: str = call_later("neuroglancer_url", self, base, layout=layout)
    return link


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


# ---------------------------------------------------------------------------------------------------------- new bounds


def resize(self: Any, size: int | Sequence[int], *, progress: bool | None = None) -> None:  # noqa: ANN401 - a Scale
    """Change the number of voxels, of this scale and of all coarser ones. The offset stays.

    What is new is zeros until it is written; what is cut off is deleted. Only the last chunks of an axis are stored
    again, because they end where the volume ends. Coarser scales keep their voxels: ``vol.downsample(box=...)``
    computes what the new voxels change, or the edge of what was cut off.

    Parameters
    ----------
    size : int, or sequence of 3 int
        Voxels, xyz.
    progress : bool, optional
        See `open_volume`.

    Raises
    ------
    ValueError
        If this is not the finest scale, a scale is sharded or has several chunk sizes, or the scales are not halves of
        each other.
    DataAccessError
        If `info` was changed since the volume was opened, or something cannot be written.

    Notes
    -----
    However this ends, even if the process is killed, the pyramid has its old bounds or its new ones, with the voxels
    that belong there. Nobody may write to it meanwhile. Who has it open with the old `info` misses the old last chunks
    from then on, and should open it again. This takes a request or two for each chunk that is added, cut off or stored
    again. In a lossy encoding, those stored again are encoded once more.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/resize", np.ones((100, 80, 50), np.uint8), resolution=(8, 8, 8))
    >>> vol[0].resize((100, 80, 60))
    >>> vol[0][:, :, 50:] = 7
    >>> vol.downsample(box=np.s_[:, :, 50:])
    >>> vol[1][0, 0, 23:27, 0]
    array([1, 1, 7, 7], dtype=uint8)
    """
    call_later("resize", self, size, progress=progress)


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


def check_not_read_from(array: Any, location: Location, keys: Sequence[str]) -> None:  # noqa: ANN401
    """Check that a dask array is not read from scales that it is about to be written to.

    Raises
    ------
    ValueError
        If it is.
    """
    call_later("check_not_read_from", array, location, keys)
