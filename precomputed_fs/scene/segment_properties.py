"""The properties of segments: their labels, descriptions, tags and numbers, of a volume or in a folder of their own."""

import html
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.errors import did_you_mean, expected_one_of
from precomputed_fs.format.segment_properties import (
    DESCRIPTION,
    LABEL,
    NUMBER,
    TAGS,
    SegmentPropertiesInfo,
    SegmentProperty,
)
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.scene.beside import named_folder
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.text import one_line
from precomputed_fs.volume.volume import Volume

if TYPE_CHECKING:
    import pandas as pd

_SHOWN_ROWS = 5  # of a notebook's table
_SHOWN_COLUMNS = 12
_SHOWN_CELL = 60  # characters
_NAMED = 12  # properties of a repr


class SegmentProperties:
    """The properties of segments, as they were when they were read.

    Get them from `Volume.segment_properties` or `open_segment_properties`. ``properties["volume"]`` is an array with a
    value for each of `ids`; `to_pandas` makes a table of all.

    Parameters
    ----------
    info : SegmentPropertiesInfo
    url : str
        Where they are, for messages.
    """

    def __init__(self, info: SegmentPropertiesInfo, url: str) -> None:
        self.info = info
        """The content of `info`: descriptions, and all that is not in the arrays."""

        self.url = url
        properties = info.inline.properties if info.inline else ()
        self._by_id: Mapping[str, SegmentProperty] = {each.id: each for each in properties}

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """The segments, in the order of `info`."""
        ids = self.info.inline.ids if self.info.inline else []
        return np.fromiter(map(int, ids), np.uint64, len(ids))

    def __len__(self) -> int:
        return len(self.info.inline.ids) if self.info.inline else 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __contains__(self, name: object) -> bool:
        return name in self._by_id

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return the values of a property.

        Returns
        -------
        ndarray
            (n,): numbers in their own type; strings as objects; of tags, tuples of strings.

        Raises
        ------
        KeyError
            If there is no such property.
        """
        found = self._by_id.get(name)
        if found is None:
            near = did_you_mean(name, self._by_id)
            raise KeyError(f"no property {name!r}; there are {', '.join(self._by_id) or 'none'}{near}")
        if found.type == NUMBER:
            return np.array(found.values, found.data_type)
        values = np.empty(len(found.values), object)
        values[:] = _tags_of(found) if found.type == TAGS else found.values  # noqa: PD011 - not pandas'
        return values

    def _ipython_key_completions_(self) -> list[str]:
        return [*self._by_id]

    def __repr__(self) -> str:
        kinds = [f"{one_line(each.id)} ({each.data_type or each.type})" for each in self._by_id.values()]
        more = [f"{len(kinds) - _NAMED} more"] if len(kinds) > _NAMED else []
        listed = ", ".join(kinds[:_NAMED] + more) or "no properties"
        return f"<SegmentProperties {one_line(self.url)}: {len(self)} segments; {listed}>"

    def _repr_html_(self) -> str:
        some = [*self._by_id.values()][:_SHOWN_COLUMNS]
        headings = ["id", *(f"{_cell(each.id)}<br><i>{each.data_type or each.type}</i>" for each in some)]
        columns = [self.ids[:_SHOWN_ROWS].tolist(), *(_first_values(each) for each in some)]
        cells = ("".join(f"<td>{_cell(value)}</td>" for value in row) for row in zip(*columns, strict=True))
        rows = "".join(f"<tr>{row}</tr>" for row in cells)
        heading = "".join(f"<th>{each}</th>" for each in headings)
        left_out = [f"{len(self) - _SHOWN_ROWS} more segments"] if len(self) > _SHOWN_ROWS else []
        left_out += [f"{len(self._by_id) - len(some)} more properties"] if len(self._by_id) > len(some) else []
        more = f"<div>... and {', '.join(left_out)}</div>" if left_out else ""
        table = f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<div><code>{html.escape(repr(self))}</code>{table}{more}</div>"

    @spelled_out()
    def to_pandas(self, *, tags: str = "tuples") -> "pd.DataFrame":
        """Make a table: a row for each segment, with its id as index, and a column for each property.

        Parameters
        ----------
        tags : {"tuples", "columns"}
            Whether the tags of a segment are a tuple of strings in one column, or each tag is a column of booleans.

        Returns
        -------
        pandas.DataFrame
            Its index "id" is uint64. Numbers have exactly their type; labels, descriptions and strings are texts. The
            format has no missing values: a segment without a label has an empty one. Its ``attrs`` are the keywords
            that store it as it was: ``vol.store_segment_properties(table, **table.attrs)``.

        Raises
        ------
        ImportError
            If pandas is not installed; the extra "pandas" brings it.
        ValueError
            If there is no such way for tags, or a tag has the name of a property.
        """
        if tags not in ("tuples", "columns"):
            raise ValueError(expected_one_of("tags", ("tuples", "columns"), tags))
        try:
            import pandas as pd  # noqa: PLC0415 - of an extra
        except ImportError as exc:
            raise ImportError("it needs pandas: pip install 'precomputed-fs[pandas]'", name="pandas") from exc
        columns: dict[str, Any] = {}
        for name, each in self._by_id.items():
            if each.type == TAGS and tags == "columns":
                self._add_tags(columns, each)
            else:
                columns[name] = self[name]
        table = pd.DataFrame(columns, index=pd.Index(self.ids, name="id"))
        table.attrs.update(self._keywords(as_columns=tags == "columns"))
        return table

    def _keywords(self, *, as_columns: bool) -> dict[str, Any]:
        """Return the keywords with which a table is stored again."""
        keywords: dict[str, Any] = {}
        for each in self._by_id.values():
            if each.type == TAGS:
                keywords["tags"] = list(each.tags or ()) if as_columns else each.id
                keywords["tag_descriptions"] = _described(each)
                continue
            if each.type in (LABEL, DESCRIPTION):
                keywords.setdefault(each.type, each.id)
            if each.description:
                keywords.setdefault("descriptions", {})[each.id] = each.description
        return keywords

    def _add_tags(self, columns: dict[str, Any], tags: SegmentProperty) -> None:
        """Add a column of booleans for each tag."""
        names = list(dict.fromkeys(tags.tags or ()))
        taken = [name for name in names if name in self._by_id or name in columns]
        if taken:
            raise ValueError(f"{self.url}: the tag {taken[0]!r} has the name of a property: to_pandas(tags='tuples')")
        has = {name: np.zeros(len(self), bool) for name in names}
        for row, found in enumerate(_tags_of(tags)):
            for name in found:
                has[name][row] = True
        columns.update(has)


def _tags_of(found: SegmentProperty) -> list[tuple[str, ...]]:
    tags = found.tags or []
    return [tuple(tags[int(index)] for index in value) for value in found.values]  # noqa: PD011 - not pandas'


def _described(tags: SegmentProperty) -> dict[str, str]:
    """Return what each tag is, in words; empty where that is not said."""
    names = tags.tags or []
    return dict(zip(names, tags.tag_descriptions or [""] * len(names), strict=True))


def _first_values(each: SegmentProperty) -> list[Any]:
    values = each.values[:_SHOWN_ROWS]  # noqa: PD011 - not pandas'
    if each.type != TAGS:
        return values
    return [" ".join(f"#{(each.tags or ())[int(index)]}" for index in value) for value in values]


def _cell(value: object) -> str:
    text = one_line(str(value))
    return html.escape(text if len(text) <= _SHOWN_CELL else f"{text[: _SHOWN_CELL - 3]}...")


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def open_segment_properties(url: AnyURL, **accessor_options: Unpack[AccessorOptions]) -> SegmentProperties:
    """Read a folder of segment properties: one request, for its `info`, which has all of them.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`.
    **accessor_options
        Options of `FsspecAccessor`.

    Raises
    ------
    NotFoundError, AccessDeniedError, DataAccessError
        If `info` cannot be read.
    InvalidInfoError
        If it is not of segment properties; the message names the place.

    Examples
    --------
    >>> from precomputed_fs import create_segment_properties
    >>> table = {"volume": [7, 9], "label": ["left", "right"]}
    >>> _ = create_segment_properties("memory://docs/properties", table, ids=[1, 2])
    >>> properties = open_segment_properties("memory://docs/properties")
    >>> properties.ids, properties["volume"]
    (array([1, 2], dtype=uint64), array([7, 9], dtype=int32))
    >>> properties.to_pandas()  # doctest: +NORMALIZE_WHITESPACE
        volume  label
    id
    1        7   left
    2        9  right
    """
    return properties_in(Folder.open(url, **accessor_options))


def properties_in(folder: Folder) -> SegmentProperties:
    """Read the segment properties in a folder."""
    where, most = folder.shown("info"), folder.pyramid.options.max_file_bytes
    return SegmentProperties(SegmentPropertiesInfo.parse(folder.info_text(), where, most), folder.shown())


def properties_of(volume: Volume) -> SegmentProperties:
    """Read the segment properties of a volume."""
    instead = "vol.store_segment_properties(...) stores some; open_segment_properties(url) reads a folder of their own"
    return properties_in(named_folder(volume, "segment_properties", instead))
