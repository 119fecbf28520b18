"""How annotation collections are written: sorted in memory, stored index by index, their `info` last."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.errors import (
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    ReadOnlyError,
    expected_one_of,
    shown,
)
from precomputed_fs.format.annotation import Block, Layout, encode_lists, encode_singles
from precomputed_fs.format.annotation_info import KINDS, AnnotationInfo, Index
from precomputed_fs.format.grid import Box
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.making import closing_archive, making
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.values import Values
from precomputed_fs.scene.annotation_columns import Properties, Relationships
from precomputed_fs.scene.annotation_dimensions import dimensions_of
from precomputed_fs.scene.annotation_intake import read_annotations
from precomputed_fs.scene.annotation_plan import Lists, Plan, planned
from precomputed_fs.scene.annotation_values import counted
from precomputed_fs.scene.annotations import AnnotationCollection
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.requests import Delete, Job
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.indexing import checked_integer
from precomputed_fs.volume.progress import Progress

if TYPE_CHECKING:
    from precomputed_fs.format.lengths import VoxelSize
    from precomputed_fs.volume.scale import Scale

Array = NDArray[Any]

_OTHER_KINDS = {
    "box": "axis_aligned_bounding_box",
    "bbox": "axis_aligned_bounding_box",
    "bounding_box": "axis_aligned_bounding_box",
    "segment": "line",
    "sphere": "ellipsoid",
    "path": "polyline",
}
_AT_ONCE = 1 << 16  # annotations that are encoded at once


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def create_annotations(
    url: AnyURL,
    annotations: Any,  # noqa: ANN401 - see below
    *,
    kind: str = "point",
    dimensions: "VoxelSize | Scale | Mapping[str, Any] | None" = None,
    properties: Properties = None,
    relationships: Relationships = None,
    ids: Any = None,  # noqa: ANN401 - see below
    bounds: Box | Sequence[Sequence[float]] | None = None,
    limit: int = 5000,
    sharding: bool | Mapping[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
    **options: Unpack[AccessorOptions],
) -> AnnotationCollection:
    """Write a collection of annotations, which Neuroglancer shows as a layer.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`.
    annotations : DataFrame, mapping of columns, array, `Annotations`, or an iterator of these
        A table has the coordinates in columns that are named like the dimensions: points ``x, y, z``; the ends of
        lines and the corners of boxes ``x0, y0, z0, x1, y1, z1``; ellipsoids ``x, y, z`` and the radii ``rx, ry, rz``;
        polylines a column ``points`` of arrays (points, 3). An array has points (n, 3); lines, boxes, and the centres
        and radii of ellipsoids (n, 2, 3); polylines are a list of arrays (points, 3).
    kind : {"point", "line", "axis_aligned_bounding_box", "ellipsoid", "polyline"}
        The type of all annotations.
    dimensions : float, str, sequence of 3, Scale or mapping
        The unit of the coordinates: 1 nm by default. Voxel sizes, such as ``(4, 4, 40)`` in nanometres or "8 nm", or a
        scale, if coordinates are in voxels. A mapping names other axes, such as ``{"x": "4 nm", "t": "20 ms"}``.
    properties : sequence of str, or mapping
        The columns that become properties; by default all that are nothing else. A mapping has their types ("uint8" to
        "int32", "float32", "rgb", "rgba"), or mappings with ``type``, ``description``, ``enum_values`` and
        ``enum_labels``; for coordinates without a table, it has the values. By default integers get the smallest type
        that holds them; categories and texts become labels of integers; texts such as "#ff8000" become colours.
    relationships : sequence of str, or mapping
        The columns with ids of related objects, such as segments: one id in each row, or a list of any number. A
        mapping has a column's name for each relationship, or, without a table, the ids.
    ids : str or array, optional
        The column of the annotations' ids, or the ids. By default the column or index ``id``, or else 0, 1, 2 ...
    bounds : pair of sequences, optional
        Lower and upper bound in the units of `dimensions`; by default round numbers around the annotations.
    limit : int
        The most annotations in a cell of the spatial index, which has as many levels as that needs.
    sharding : bool or mapping, optional
        Whether to store each index in shards, or how, as in `info`. By default those of more than 10,000 values.
    seed : int
        Of the random choice of annotations that are in the coarser levels.
    overwrite : bool
        Whether to replace an existing collection; its files are deleted.
    progress : bool, optional
        See `open_volume`.
    **options
        Options of `FsspecAccessor`. `gzip` is None by default, as for `create_volume`.

    Returns
    -------
    AnnotationCollection

    Raises
    ------
    AlreadyExistsError
        If there is an `info`, or another process is writing one, and ``overwrite=False``.
    ValueError, TypeError
        If columns are missing, coordinates not finite, ids not unique, or values of no type that the format has.

    Warns
    -----
    UserWarning
        If coordinates are rounded by more than half a unit, since the format has float32.

    Notes
    -----
    An iterator may yield tables or arrays, one after the other, of the same columns; properties of integers and texts
    then need their types given, unless the first table has them. Memory holds all annotations as they are stored and
    some 60 bytes for each of them, such as 100 bytes for a point with a few properties.

    `info` is stored last, and ``info.partial`` until then, as `create_volume` does.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"x": [10, 500], "y": [20, 30], "z": [1, 2], "type": ["spine", "shaft"], "pre": [7, 8]})
    >>> url = "memory://docs/synapses"
    >>> ann = create_annotations(url, table, dimensions=(4, 4, 40), relationships=["pre"], overwrite=True)
    >>> ann.related("pre", 7).to_pandas().reset_index()
       id     x     y    z   type
    0   0  10.0  20.0  1.0  spine
    """
    if kind not in KINDS:
        raise ValueError(expected_one_of("kind", KINDS, kind, _OTHER_KINDS))
    if checked_integer("limit", limit) < 1:
        raise ValueError(f"limit: expected an integer of at least 1, got {shown(limit)}")
    folder = Folder.open(url, **options)
    if not folder.pyramid.can_write:
        raise ReadOnlyError(f"{folder.pyramid.url}: this cannot be written to; create it where it is to be stored")
    units = dimensions_of(dimensions)
    schema, block = read_annotations(
        annotations, kind, [*units], properties=properties, relationships=relationships, ids=ids
    )
    plan = planned(schema, block, units, bounds=bounds, limit=int(limit), seed=seed, sharding=sharding)
    pyramid = folder.pyramid
    info = plan.info.to_dict()
    how = {"annotations": counted(len(block), kind), "info": info}
    text = json.dumps(info, indent=2, allow_nan=False).encode() + b"\n"
    old: list[str] = []
    with (
        closing_archive(pyramid),
        making(
            pyramid, text, how, overwrite=overwrite, check_leftovers=lambda _: old.extend(_folders_of(pyramid))
        ) as was_there,
    ):
        if was_there:
            _delete_files(pyramid, dict.fromkeys([*old, *plan.keys]))
        _store(pyramid, plan, progress)
    return AnnotationCollection(folder, plan.info, progress=progress)


def _store(pyramid: Pyramid, plan: Plan, shows: bool | None) -> None:
    total = len(plan.block) + sum(len(each.members.values) for each in plan.lists)
    layout = Layout.of(plan.info)
    with Progress("writing annotations", total, shows, "annotation") as bar, pyramid.replacing_shards(plan.keys):
        if plan.info.by_id is not None:
            for values, items, count in _singles(pyramid, plan.info.by_id, plan.block, layout):
                values.store_many(items, compress=False, overwrite=pyramid.can_read)
                pyramid.flush()
                bar.relative_update(count)
        for each in plan.lists:
            for cells, lists, count in _encoded(pyramid, each, plan.block, layout):
                cells.store_many(lists, overwrite=pyramid.can_read)
                pyramid.flush()
                bar.relative_update(count)


def _singles(
    pyramid: Pyramid, index: Index, block: Block, layout: Layout
) -> Iterator[tuple[Values[int], Iterable[tuple[int, memoryview]], int]]:
    """Encode each annotation with its related objects, a shard at a time."""
    values: Values[int] = Values(pyramid, index.key, index.sharding)
    order, parts = _in_shards(block.ids, np.ones(len(block), np.int64), index.sharding)
    for first, last in parts:
        some = block.take(order[first:last])
        yield values, zip(some.ids.tolist(), encode_singles(some, layout), strict=True), len(some)


def _encoded(
    pyramid: Pyramid, each: Lists, block: Block, layout: Layout
) -> Iterator[tuple[Values[Any], Iterable[tuple[Any, bytes]], int]]:
    """Encode lists of annotations, a shard at a time."""
    order, parts = _in_shards(each.codes, each.members.lengths, each.index.sharding)
    for first, last in parts:
        which = order[first:last]
        members = each.members.take(which)
        names = [*map(each.name_of, each.keys[which].tolist())]
        codes = dict(zip(names, each.codes[which].tolist(), strict=True))
        values: Values[str] = Values(pyramid, each.index.key, each.index.sharding, id_of=codes.__getitem__)
        lists = encode_lists(block.take(members.values), members.starts.tolist(), layout)
        yield values, zip(names, lists, strict=True), len(members.values)


def _in_shards(codes: Array, sizes: Array, sharding: Sharding | None) -> tuple[Array, list[tuple[int, int]]]:
    """Sort values by their shards, and divide them into parts to store one after the other.

    Each part has whole shards, and no more annotations than are to be in memory at once, unless it has but one.
    """
    order = np.arange(len(codes))
    borders = np.arange(1, len(codes))
    if sharding is not None:
        locate: Any = sharding.locate  # which computes with arrays as it does with numbers
        shards, _ = locate(codes)
        order = np.argsort(shards, kind="stable")
        borders = np.flatnonzero(np.diff(shards[order])) + 1
    ends = np.append(borders, len(codes))
    done = np.concatenate([[0], np.cumsum(sizes[order])])
    parts = []
    first = 0
    while first < len(codes):
        reached = np.searchsorted(done[ends], done[first] + _AT_ONCE, side="right")
        following = int(np.searchsorted(ends, first, side="right"))
        last = int(ends[max(int(reached) - 1, following)])
        parts.append((first, last))
        first = last
    return order, parts


def _delete_files(pyramid: Pyramid, keys: Iterable[str]) -> None:
    """Delete what is in the folders of indexes, since it would be taken for a part of the new collection.

    Raises
    ------
    DataAccessError
        If the store does not tell what is there.
    """
    for key in keys:
        before: list[str] = []
        while (page := pyramid.store.list_page(key)) is None or page.objects:
            names = [] if page is None else [listed.name for listed in page.objects]
            if names == before:  # nothing was listed, or nothing is deleted
                message = "files of other annotations may be there, which cannot be listed: delete the folder first"
                raise DataAccessError(f"{pyramid.location.display(key)}: {message}")
            for _ in pyramid.store.run_many(map(_deleting, names), IN_FLIGHT):
                pass
            before = names


def _deleting(name: str) -> Job[list[None]]:
    yield Delete(name)
    return []


def _folders_of(pyramid: Pyramid) -> list[str]:
    """Return the folders of the collection that is there, if they are its own."""
    try:
        info = AnnotationInfo.parse(pyramid.fetch_info())
    except (NotFoundError, InvalidInfoError):
        return []
    indexes = [info.by_id] if info.by_id else []
    indexes += [each.index for each in info.relationships]
    indexes += [each.index for each in info.levels]
    keys = [index.key.removesuffix("/") for index in indexes]
    return [key for key in keys if not {"", ".", ".."} & {*key.split("/")}]
