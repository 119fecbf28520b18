"""How skeletons are stored: beside a volume, or in a folder of their own."""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.errors import AlreadyExistsError, expected_one_of, shown
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.format.skeleton import (
    ATTRIBUTE_TYPES,
    FLOAT,
    MOST_COMPONENTS,
    RADIUS,
    SkeletonsInfo,
    StoredSkeleton,
    VertexAttribute,
    encode_skeleton,
    is_identifier,
)
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.pyramid.values import Values
from precomputed_fs.scene.beside import finish_writing, folder_to_write
from precomputed_fs.scene.exactness import differing
from precomputed_fs.scene.folder import Folder
from precomputed_fs.scene.per_segment import count_of, items_of, sharding_for, sharding_mismatch
from precomputed_fs.scene.skeleton import Skeleton
from precomputed_fs.scene.skeletons import Skeletons, skeletons_in
from precomputed_fs.scene.transform import Transform
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.progress import Progress, warn
from precomputed_fs.volume.volume import Volume

SkeletonItems = Mapping[int, Any] | Iterable[tuple[int, Any]]
"""Skeletons by segment id, or pairs of both, one after the other."""

AttributeTypes = Sequence[str] | Mapping[str, DTypeLike]
"""Names of attributes, or their types by name."""

ShardingLike = bool | Mapping[str, Any] | Sharding | None
"""True to have one proposed."""


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def create_skeletons(
    url: AnyURL,
    skeletons: SkeletonItems,
    *,
    attributes: AttributeTypes | None = None,
    sharding: ShardingLike = None,
    overwrite: bool = False,
    progress: bool | None = None,
    **accessor_options: Unpack[AccessorOptions],
) -> Skeletons:
    """Store skeletons in a folder of their own, new or not.

    Parameters
    ----------
    url : str, path or UPath
        Of the folder; see `FsspecAccessor`.
    skeletons, attributes, sharding, overwrite, progress
        See `Volume.store_skeletons`.
    **accessor_options
        Options of `FsspecAccessor`.

    Returns
    -------
    Skeletons
        All that are in the folder.

    Raises
    ------
    AlreadyExistsError, TypeError, ValueError, DataAccessError
        See `Volume.store_skeletons`.
    """
    folder = Folder.open(url, **accessor_options)
    _write(folder, skeletons, attributes, sharding, overwrite=overwrite, shows=progress, even_none=True)
    folder.pyramid.flush()
    return skeletons_in(folder, progress)


def store_skeletons(
    volume: Volume,
    skeletons: SkeletonItems,
    *,
    attributes: AttributeTypes | None,
    folder: str | None,
    sharding: ShardingLike,
    overwrite: bool,
    progress: bool | None,
) -> None:
    """Store skeletons beside a volume: see `Volume.store_skeletons`."""
    place = folder_to_write(volume, "skeletons", folder, "skeletons", overwrite=overwrite)
    shows = volume.progress if progress is None else progress
    if _write(place, skeletons, attributes, sharding, overwrite=overwrite, shows=shows):
        finish_writing(volume, "skeletons", place, folder or volume.info.skeletons or "skeletons")


def _write(
    folder: Folder,
    skeletons: SkeletonItems,
    attributes: AttributeTypes | None,
    sharding: ShardingLike,
    *,
    overwrite: bool,
    shows: bool | None,
    even_none: bool = False,
) -> bool:
    """Store skeletons in a folder; tell whether it has an `info`, which without any skeletons is made only if asked."""
    total = count_of(skeletons)
    first, items = _peeked(items_of(skeletons, "skeletons"))
    there = folder.info_if_any()
    if there is None:
        if first is None and not even_none:
            return False
        there = _store_info(folder, skeletons, _attribute_types(first, attributes), sharding)
    info = SkeletonsInfo.parse(there, folder.shown("info"), folder.pyramid.options.max_file_bytes)
    if first is not None:
        _check_alike(folder, info, _attribute_types(first, attributes), sharding)
    encoded = functools.partial(_encoded, attributes=info.vertex_attributes, transform=Transform.of(info.transform))
    with Progress("storing skeletons", total, shows, "skeleton") as bar:
        pairs = ((item[0], encoded(item)) for item in items)
        Values[int](folder.pyramid, folder.path, info.sharding).store_many(pairs, overwrite=overwrite, callback=bar)
    return True


def _store_info(
    folder: Folder, skeletons: SkeletonItems, types: list[VertexAttribute], sharding: ShardingLike
) -> dict[str, Any]:
    """Store the `info` of a new folder, and return it: or that of another writer, who was faster."""

    def sizes() -> Iterator[int]:
        for item in items_of(skeletons, "skeletons"):
            yield len(_encoded(item, attributes=types, transform=None))

    info = SkeletonsInfo.of(types, sharding_for(sharding, skeletons, sizes)).to_dict()
    try:
        folder.store_info(info)
    except AlreadyExistsError:
        return folder.info()
    _warn_of_unusual(types)
    return info


def _peeked(items: Iterator[tuple[int, Any]]) -> tuple[tuple[int, Skeleton] | None, Iterator[tuple[int, Skeleton]]]:
    """Return the first item, and all items; without any, None."""
    made = ((segment, _checked(segment, given)) for segment, given in items)
    first = next(made, None)
    return first, made if first is None else itertools.chain([first], made)


