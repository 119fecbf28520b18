"""How annotations are read from what they are given in: one table or array, or an iterator of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from precomputed_fs.format.annotation import Block, Layout, properties_dtype
from precomputed_fs.scene.annotation_columns import (
    Properties,
    Relationships,
    Schema,
    Table,
    block_of,
    ids_of,
    schema_of,
    table_of,
)
from precomputed_fs.scene.annotation_values import Annotations

_MOST = 1 << 32  # annotations; the client refuses lists of more


def read_annotations(
    given: Any,  # noqa: ANN401
    kind: str,
    axes: Sequence[str],
    *,
    properties: Properties,
    relationships: Relationships,
    ids: Any,  # noqa: ANN401
) -> tuple[Schema, Block]:
    """Read all annotations, whatever they are in.

    Parameters
    ----------
    given, kind, properties, relationships, ids
        See `create_annotations`.
    axes : sequence of str
        The names of the dimensions.
    """
    tables = _tables(given)
    schema: Schema | None = None
    blocks: list[Block] = []
    count = 0
    for each in [given] if tables is None else tables:
        table = table_of(each, kind, axes)
        if tables is None:
            table, properties, relationships, ids = _with_values(table, properties, relationships, ids)
        elif not (ids is None or isinstance(ids, str)):
            raise TypeError("ids: for an iterator of tables, expected the name of their column")
        if schema is None:
            schema = schema_of(
                table,
                kind,
                axes,
                properties=properties,
                relationships=relationships,
                ids=ids,
                is_all=tables is None,
            )
        blocks.append(block_of(table, schema, count))
        count += table.length
    if schema is None:
        schema = Schema(kind, tuple(axes), (), {}, None)
    empty = Layout(kind, len(axes), properties_dtype(schema.properties), len(schema.relationships))
    block = Block.joined(blocks) if blocks else empty.empty(has_related=True)
    _check_ids(block)
    return schema, block


def _tables(given: Any) -> Iterable[Any] | None:  # noqa: ANN401
    """Return what yields tables; None if this is one itself."""
    if isinstance(given, Iterator):
        return given
    if isinstance(given, (list, tuple)) and given and all(_is_table(item) for item in given):
        return given
    return None


def _is_table(given: Any) -> bool:  # noqa: ANN401
    return isinstance(given, (Annotations, Mapping)) or (hasattr(given, "columns") and hasattr(given, "index"))


def _with_values(
    table: Table,
    properties: Properties,
    relationships: Relationships,
    ids: Any,  # noqa: ANN401
) -> tuple[Table, Properties, Relationships, str | None]:
    """Make columns of the values that are given beside a table."""
    columns = dict(table.columns)

    def taken(given: Properties | Relationships, what: str) -> Any:  # noqa: ANN401
        if not isinstance(given, Mapping):
            return given
        left: dict[str, Any] = {}
        for name, value in given.items():
            is_values = value is not None and not isinstance(value, (str, Mapping)) and hasattr(value, "__len__")
            left[name] = value
            if is_values:
                if name in table.columns:
                    raise ValueError(f"{what}: there are values for {name!r}, and a column of that name, too")
                column = name if name not in columns else f"{name} ({what})"  # of a property of that name
                columns[column] = _of_length(value, table.length, f"{what}: {name}")
                left[name] = None if column == name else column
        return left

    properties, relationships = taken(properties, "properties"), taken(relationships, "relationships")
    if ids is not None and not isinstance(ids, str):
        table = table._replace(ids=ids_of(_of_length(ids, table.length, "ids"), "ids"))
        ids = None
    return table._replace(columns=columns), properties, relationships, ids


def _of_length(values: Any, length: int, what: str) -> Any:  # noqa: ANN401
    if len(values) != length:
        raise ValueError(f"{what}: expected {length} values, one for each annotation, got {len(values)}")
    return values


def _check_ids(block: Block) -> None:
    if len(block) > _MOST:
        raise ValueError(f"expected at most 2**32 annotations, got {len(block)}")
    ids = np.sort(block.ids)
    if (is_again := ids[1:] == ids[:-1]).any():
        twice = int(ids[1:][is_again][0])
        raise ValueError(
            f"ids: expected each once, got {twice} again; {int(is_again.sum())} of {len(ids)} are repeated"
        )
