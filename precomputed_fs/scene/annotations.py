"""How annotation collections are read: by id, by related object, and by place."""

import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.errors import NotFoundError, expected_one_of, shown
from precomputed_fs.format.annotation import Block, Layout, decode_many, decode_single
from precomputed_fs.format.annotation_info import MAX_GRID, AnnotationInfo, Dimension, Index, Level, Property
from precomputed_fs.format.grid import Box, compressed_morton_code
from precomputed_fs.format.lengths import readable
from precomputed_fs.format.names import joined
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.pyramid.value_ids import NoListingError, stored_ids, stored_names
from precomputed_fs.pyramid.values import Values, fetch_from_several
from precomputed_fs.scene.annotation_geometry import bounds_of, corners_of, meets
from precomputed_fs.scene.annotation_values import Annotation, Annotations
from precomputed_fs.scene.folder import Folder
from precomputed_fs.scene.spatial_levels import Grid, split_unit
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from precomputed_fs.volume.volume import Volume

Array = NDArray[Any]
Cell = tuple[int, ...]

BoxLike = Box | Sequence[Sequence[float]] | Mapping[str, Sequence[float]] | None
"""Two corners, or a range for some of the dimensions by name; None: everything."""

_IDS = 1 << 64
_TOO_LARGE = 2.0**53  # from here on, float64 rounds integers
_FEW_CELLS = 8  # of one level's shards, which are read without joining those that are close to each other
_MANY_CELLS = 4096  # in a box: to list those that are stored takes no longer
_MOST_CELLS = 10_000_000
_CELL = re.compile(r"\d{1,10}(_\d{1,10})*", re.ASCII)


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def open_annotations(
    url: AnyURL,
    *,
    volume: "Volume | None" = None,
    progress: bool | None = None,
    **accessor_options: Unpack[AccessorOptions],
) -> "AnnotationCollection":
    """Open a collection of annotations: one request, for its `info`.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`; with `volume`, a path from that volume, such as ``"annotations"``.
    volume : Volume, optional
        A volume, beside which the collection is and whose options are used.
    progress : bool, optional
        Whether reading shows a progress bar; by default if it takes long, in a notebook or on a terminal.
    **accessor_options
        Options of `FsspecAccessor`.

    Raises
    ------
    NotFoundError, AccessDeniedError, DataAccessError
        If `info` cannot be read.
    InvalidInfoError
        If it is not valid or not of annotations; the message names the place.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_annotations
    >>> points = np.array([[10, 20, 30], [500, 20, 30]])
    >>> _ = create_annotations("memory://docs/annotations", points, properties={"size": np.array([3, 9])})
    >>> ann = open_annotations("memory://docs/annotations")
    >>> ann.within([(0, 0, 0), (100, 100, 100)]).to_pandas().reset_index()
       id     x     y     z  size
    0   0  10.0  20.0  30.0     3
    """
    if volume is None:
        folder = Folder.open(url, **accessor_options)
    else:
        folder = Folder.beside(volume.accessor.pyramid, str(url), "annotations")
    return collection_of(folder, progress=progress)


def collection_of(folder: Folder, *, progress: bool | None = None) -> "AnnotationCollection":
    """Open the collection in a folder."""
    return AnnotationCollection(folder, AnnotationInfo.parse(folder.info(), folder.shown("info")), progress=progress)