def _checked(segment: int, given: Any) -> Skeleton:  # noqa: ANN401 - see `Skeleton.of`
    """Return a skeleton whose arrays are right now: they may have been changed since it was made."""
    try:
        skeleton = Skeleton.of(given)
        return Skeleton(skeleton.vertices, skeleton.edges, skeleton.attributes)
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"skeleton {segment}: {exc}") from exc


# ----------------------------------------------------------------------------------------------------------- attributes


def _attribute_types(first: tuple[int, Skeleton] | None, chosen: AttributeTypes | None) -> list[VertexAttribute]:
    """Return which attributes are to be stored: those of the first skeleton, or the chosen ones of these."""
    if first is None:
        return []
    segment, skeleton = first
    names = skeleton.attributes if chosen is None else chosen
    types = []
    for name in names:
        if name not in skeleton.attributes:
            raise ValueError(f"attributes: {expected_one_of(f'skeleton {segment}', skeleton.attributes, name)}")
        values = skeleton.attributes[name]
        dtype = np.dtype(chosen[name]) if isinstance(chosen, Mapping) else values.dtype
        if dtype.name not in ATTRIBUTE_TYPES:
            what = f"attributes={{{name!r}: {FLOAT!r}}} converts it"
            known = ", ".join(ATTRIBUTE_TYPES)
            raise TypeError(f"attribute {name!r} is {dtype}, and the format has {known}: {what}")
        types.append(VertexAttribute.of(name, dtype.name, 1 if values.ndim == 1 else values.shape[1]))
    return types


def _warn_of_unusual(types: list[VertexAttribute]) -> None:
    """Warn of attributes that the specification allows, and with which Neuroglancer's client shows no skeletons.

    It makes shaders with a variable for each attribute, which have no other type (`getWebglDataType` in its
    ``skeleton/frontend.ts``).
    """
    if any(each.data_type != FLOAT for each in types):
        converted = {each.id: FLOAT for each in types}
        warn(f"Neuroglancer shows skeletons only if all attributes are {FLOAT}: attributes={converted} stores them so")
    for each in types:
        if not is_identifier(each.id):
            warn(f"attribute {each.id!r}: Neuroglancer may show no skeletons, as this name is not an identifier")
        if each.num_components > MOST_COMPONENTS:
            what = f"at most {MOST_COMPONENTS} components, and this one has {each.num_components}"
            warn(f"attribute {each.id!r}: Neuroglancer shows skeletons only if attributes have {what}")


def _check_alike(folder: Folder, info: SkeletonsInfo, types: list[VertexAttribute], sharding: ShardingLike) -> None:
    """Check that new skeletons fit to those that are there."""
    has, have = (", ".join(map(str, some)) or "no attributes" for some in (info.vertex_attributes, types))
    if sorted(map(str, info.vertex_attributes)) != sorted(map(str, types)):
        what = f"has skeletons with {has}, and these have {have}"
        raise AlreadyExistsError(f"{folder.shown('info')} {what}: choose another folder, or attributes=[...]")
    if how := sharding_mismatch(sharding, info.sharding):
        raise AlreadyExistsError(f"{folder.shown('info')} has skeletons that are {how}: choose another folder")


def _encoded(item: tuple[int, Any], *, attributes: Sequence[VertexAttribute], transform: Transform | None) -> bytes:
    segment, skeleton = item[0], _checked(*item)
    arrays = {each.id: _values_of(segment, skeleton, each) for each in attributes}
    vertices = skeleton.vertices
    if not np.isfinite(vertices).all():
        raise ValueError(f"skeleton {segment}: a vertex has a coordinate that is not a finite number")
    if transform is not None:
        try:
            vertices = transform.undone(vertices)
        except ValueError as exc:
            raise type(exc)(f"skeleton {segment}: {exc}") from exc
        if RADIUS in arrays and transform.uniform_scale is not None:
            arrays[RADIUS] = arrays[RADIUS] / np.float32(transform.uniform_scale)
    return encode_skeleton(StoredSkeleton(vertices, skeleton.edges, arrays), attributes)


def _values_of(segment: int, skeleton: Skeleton, attribute: VertexAttribute) -> NDArray[Any]:
    """Return an attribute of a skeleton in the type in which it is stored."""
    values = skeleton.attributes.get(attribute.id)
    if values is None:
        raise ValueError(f"skeleton {segment} has no attribute {attribute.id!r}, which others have")
    components = 1 if values.ndim == 1 else values.shape[1]
    if components != attribute.num_components:
        what = f"{components} components, and others have {attribute.num_components}"
        raise ValueError(f"skeleton {segment}: attribute {attribute.id!r} has {what}")
    dtype = np.dtype(attribute.data_type)
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(dtype)
    rounds = dtype.kind == values.dtype.kind == "f"  # which was asked for
    lost = ~np.isfinite(converted) & np.isfinite(values) if rounds else differing(values, converted)
    if lost.any():
        raise ValueError(f"skeleton {segment}: attribute {attribute.id!r}: {shown(values[lost][0])} is no {dtype}")
    return converted
