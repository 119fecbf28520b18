"""How annotation collections are written: sorted in memory, stored index by index, their `info` last."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.errors import (
    AlreadyExistsError,
    InvalidInfoError,
    NotFoundError,
    ReadOnlyError,
    expected_one_of,
    shown,
)
from precomputed_fs.format.annotation_info import KINDS, AnnotationInfo, Dimension
from precomputed_fs.format.grid import Box
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.pyramid.making import closing_archive, making
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.scene.annotation_columns import Properties, Relationships
from precomputed_fs.scene.annotation_dimensions import dimensions_of
from precomputed_fs.scene.annotation_intake import read_annotations
from precomputed_fs.scene.annotation_plan import planned
from precomputed_fs.scene.annotation_storing import delete_folders, key_with_files, store_indexes
from precomputed_fs.scene.annotation_values import Annotations, counted
from precomputed_fs.scene.annotations import AnnotationCollection
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.indexing import checked_integer

if TYPE_CHECKING:
    from precomputed_fs.format.lengths import VoxelSize
    from precomputed_fs.volume.scale import Scale

_OTHER_KINDS = {
    "box": "axis_aligned_bounding_box",
    "bbox": "axis_aligned_bounding_box",
    "bounding_box": "axis_aligned_bounding_box",
    "segment": "line",
    "sphere": "ellipsoid",
    "path": "polyline",
}


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
    sharding: bool | Mapping[str, Any] | Sharding | None = None,
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
        and radii of ellipsoids (n, 2, 3); polylines are a list of arrays (points, 3). `Annotations` of a collection
        keep their ids, properties, relationships (if known) and dimensions, unless others are given.
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
        The most annotations in a cell of the spatial index, which has as many levels as that needs. Cells of the last
        level may have more where very many annotations are at one place, or overlap.
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
        If there is an `info`, or files in the folders of the new indexes, or another process is writing there, and
        ``overwrite=False``; or if that `info` is of something else, such as a volume.
    ValueError, TypeError
        If columns are missing, coordinates not finite, ids not unique, or values of no type that the format has.

    Warns
    -----
    UserWarning
        If coordinates are rounded by more than half a unit, or whole numbers of properties at all, since the format
        has float32.

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
    annotations, units = _with_dimensions(annotations, dimensions)
    schema, block = read_annotations(
        annotations, kind, [*units], properties=properties, relationships=relationships, ids=ids
    )
    plan = planned(schema, block, units, bounds=bounds, limit=int(limit), seed=seed, sharding=sharding)
    pyramid = folder.pyramid
    info = plan.info.to_dict()
    how = {"annotations": counted(len(block), kind), "info": info}
    text = json.dumps(info, indent=2, allow_nan=False).encode() + b"\n"
    old: list[str] = []

    def check_unknown() -> None:
        if key := key_with_files(pyramid, plan.keys):
            message = "there are files of unknown origin, which would be taken for parts of the new annotations"
            raise AlreadyExistsError(f"{pyramid.location.display(key)}: {message}; overwrite=True deletes them")

    with (
        closing_archive(pyramid),
        making(
            pyramid,
            text,
            how,
            overwrite=overwrite,
            check_leftovers=lambda _: old.extend(_folders_of(pyramid)),
            check_unknown=check_unknown,
        ) as was_there,
    ):
        if was_there or (overwrite and pyramid.can_read and key_with_files(pyramid, plan.keys)):
            delete_folders(pyramid, dict.fromkeys([*old, *plan.keys]))
        store_indexes(pyramid, plan, progress)
    return AnnotationCollection(folder, plan.info, progress=progress)


def _with_dimensions(given: Any, dimensions: Any) -> tuple[Any, Mapping[str, Dimension]]:  # noqa: ANN401
    """Return annotations, and their dimensions: by default those of the collection that they are from."""
    if dimensions is not None:
        return given, dimensions_of(dimensions)
    first = given
    if isinstance(given, Iterator):
        first = next(given, None)
        given = given if first is None else itertools.chain([first], given)
    elif isinstance(given, (list, tuple)) and given:
        first = given[0]
    return given, first.info.dimensions if isinstance(first, Annotations) else dimensions_of(None)


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
