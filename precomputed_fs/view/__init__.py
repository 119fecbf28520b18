"""What a person sees of a pyramid: pictures, plots, notebooks, and Neuroglancer."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from precomputed_fs.keywords import spelled_out

if TYPE_CHECKING:
    from precomputed_fs.view.server import View


@spelled_out()
def view(
    *sources: Any,  # noqa: ANN401 - each kind of folder has its own class
    names: Sequence[str] | None = None,
    segments: Iterable[int] | None = None,
    layout: str | None = None,
    height: int = 600,
) -> "View":
    """Show pyramids and annotations in one Neuroglancer, each as a layer: in a notebook, or elsewhere at its ``url``.

    Parameters
    ----------
    *sources : str, path, UPath, Volume or FsspecAccessor
        The pyramids, the lowest layer first. They are aligned in nanometres. A segmentation is shown with the meshes,
        skeletons and properties that its `info` names. Folders of annotations, and of meshes, skeletons or segment
        properties on their own, are layers as well: their URLs, or what `open_annotations`, `open_meshes` and
        `open_skeletons` return. Open what needs credentials or other options with these, or with `open_volume`.
    names : sequence of str, optional
        The names of the layers; by default the last parts of the URLs.
    segments, layout, height
        See `Volume.view`.

    Returns
    -------
    View
        See `Volume.view`.

    Raises
    ------
    ImportError
        If ``neuroglancer`` is not installed; the message says how to install it.
    TypeError
        If nothing is given, or a scale instead of a volume.
    ValueError
        If there is no such layout, or not one name for each layer.
    NotFoundError, AccessDeniedError, DataAccessError, InvalidInfoError, URLError
        If a source cannot be opened; see `open_volume`.

    Examples
    --------
    >>> import numpy as np
    >>> import precomputed_fs
    >>> image = precomputed_fs.create_volume("memory://docs/view/t1", np.ones((8, 8, 8), np.uint8), resolution=1)
    >>> labels = precomputed_fs.create_volume("memory://docs/view/cells", np.ones((8, 8, 8), bool), resolution=1)
    >>> shown = precomputed_fs.view(image, labels)
    >>> shown
    <View of memory://docs/view/t1 and memory://docs/view/cells: http://127.0.0.1:...>
    >>> shown.server.close()
    """
    from precomputed_fs.view.views import view as shown  # noqa: PLC0415 - few programs call it

    if not sources:
        raise TypeError("expected at least one pyramid to view")
    return shown(*sources, names=names, segments=segments, layout=layout, height=height)
