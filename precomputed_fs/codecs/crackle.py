"""crackle: labels of one channel, as the cracks between them and the labels of the components."""

import itertools
import struct
from dataclasses import dataclass

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkKind, DamagedError, byte_width, cut, join, library_reads
from precomputed_fs.codecs.encoding import UNSIGNED, Encoding
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk

_HEADER = struct.Struct("<4sBHIIIBI")  # of version 0
_GRID = 31  # log2 of the size of a slice's parts: each slice is one part
_PERMISSIBLE = 1 << 4  # says that cracks lie between equal labels instead of different ones
_FORTRAN = 1 << 7
_UINT32 = 2 | 2 << 2  # log2 of the bytes of a label, and of a stored label
_STEP_X = np.array([0, 1, 0, -1])  # up, right, down, left
_STEP_Y = np.array([-1, 0, 1, 0])
_UP, _LEFT = 0, 3


@dataclass(frozen=True, slots=True)
class _Stream:
    """The sections of a crackle stream.

    A code for each slice draws the cracks between labels. Cracks enclose the slice's components, which
    are numbered in raster order.
    """

    permissible: bool
    codes: list[bytes]
    counts: Array
    """How many components each slice has."""

    labels: Array
    """Their labels, slice by slice."""

    checksums: list[int] | None
    """CRC-32C of the components of each slice; None in version 0, which has no checksums."""


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    """Let the library find the components, and look up their labels here.

    By itself, the library follows codes out of a slice, and returns uninitialised memory for a slice
    that it finds broken.
    """
    stream = _read(kind, data, size)
    for code in stream.codes:
        _check_cracks(code, size)
    components = _components(stream, size)
    if stream.checksums is not None and stream.checksums != [_crc32c(plane.tobytes()) for plane in components]:
        raise DamagedError("the checksum of a slice does not match")
    if (components.max(axis=(1, 2)) >= stream.counts).any():
        raise DamagedError("it does not tell the labels of all components")
    firsts = np.cumsum(stream.counts, dtype=np.int64) - stream.counts
    labels: Array = stream.labels[components + firsts[:, np.newaxis, np.newaxis]]
    return labels.T[..., np.newaxis]


def _crc32c(data: bytes) -> int:
    import google_crc32c  # crackle requires it

    value: int = google_crc32c.value(data)
    return value


def _read(kind: ChunkKind, data: bytes, size: Triple) -> _Stream:
    """Cut a stream into its sections and check them."""
    import crackle

    with library_reads():
        header = crackle.header(data)
    x, y, z = header.sx, header.sy, header.sz
    if (x, y, z) != size or header.signed or f"uint{8 * header.data_width}" != kind.data_type:
        raise DamagedError(f"its header says {x} x {y} x {z} voxels of {header.data_width} bytes")
    if header.label_format or header.markov_model_order or header.grid_size < max(x, y):
        raise DamagedError("it has pins, a Markov model or parts of slices, which cloud-volume does not write")
    begin = header.header_bytes + header.grid_index_bytes
    if begin > len(data):
        raise DamagedError("it ends too early")
    (lengths,) = cut(data, header.header_bytes, (4, z))
    ends = list(itertools.accumulate(lengths.tolist(), initial=begin + header.num_label_bytes))
    checked = header.format_version > 0
    if ends[-1] + 4 * (z + 1) * checked != len(data):
        raise DamagedError("its sections do not add up to its length")
    checksums = None
    if checked:
        of_labels, *checksums = np.frombuffer(data, "<u4", z + 1, ends[-1]).tolist()
        of_index = int.from_bytes(data[begin - 4 : begin], "little")
        if (of_index, of_labels) != (_crc32c(lengths.tobytes()), _crc32c(data[begin : ends[0]])):
            raise DamagedError("the checksum of its index or its labels does not match")
    counts, labels = _component_labels(data[begin : ends[0]], header.stored_data_width, size)
    return _Stream(
        permissible=bool(header.crack_format),
        codes=[data[low:high] for low, high in itertools.pairwise(ends)],
        counts=counts,
        labels=labels.astype(kind.dtype, copy=False),
        checksums=checksums,
    )


def _component_labels(section: bytes, width: int, size: Triple) -> tuple[Array, Array]:
    """Return the number of components of each slice, and the label of each component.

    The section holds the number of labels, the labels, the number of components of each slice, and the
    index of each component's label.
    """
    x, y, z = size
    known = int.from_bytes(section[:8], "little")
    heads = [(width, known), (byte_width(x * y), z)]
    begin = 8 + sum(each * count for each, count in heads)
    if not known or begin > len(section):
        raise DamagedError("its labels end too early")
    labels, counts = cut(section, 8, *heads)
    total = int(counts.sum(dtype=np.uint64))
    if begin + total * byte_width(known) != len(section):
        raise DamagedError("its labels do not add up to their length")
    (indices,) = cut(section, begin, (byte_width(known), total))
    if (indices >= known).any():
        raise DamagedError("a component has a label that there is not")
    return counts.astype(np.int64), labels[indices]


