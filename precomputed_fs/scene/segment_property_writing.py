"""How segment properties are stored: beside a volume, or in a folder of their own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.errors import expected_one_of, shown
from precomputed_fs.format.scene_types import kind_of
from precomputed_fs.format.segment_properties import SegmentPropertiesInfo
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.scene.beside import finish_writing, folder_to_write
from precomputed_fs.scene.folder import Folder
from precomputed_fs.scene.per_segment import checked_ids
from precomputed_fs.scene.segment_properties import SegmentProperties
from precomputed_fs.scene.segment_property_columns import Roles, properties_of_columns
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.volume import Volume

_MEMBER = "segment_properties"


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def create_segment_properties(
    url: AnyURL,
    table: Any,  # noqa: ANN401 - a DataFrame, or a mapping of columns
    *,
    ids: str | Iterable[int] | None = None,
    label: str | None = None,
    description: str | None = None,
    tags: str | Sequence[str] | None = None,
    descriptions: Mapping[str, str] | None = None,
    tag_descriptions: Mapping[str, str] | None = None,
    overwrite: bool = False,
    **accessor_options: Unpack[AccessorOptions],
) -> SegmentProperties:
    """Store segment properties in a folder of their own.

    Parameters
    ----------
    url : str, path or UPath
        Of the folder; see `FsspecAccessor`.
    table, ids, label, description, tags, descriptions, tag_descriptions, overwrite
        See `Volume.store_segment_properties`.
    **accessor_options
        Options of `FsspecAccessor`.

    Returns
    -------
    SegmentProperties
        As they were stored.

    Raises
    ------
    AlreadyExistsError, TypeError, ValueError, DataAccessError
        See `Volume.store_segment_properties`.
    """
    roles = Roles(label, description, tags, descriptions or {}, tag_descriptions or {})
    info = _info_of(table, ids, roles)
    folder = Folder.open(url, **accessor_options)
    _store(folder, info, overwrite=overwrite)
    return SegmentProperties(info, folder.shown())


def store_segment_properties(
    volume: Volume,
    table: Any,  # noqa: ANN401 - a DataFrame, or a mapping of columns
    *,
    ids: str | Iterable[int] | None,
    label: str | None,
    description: str | None,
    tags: str | Sequence[str] | None,
    descriptions: Mapping[str, str] | None,
    tag_descriptions: Mapping[str, str] | None,
    folder: str | None,
    overwrite: bool,
) -> None:
    """Store segment properties beside a volume: see `Volume.store_segment_properties`."""
    roles = Roles(label, description, tags, descriptions or {}, tag_descriptions or {})
    info = _info_of(table, ids, roles)
    place = folder_to_write(volume, _MEMBER, folder, _MEMBER, overwrite=overwrite)
    _store(place, info, overwrite=overwrite)
    finish_writing(volume, _MEMBER, place, folder or volume.info.segment_properties or _MEMBER)


def _store(folder: Folder, info: SegmentPropertiesInfo, *, overwrite: bool) -> None:
    if overwrite:
        folder.check_replaceable(kind_of(info.to_dict()))
    folder.store_info(info.to_json(indent=None), overwrite=overwrite)


def _info_of(table: Any, ids: str | Iterable[int] | None, roles: Roles) -> SegmentPropertiesInfo:  # noqa: ANN401
    columns = _columns_of(table)
    segments = _ids_of(table, columns, ids)
    return SegmentPropertiesInfo.of(segments, properties_of_columns(columns, segments, roles))


def _columns_of(table: Any) -> dict[str, Any]:  # noqa: ANN401 - checked here
    """Return the columns of a table by name."""
    if hasattr(table, "columns") and hasattr(table, "index"):
        names = list(table.columns)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"expected columns with different names, got {shown(twice)} twice")
        return {name: table[name] for name in names}
    if isinstance(table, Mapping):
        return dict(table)
    raise TypeError(f"expected a DataFrame, or a mapping of names to columns, got {shown(table)}")


def _ids_of(table: Any, columns: dict[str, Any], ids: str | Iterable[int] | None) -> list[int]:  # noqa: ANN401
    """Return the segment ids, and remove their column."""
    if isinstance(ids, str):
        if ids not in columns:
            raise ValueError(expected_one_of("ids", list(map(str, columns)), ids))
        given: Any = columns.pop(ids)
    elif ids is not None:
        given = ids
    elif not hasattr(table, "index"):
        raise TypeError("ids: a mapping of columns needs the segment ids, an array or the name of a column")
    else:
        given = table.index
        if type(given).__name__ == "RangeIndex":
            what = "the index counts the rows, as pandas does by default"
            instead = "pass ids='...', the column that has the segment ids, or an array of them"
            raise ValueError(f"ids: {what}: {instead}")
    return _checked(given)


def _checked(given: Iterable[Any]) -> list[int]:
    if np.ma.is_masked(given):
        raise ValueError("ids: expected a segment for each row, got masked values")
    array = np.asarray(given)
    if array.ndim == 1 and array.dtype.kind in "iu" and (not len(array) or array.min() >= 0):
        segments: list[int] = array.tolist()
    else:
        segments = checked_ids(list(given))
    if len(set(segments)) < len(segments):
        seen: set[int] = set()
        twice = next(segment for segment in segments if segment in seen or seen.add(segment))  # type: ignore[func-returns-value]
        raise ValueError(f"ids: expected each segment once, got {twice} twice")
    return segments