class AnnotationCollection:
    """The annotations of one folder, read where they are asked for. Use `open_annotations` to make one.

    Parameters
    ----------
    folder : Folder
    info : AnnotationInfo
    progress : bool, optional
        See `open_annotations`.
    """

    def __init__(self, folder: Folder, info: AnnotationInfo, *, progress: bool | None = None) -> None:
        self.info = info
        """What `info` says."""

        self.folder = folder
        self._layout = Layout.of(info)
        self._progress = progress

    def __repr__(self) -> str:
        info = self.info
        axes = ", ".join(f"{name} ({_readable(unit)})" for name, unit in self.dimensions.items())
        lines = [f"<AnnotationCollection {self.url}>", f"  {info.kind.replace('_', ' ')} annotations in {axes}"]
        bounds = zip(info.lower_bound, info.upper_bound, strict=True)
        lines.append("  within " + ", ".join(f"{low:g} to {high:g}" for low, high in bounds))
        if info.properties:
            lines.append("  properties: " + ", ".join(f"{each.id} ({each.type})" for each in info.properties))
        if info.relationships:
            lines.append("  relationships: " + ", ".join(self.relationships))
        return "\n".join(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections; an archive that was written is complete then."""
        self.folder.pyramid.close()

    # --------------------------------------------------------------------------------------------- what there is

    @property
    def url(self) -> str:
        """The URL for messages: without query, password or options."""
        return self.folder.shown()

    @property
    def kind(self) -> str:
        """The type of the annotations, "point", "line", "axis_aligned_bounding_box", "ellipsoid" or "polyline"."""
        return self.info.kind

    @property
    def dimensions(self) -> Mapping[str, Dimension]:
        """The unit of each coordinate by its name, such as ``{"x": (4e-9, "m"), ...}``."""
        return self.info.dimensions

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The lower and the upper bound of all annotations, in the units of the dimensions."""
        return np.array(self.info.lower_bound, float), np.array(self.info.upper_bound, float)

    @property
    def properties(self) -> tuple[Property, ...]:
        """The properties that each annotation has."""
        return self.info.properties

    @property
    def relationships(self) -> tuple[str, ...]:
        """The names of the relationships, by which annotations can be found from objects such as segments."""
        return tuple(each.id for each in self.info.relationships)

    # ----------------------------------------------------------------------------------------------------- by id

    def __getitem__(self, annotation_id: int) -> Annotation:
        """Read one annotation.

        Raises
        ------
        NotFoundError
            If there is none with this id.
        """
        if np.ndim(annotation_id):
            raise TypeError("expected the id of one annotation; `get` reads several")
        only: Annotation = self.get([annotation_id])[0]
        return only

    def __contains__(self, annotation_id: object) -> bool:
        return self._values(self._by_id).fetch(_checked_id(annotation_id)) is not None

    def __iter__(self) -> Iterator[Annotation]:
        return itertools.chain.from_iterable(self.blocks())

    def get(self, ids: Iterable[int], *, missing: str = "error") -> Annotations:
        """Read annotations by their ids, many at once.

        Parameters
        ----------
        ids : iterable of int
        missing : {"error", "skip"}
            What to do about ids that there are not.

        Returns
        -------
        Annotations
            In the order of `ids`, with their related objects.

        Raises
        ------
        NotFoundError
            If one is absent, or the collection has no index by id.
        """
        if missing not in ("error", "skip"):
            raise ValueError(expected_one_of("missing", ["error", "skip"], missing))
        wanted = [*map(_checked_id, ids)]
        values = self._values(self._by_id)
        unique = dict.fromkeys(wanted)
        with Progress("reading annotations", len(unique), self._progress, "annotation") as callback:
            found = dict(values.fetch_many(iter(unique), decode=self._decode_single, callback=callback))
        absent = [key for key in unique if found[key] is None]
        if absent and missing == "error":
            others = f" and {len(absent) - 1} others are" if len(absent) > 1 else " is"
            raise NotFoundError(f"{self.folder.shown(self._by_id.key)}: annotation {absent[0]}{others} not there")
        return self._annotations([found[key] for key in wanted], has_related=True)

    @property
    def ids(self) -> Array:
        """All ids, sorted: listed, or read from the indexes of shards; an error where the protocol has no listings."""
        return np.sort(np.fromiter(stored_ids(self._values(self._by_id)), np.uint64))

    @property
    def _by_id(self) -> Index:
        if self.info.by_id is None:
            message = "`info` names no index by id: use within() or related()"
            raise NotFoundError(f"{self.url}: {message}")
        return self.info.by_id

    # ---------------------------------------------------------------------------------------- by related object

    def related(self, relationship: str, object_ids: int | Iterable[int]) -> Annotations:
        """Read the annotations that are related to an object, or to any of several.

        Parameters
        ----------
        relationship : str
            One of `relationships`.
        object_ids : int or iterable of int
            Such as the ids of segments. Of an object that the index does not have, there are none.

        Returns
        -------
        Annotations
            Each once, in the order of the objects.
        """
        index = next((each.index for each in self.info.relationships if each.id == relationship), None)
        if index is None:
            raise ValueError(expected_one_of("relationship", self.relationships, relationship))
        if isinstance(object_ids, np.ndarray):
            object_ids = np.atleast_1d(object_ids)
        given = object_ids if isinstance(object_ids, Iterable) else [object_ids]
        wanted = dict.fromkeys(map(_checked_id, given))
        values = self._values(index)
        with Progress(f"reading {relationship}", len(wanted), self._progress, "object") as callback:
            found = dict(values.fetch_many(iter(wanted), decode=self._decode_many, callback=callback))
        return _without_repeated(self._annotations([found[key] for key in wanted]))

    # -------------------------------------------------------------------------------------------------- by place

    def within(self, box: BoxLike = None, *, exact: bool = True) -> Annotations:
        """Read the annotations within a box, from all levels of the spatial index, in parallel.

        Parameters
        ----------
        box : pair of sequences, Box or mapping
            Lower and upper corner in the units of the dimensions, such as ``[(0, 0, 0), (100, 100, 20)]``, or ranges
            of some dimensions, such as ``{"z": (10, 20)}``. The upper bound is exclusive, as in NumPy. By default
            everything.
        exact : bool
            Whether to leave out what the cells of the index have besides. A line or polyline is within the box if any
            point of it is, a bounding box or ellipsoid if they overlap.

        Returns
        -------
        Annotations
            Each once, sorted by id.

        Raises
        ------
        NotFoundError
            If the collection has no spatial index.

        Notes
        -----
        What is beyond the bounds is looked for in the outermost cells: Neuroglancer's own writer of ellipsoids stores
        bounds that not all of them are in.
        """
        found = self._annotations([each.block for each in self.blocks(box, exact=exact)])
        return Annotations(self.info, found.block.take(np.unique(found.ids, return_index=True)[1]))

    def blocks(self, box: BoxLike = None, *, exact: bool = True) -> Iterator[Annotations]:
        """Read the annotations within a box, some at a time, such that memory holds only those in flight.

        Parameters
        ----------
        box, exact
            See `within`.

        Yields
        ------
        Annotations
            Those of one cell, in any order; each annotation once.
        """
        low, high = self._corners(box)
        if not self.info.levels:
            message = "`info` names no spatial index: use get(), such as of `ids`, or related()"
            raise NotFoundError(f"{self.url}: {message}")
        if np.any(low > high):
            return
        seen: set[int] = set()
        wanted = [(level, *self._cells_in(level, low, high)) for level in self.info.levels]
        total = sum(count for _, _, count in wanted)
        with Progress("reading annotations", total, self._progress, "cell") as callback:
            for _, block in self._fetched(wanted, callback):
                if block is None:
                    continue
                if exact and box is not None:  # or else what is nowhere, such as NaN, would be left out
                    block = block.take(meets(self.kind, block.geometry, low, high))  # noqa: PLW2901
                block = self._not_seen(block, seen)  # noqa: PLW2901
                if len(block):
                    yield Annotations(self.info, block)

    def to_pandas(self) -> "pd.DataFrame":
        """Read all annotations into a table; see `Annotations.to_pandas`."""
        return self.within().to_pandas()

    def _corners(self, box: BoxLike) -> tuple[Array, Array]:
        """Return two corners that belong to the box."""
        names = [*self.dimensions]
        low, high = np.full(len(names), -np.inf), np.full(len(names), np.inf)
        if isinstance(box, Mapping):
            for name, ends in box.items():
                if name not in names:
                    raise ValueError(expected_one_of("box", names, name))
                axis = names.index(name)
                low[axis], high[axis] = _range_of(name, ends)
        elif box is not None:
            low, high = corners_of(box, names, "box")
        return low, np.where(np.isinf(high), high, np.nextafter(high, -np.inf))

    def _cells_in(self, level: Level, low: Array, high: Array) -> tuple[Iterator[Cell], int]:
        """Return the cells of a level that meet a box, and how many: of very many, those that are stored."""
        first, last = self._grid(level).cells_of(np.stack([low, high]))
        ranges = [range(begin, end + 1) for begin, end in zip(first.tolist(), last.tolist(), strict=True)]
        count = math.prod(map(len, ranges))
        if count > _MANY_CELLS:
            with contextlib.suppress(NoListingError):
                stored = self._stored_cells(level)
                inside = stored[np.all((stored >= first) & (stored <= last), axis=1)]
                return map(tuple, inside.tolist()), len(inside)
        if count > _MOST_CELLS:
            message = f"{count:,} cells of {level.index.key} meet the box, and what is stored cannot be listed"
            raise ValueError(f"{self.url}: {message}: choose a smaller box")
        return itertools.product(*ranges), count

    def _stored_cells(self, level: Level) -> Array:
        """List the cells (n, rank) of a level that are stored."""
        values: Any = self._cells(level)
        if level.index.sharding is not None:
            return self._grid(level).cells_at(np.fromiter(stored_ids(values), np.uint64))
        names = {name for name in stored_names(values) if _CELL.fullmatch(name)}
        cells = [[*map(int, name.split("_"))] for name in names]
        of_rank = [cell for cell in cells if len(cell) == self.info.rank and max(cell) <= MAX_GRID]
        return np.array(sorted(of_rank), np.int64).reshape(-1, self.info.rank)

    def _grid(self, level: Level) -> Grid:
        return Grid(self.bounds[0], level.grid_shape, np.array(level.chunk_size, float))

    def _not_seen(self, block: Block, seen: set[int]) -> Block:
        """Leave out annotations that another cell had: only those that meet several cells can be there again."""
        finest = self._grid(self.info.levels[-1])
        lows, highs = bounds_of(self.kind, block.geometry)
        with np.errstate(invalid="ignore", over="ignore"):  # of polylines without points
            first = np.ceil((lows - finest.lower_bound) / finest.chunk_size) - 1
            last = np.floor((highs - finest.lower_bound) / finest.chunk_size)
        several = np.flatnonzero(np.any(first != last, axis=1))
        is_new = np.ones(len(block), bool)
        for i, key in zip(several.tolist(), block.ids[several].tolist(), strict=True):
            is_new[i] = key not in seen
            seen.add(key)
        return block if is_new.all() else block.take(is_new)

    # ----------------------------------------------------------------------------------------------------- values

    def _values(self, index: Index) -> Values[int]:
        return self._folder_of(index).values(index.sharding, is_uniform=True)

    def _cells(self, level: Level) -> Values[Cell]:
        return self._folder_of(level.index).values(
            level.index.sharding,
            name_of=cell_name,
            id_of=lambda cell: compressed_morton_code(cell, level.grid_shape),
            is_uniform=True,
        )

    def _fetched(
        self, wanted: Sequence[tuple[Level, Iterator[Cell], int]], callback: Progress
    ) -> Iterator[tuple[Any, Block | None]]:
        """Fetch cells: of all levels at once, but many of one level's shards by themselves, to join neighbours."""
        alone = [each for each in wanted if each[0].index.sharding is not None and each[2] > _FEW_CELLS]
        at_once = [each for each in wanted if each not in alone]
        in_files: Values[tuple[str, Cell]] = self.folder.values(
            name_of=lambda key: joined(key[0], cell_name(key[1])), is_uniform=True
        )

        def several() -> Iterator[tuple[Values[Any], Any]]:
            for level, cells, _ in at_once:
                key = level.index.key.removesuffix("/")
                if level.index.sharding is None and ".." not in key.split("/"):
                    yield from ((in_files, (key, cell)) for cell in cells)  # where what is known of names is shared
                else:
                    values = self._cells(level)
                    yield from ((values, cell) for cell in cells)

        yield from fetch_from_several(several(), decode=self._decode_many, callback=callback)
        for level, cells, _ in alone:
            yield from self._cells(level).fetch_many(cells, decode=self._decode_many, callback=callback)

    def _folder_of(self, index: Index) -> Folder:
        return Folder.beside(self.folder.pyramid, joined(self.folder.path, index.key), "key")

    def _decode_many(self, _: object, data: bytes | None) -> Block | None:
        return None if data is None else decode_many(data, self._layout)

    def _decode_single(self, key: int, data: bytes | None) -> Block | None:
        return None if data is None else decode_single(data, key, self._layout)

    def _annotations(self, blocks: Iterable[Block | None], *, has_related: bool = False) -> Annotations:
        """Return the annotations of all blocks that there are."""
        found = [block for block in blocks if block is not None] or [self._layout.empty(has_related=has_related)]
        return Annotations(self.info, Block.joined(found))


def _readable(unit: Dimension) -> str:
    base, exponent = split_unit(unit.unit)
    if base == "m":
        return readable([unit.scale * 10.0 ** (exponent + 9)])
    return f"{unit.scale:g} {unit.unit}".rstrip()


def cell_name(cell: Cell) -> str:
    """Name the file of a cell of the spatial index."""
    return "_".join(map(str, cell))


def _range_of(name: str, given: Any) -> tuple[float, float]:  # noqa: ANN401 - anything
    """Return the range of one dimension of a box."""
    try:
        first, last = map(float, given)
    except (TypeError, ValueError):
        first = last = math.nan
    if math.isnan(first) or math.isnan(last):
        raise ValueError(f"box: expected two numbers for {name!r}, such as (10, 20), got {shown(given)}")
    return first, last


def _checked_id(given: Any) -> int:  # noqa: ANN401 - anything
    try:
        is_exact = not isinstance(given, (float, np.floating)) or float(given) < _TOO_LARGE
        is_id = is_exact and not isinstance(given, (bool, np.bool_, str)) and given == int(given)
        checked = int(given) if is_id else -1
    except (TypeError, ValueError, OverflowError):
        checked = -1
    if not 0 <= checked < _IDS:
        raise TypeError(f"expected an id, an integer from 0 to 2**64 - 1, got {shown(given)}")
    return checked


def _without_repeated(found: Annotations) -> Annotations:
    _, first = np.unique(found.ids, return_index=True)
    return found if len(first) == len(found) else Annotations(found.info, found.block.take(np.sort(first)))
