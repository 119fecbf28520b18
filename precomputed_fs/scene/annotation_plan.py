"""Which indexes a new collection of annotations has, what is in them, and how they are sharded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import shown
from precomputed_fs.format.annotation import Block, Layout, Ragged, client_differs, single_lengths
from precomputed_fs.format.annotation_info import AnnotationInfo, Dimension, Index, Level, Relationship
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.scene.annotation_columns import Schema
from precomputed_fs.scene.annotation_geometry import bounds_of, corners_of
from precomputed_fs.scene.annotations import cell_name
from precomputed_fs.scene.per_segment import checked_sharding
from precomputed_fs.scene.spatial_levels import FilledLevel, Grid, fill_levels, round_bounds

Array = NDArray[Any]

_MANY = 10_000  # values of an index that are sharded by default
_IN_MINISHARD = 256
_MINISHARDS_BITS = 8  # so that a shard has some 65,536 values, which are in memory until it is written
_SHARD_BYTES = 64 << 20
_WORTH_GZIP = 4096  # bytes of a value; coordinates compress little, and each small value takes its time
_TOGETHER_BITS = 4  # of ids whose annotations are in one minishard


@dataclass(frozen=True, slots=True, eq=False)
class Indexed:
    """What one index has."""

    index: Index
    keys: Array
    """Ids of annotations or of objects, or the cells of a level."""

    codes: Array
    """(m,) uint64: by which shards know them."""

    members: Ragged | None
    """For each key the numbers of its annotations; None for the index by id, where each is its own key."""

    name_of: Callable[[Any], str] = str

    @property
    def sizes(self) -> Array:
        """How many annotations each key has."""
        return np.ones(len(self.codes), np.int64) if self.members is None else self.members.lengths

    def __len__(self) -> int:
        return len(self.codes) if self.members is None else len(self.members.values)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to be stored."""

    info: AnnotationInfo
    block: Block
    indexes: Sequence[Indexed]

    @property
    def keys(self) -> list[str]:
        """The folders of all indexes."""
        return [each.index.key for each in self.indexes]


def planned(
    schema: Schema,
    block: Block,
    units: Mapping[str, Dimension],
    *,
    bounds: Any,  # noqa: ANN401
    limit: int,
    seed: int,
    sharding: bool | Mapping[str, Any] | Sharding | None,
) -> Plan:
    """Distribute annotations over the indexes.

    Parameters
    ----------
    schema : Schema
    block : Block
    units : mapping
        The dimensions.
    bounds, limit, seed, sharding
        See `create_annotations`.
    """
    lower, upper = _bounds(block, schema, bounds)
    info = AnnotationInfo(schema.kind, units, lower, upper, schema.properties)
    related = [
        Relationship(name, Index(key))
        for name, key in zip(schema.relationships, _keys(schema.relationships), strict=True)
    ]
    layout = replace(Layout.of(info), relationships=len(related))
    if client_differs(layout):
        message = "Neuroglancer reads the colours of annotations with so many properties elsewhere than they are"
        raise ValueError(f"properties: {message}: leave some out, or make the colours numbers")
    by_id = Index("by_id", _sharding(sharding, len(block), _mean(single_lengths(block, layout))))
    whole = Grid(np.array(lower, float), (1,) * len(lower), np.array(upper, float) - np.array(lower, float))
    filled = list(fill_levels(block, schema.kind, whole, units, limit=limit, seed=seed))
    size = 4 * layout.words + 8
    lists = [
        _related(each, objects, sharding, size) for each, objects in zip(related, block.related or (), strict=True)
    ]
    cells = [_cells(number, level, sharding, size) for number, level in enumerate(filled)]
    info = replace(
        info,
        relationships=tuple(replace(each, index=made.index) for each, made in zip(related, lists, strict=True)),
        by_id=by_id,
        levels=tuple(
            Level(made.index, level.grid.shape, tuple(level.grid.chunk_size.tolist()), level.limit)
            for made, level in zip(cells, filled, strict=True)
        ),
    )
    return Plan(info, block, [Indexed(by_id, block.ids, block.ids, None), *lists, *cells])


