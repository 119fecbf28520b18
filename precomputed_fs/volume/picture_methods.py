"""Methods of volumes and scales that show them; package `view` implements them: see `extensions`."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from precomputed_fs.keywords import spelled_out
from precomputed_fs.volume.extensions import call_later

if TYPE_CHECKING:
    from PIL.Image import Image

    from precomputed_fs.volume.scale import Scale
    from precomputed_fs.volume.volume import Volume

_PICTURE_PIXELS = 512  # of a picture's longer side, by default


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
