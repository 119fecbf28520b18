"""The xarray backend: ``xarray.open_dataset(url, engine="precomputed")``.

xarray imports this module by the package's entry point; nothing else does.
"""

import functools
import os
from collections.abc import Iterable
from typing import Any, ClassVar

import xarray
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from precomputed_fs.interop.blocks import DIMENSIONS, listable_length
from precomputed_fs.interop.source import Source
from precomputed_fs.interop.xarray import VARIABLE, attributes, coordinates
from precomputed_fs.store.loop import in_thread
from precomputed_fs.volume import Scale, Volume, open_volume

_PREFIX, _SUFFIX = "precomputed://", "|neuroglancer-precomputed:"


class PrecomputedBackend(BackendEntrypoint):
    """Neuroglancer precomputed pyramids in xarray, with a group for each scale.

    A scale is a data set with one variable, "voxels" (x, y, z, channel), which is read when it is indexed. dask is
    used only if ``chunks=`` is given: ``"auto"`` groups chunks, and ``{}`` makes a task for each.
    Coordinates and attributes are those of `Scale.to_xarray`.

    Further keywords are options of `open_volume`, such as ``missing="raise"`` or ``storage_options={...}``.
    """

    description: ClassVar[str] = "Neuroglancer precomputed pyramids, wherever fsspec reaches"
    open_dataset_parameters: ClassVar[tuple[str, ...] | None] = ("filename_or_obj", "drop_variables", "group")
    supports_groups: ClassVar[bool] = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:  # noqa: ANN401 - as in xarray
        """Return whether a URL names the format: with the scheme ``precomputed://``, or Neuroglancer's suffix."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        url = os.fspath(filename_or_obj)
        return isinstance(url, str) and (url.startswith(_PREFIX) or url.rstrip("/").endswith(_SUFFIX))

    def open_dataset(
        self,
        filename_or_obj: Any,  # noqa: ANN401 - as in xarray
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | int | None = None,
        **options: Any,  # noqa: ANN401 - as in `open_volume`
    ) -> xarray.Dataset:
        """Open one scale.

        Parameters
        ----------
        filename_or_obj : str, path or UPath
            A pyramid's URL.
        drop_variables : str or iterable of str, optional
            Variables to leave out.
        group : str or int, optional
            The scale's key or index; by default the first, which is the finest.
        **options
            See `open_volume`.

        Raises
        ------
        KeyError, IndexError
            If there is no such scale.
        """
        volume = open_volume(filename_or_obj, **options)
        return _dataset(volume[_which(volume, group)], drop_variables)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,  # noqa: ANN401 - as in xarray
        *,
        drop_variables: str | Iterable[str] | None = None,
        **options: Any,  # noqa: ANN401 - as in `open_volume`
    ) -> dict[str, xarray.Dataset]:
        """Open all scales, as groups; the group "/" has the volume's attributes."""
        return _groups(open_volume(filename_or_obj, **options), drop_variables)

    def open_datatree(
        self,
        filename_or_obj: Any,  # noqa: ANN401 - as in xarray
        *,
        drop_variables: str | Iterable[str] | None = None,
        **options: Any,  # noqa: ANN401 - as in `open_volume`
    ) -> xarray.DataTree:
        """Open all scales as a tree."""
        volume = open_volume(filename_or_obj, **options)
        tree = xarray.DataTree.from_dict(_groups(volume, drop_variables))
        for node in tree.subtree:
            node.set_close(volume.close)
        return tree


class _LazyArray(BackendArray):
    """A scale as a lazy array of xarray."""

    def __init__(self, scale: Scale) -> None:
        self._source = Source(scale, quiet=False)
        self.shape = scale.shape
        self.dtype = scale.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:  # noqa: ANN401 - an array, or one voxel
        support = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._source.__getitem__)

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> Any:  # noqa: ANN401 - an array, or one voxel
        return await in_thread(functools.partial(self.__getitem__, key))


def _groups(volume: Volume, drop_variables: str | Iterable[str] | None) -> dict[str, xarray.Dataset]:
    """Make data sets of all scales, and one with the volume's attributes."""
    root = xarray.Dataset(attrs={"type": volume.info.type})
    groups = {_group_name(scale.key): _dataset(scale, drop_variables) for scale in volume}
    if len(groups) < len(volume):
        raise ValueError(
            f"{volume.url}: some of its scales have the same key: open_dataset(..., group=number) opens one"
        )
    return {"/": root, **groups}


def _dataset(scale: Scale, drop_variables: str | Iterable[str] | None) -> xarray.Dataset:
    """Make a data set of a scale, without reading it."""
    lazy = indexing.LazilyIndexedArray(_LazyArray(scale))
    blocks = (*map(listable_length, scale.info.size, scale.chunk_size), scale.shape[3])
    stored = {"preferred_chunks": dict(zip(DIMENSIONS, blocks, strict=True))}
    voxels = xarray.Variable(DIMENSIONS, lazy, attributes(scale), stored)
    dataset = xarray.Dataset({VARIABLE: voxels}, coordinates(scale))
    dataset.encoding["source"] = scale.volume.url  # without this, xarray would store the URL with its secrets
    dropped = [drop_variables] if isinstance(drop_variables, str) else [*(drop_variables or ())]
    dataset = dataset.drop_vars(dropped, errors="ignore")
    dataset.set_close(scale.volume.close)
    return dataset


def _which(volume: Volume, group: str | int | None) -> int | str:
    """Find a scale by the name of a group."""
    if not isinstance(group, str):
        return group or 0
    return next((i for i, scale in enumerate(volume) if _group_name(scale.key) == _group_name(group)), group)


def _group_name(key: str) -> str:
    """Return a scale's key as a path in a tree, without ``..``."""
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))