def _bounds(block: Block, schema: Schema, given: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:  # noqa: ANN401
    rank = len(schema.axes)
    lows, highs = bounds_of(schema.kind, block.geometry)
    if given is None:
        if not len(block):
            return (0,) * rank, (1,) * rank
        return round_bounds(lows.min(axis=0).tolist(), highs.max(axis=0).tolist())
    lower, upper = corners_of(given, schema.axes, "bounds")
    if not (np.isfinite([lower, upper]).all() and (lower < upper).all()):
        raise ValueError(f"bounds: expected finite ones, the upper one larger, got {shown(given)}")
    is_outside = ((lows < lower) | (highs > upper)).any(axis=1)
    if is_outside.any():
        row = int(np.argmax(is_outside))
        got = f"{lows[row].tolist()}" + ("" if schema.kind == "point" else f" to {highs[row].tolist()}")
        others = f", and {int(is_outside.sum()) - 1} more" if is_outside.sum() > 1 else ""
        raise ValueError(f"row {row}: {got} is outside of the bounds {lower.tolist()} to {upper.tolist()}{others}")
    return tuple(lower.tolist()), tuple(upper.tolist())


def _keys(relationships: Iterable[str]) -> list[str]:
    """Name the folders of relationships; their names may have characters that paths do not have."""
    keys: list[str] = []
    for name in relationships:
        plain = "rel_" + "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "_" for letter in name
        )
        keys.append(plain if plain not in keys else f"{plain}_{len(keys)}")
    return keys


def _related(
    each: Relationship, objects: Ragged, sharding: bool | Mapping[str, Any] | Sharding | None, size: int
) -> Indexed:
    """Turn the objects of each annotation into the annotations of each object."""
    owners = np.repeat(np.arange(len(objects.lengths)), objects.lengths)
    order = np.lexsort((owners, objects.values))
    ids, owners = objects.values[order], owners[order]
    is_first = np.ones(len(ids), bool)  # an object may be listed twice
    is_first[1:] = (ids[1:] != ids[:-1]) | (owners[1:] != owners[:-1])
    ids, counts = np.unique(ids[is_first], return_counts=True)
    index = replace(each.index, sharding=_sharding(sharding, len(ids), size * _mean(counts)))
    return Indexed(index, ids, ids, Ragged.of(owners[is_first], counts))


def _cells(number: int, level: FilledLevel, sharding: bool | Mapping[str, Any] | Sharding | None, size: int) -> Indexed:
    index = Index(f"spatial{number}", _sharding(sharding, len(level.codes), size * _mean(level.members.lengths)))
    return Indexed(index, level.cells, level.codes, level.members, cell_name)


def _mean(lengths: Array) -> float:
    return float(lengths.mean()) if len(lengths) else 0.0


def _sharding(given: bool | Mapping[str, Any] | Sharding | None, count: int, size: float) -> Sharding | None:
    """Return how an index is sharded.

    Parameters
    ----------
    count : int
        How many values it has.
    size : float
        Bytes of a value, on average.
    """
    wanted = checked_sharding(given)
    if isinstance(wanted, Sharding):
        return wanted
    if not (count > _MANY if wanted is None else wanted):
        return None
    bits = max(0, (-(-count // _IN_MINISHARD) - 1).bit_length())
    fitting = max(0, int(_SHARD_BYTES // (_IN_MINISHARD * max(size, 1.0))).bit_length() - 1)
    minishard_bits = min(bits, _MINISHARDS_BITS, fitting)
    return Sharding(
        preshift_bits=_TOGETHER_BITS,
        hash="murmurhash3_x86_128",  # ids may be of any kind
        minishard_bits=minishard_bits,
        shard_bits=bits - minishard_bits,
        minishard_index_encoding="gzip",
        data_encoding="gzip" if size > _WORTH_GZIP else "raw",
    )