def _components(stream: _Stream, size: Triple) -> Array:
    """Find the components of each slice: ``[z, y, x]``, numbered from 0 in each.

    The codes are put into a stream of version 0 in which all slices share one table: it labels each of
    as many components as there may be with its number.
    """
    import crackle

    x, y, z = size
    numbers = np.arange(x * y)
    width = byte_width(x * y)
    table = join(struct.pack("<Q", x * y), numbers.astype("<u4"), bytes(z * width), numbers.astype(f"<u{width}"))
    kind = _UINT32 | _FORTRAN | _PERMISSIBLE * stream.permissible
    header = _HEADER.pack(b"crkl", 0, kind, x, y, z, _GRID, len(table))
    lengths = np.array([len(code) for code in stream.codes], "<u4")
    with library_reads():
        components = crackle.decompress(join(header, lengths, table, *stream.codes), parallel=1)
    return np.ascontiguousarray(components.T)


def _check_cracks(code: bytes, size: Triple) -> None:
    """Follow all cracks of a slice, and check that they stay inside.

    The code has chains of moves along the edges of voxels. A move that reverses the one before it does
    not move: the two together say "branch" (come back here) or "end" (of this branch, or of the chain).
    Each move takes two bits, as the difference from the move before.
    """
    x, y, _ = size
    nodes, begin = _crack_nodes(code, x, y)
    if not nodes:
        return
    packed = np.frombuffer(code, np.uint8, offset=begin)
    moves = np.cumsum((packed[:, np.newaxis] >> np.array([0, 2, 4, 6], np.uint8)) & 3, dtype=np.uint8) & 3
    ends, is_move = _crack_pairs(moves)
    across = np.append(0, np.cumsum(np.where(is_move, _STEP_X[moves], 0)))
    down = np.append(0, np.cumsum(np.where(is_move, _STEP_Y[moves], 0)))
    stops, origins = _crack_origins(nodes, ends.tolist(), moves[ends].tolist(), across.tolist(), down.tolist())
    count = stops[-1]
    repeats = np.diff(stops)
    moves, is_move = moves[:count], is_move[:count]
    columns, rows = across[:count] + np.repeat(origins[:, 0], repeats), down[:count] + np.repeat(origins[:, 1], repeats)
    # A crack between two voxels begins and ends in the slice or on its border, but does not follow the border.
    inside = np.where(moves % 2 == 0, (columns > 0) & (columns < x), (rows > 0) & (rows < y))
    for positions, largest in ((columns, x), (columns + _STEP_X[moves], x), (rows, y), (rows + _STEP_Y[moves], y)):
        inside &= (positions >= 0) & (positions <= largest)
    if not inside[is_move].all():
        raise DamagedError("a crack leads out of its slice")


def _crack_nodes(code: bytes, x: int, y: int) -> tuple[list[tuple[int, int]], int]:
    """Return where chains begin, as (column, row) of the grid between voxels, and where their moves begin.

    For each row with chains, the code has the distance from the row before, the number of chains, and
    for each the distance from the column before.
    """
    column_width, row_width = byte_width(x + 1), byte_width(y + 1)
    end = 4 + int.from_bytes(code[:4], "little")
    position = 4 + row_width
    if end < position or end > len(code):
        raise DamagedError("the code of a slice ends too early")
    nodes = []
    row = 0
    for _ in range(int.from_bytes(code[4:position], "little")):
        row += int.from_bytes(code[position : position + row_width], "little")
        position += row_width
        count = int.from_bytes(code[position : position + column_width], "little")
        position += column_width
        if position + count * column_width > end:
            raise DamagedError("the code of a slice ends too early")
        (columns,) = cut(code, position, (column_width, count))
        position += count * column_width
        nodes += [(column, row) for column in np.cumsum(columns, dtype=np.int64).tolist()]
    if position != end:
        raise DamagedError("the code of a slice is longer than it says")
    return nodes, end


def _crack_pairs(moves: Array) -> tuple[Array, Array]:
    """Return the second moves of pairs that say "branch" or "end", and which moves are not in a pair."""
    opposite = (moves[1:] ^ moves[:-1]) == 2  # noqa: PLR2004
    index = np.arange(len(opposite))
    last_other = np.maximum.accumulate(np.where(opposite, -1, index))
    ends = np.flatnonzero(opposite & ((index - last_other) % 2 == 1)) + 1
    is_move = np.ones(len(moves), bool)
    is_move[ends] = is_move[ends - 1] = False
    return ends, is_move


def _crack_origins(
    nodes: list[tuple[int, int]], ends: list[int], moves: list[int], across: list[int], down: list[int]
) -> tuple[list[int], Array]:
    """Return where the sums of moves restart, and from which (column, row), up to the end of the last chain."""
    chains = iter(nodes)
    stops = [0]
    origins = [next(chains)]
    branches: list[tuple[int, int]] = []
    for end, move in zip(ends, moves, strict=True):
        if move not in (_UP, _LEFT):
            branches.append((origins[-1][0] + across[end], origins[-1][1] + down[end]))
            continue
        stops.append(end + 1)
        node = branches.pop() if branches else next(chains, None)
        if node is None:
            return stops, np.array(origins)
        origins.append((node[0] - across[end + 1], node[1] - down[end + 1]))
    raise DamagedError("the code of a slice ends too early")


def _encode(_: ChunkKind, array: Array) -> bytes:
    import crackle

    encoded: bytes = crackle.compress(np.asfortranarray(array[..., 0]), parallel=1)
    return encoded


def _largest(chunk: Chunk) -> int:
    """Allow a label and its index per voxel, and cracks and the start of one per corner of a voxel."""
    return chunk.voxels * (chunk.value_bytes + 8 + 4 * (4 + 1))


CRACKLE = Encoding(
    "crackle",
    UNSIGNED,
    (1,),
    _decode,
    _encode,
    _largest,
    library="crackle",
    extra="codecs",
    layer_type="segmentation",
)
