"""OME-Zarr images as sources: their levels, with the size and place of voxels.

Facts are from the specifications of OME-Zarr 0.4 and 0.5. Translations are of the centres of voxels there, and many
writers leave them out.
"""

import gzip
import lzma
import math
import operator
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from precomputed_fs.errors import CorruptDataError, DataAccessError, InvalidInfoError, NotFoundError, shown
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.lengths import UNITS
from precomputed_fs.store.location import Location
from precomputed_fs.store.redaction import without_secrets
from precomputed_fs.volume.indexing import AXES, triple
from precomputed_fs.volume.lazy import Arranged, Taken

_SUFFIX = ".zarr"
_SERVED = "zarr"  # the last part of `Server.zarr_url`
_UNITS = {  # nanometres of the units that OME-Zarr names
    "picometer": UNITS["pm"],
    "angstrom": UNITS["\N{LATIN CAPITAL LETTER A WITH RING ABOVE}"],
    "nanometer": UNITS["nm"],
    "micrometer": UNITS["um"],
    "millimeter": UNITS["mm"],
    "centimeter": UNITS["cm"],
    "meter": UNITS["m"],
}
_NEAR = 1e-3  # voxels
_MOST_SHIFT = 0.51  # voxels of the finest level: writers disagree by half a one
_MOST_SHARD_BYTES = 256 << 20  # that are read at once
_COLLECTIONS = ("bioformats2raw.layout", "plate", "well")  # of groups that have images
_BROKEN = (RuntimeError, ValueError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)  # what decoders of zarr raise
_FILES = (".npy", ".nii", ".nii.gz", ".hdr", ".img")


class Level(NamedTuple):
    """One of the arrays of an image."""

    array: Any
    """Lazy: (x, y, z) or (x, y, z, channel)."""

    resolution: tuple[float, float, float]
    """Nanometres, xyz; without a unit, whatever the numbers mean."""

    block: Triple
    """Voxels, xyz, that are best read together: those of its own chunk, or shard."""

    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """How far its first voxel begins behind that of the finest level, in voxels of that."""

    def fits(self, start: Triple, finest: "Level", first: Triple) -> bool:
        """Whether it begins at a voxel of its own size, if the finest level begins at `first`, and has such values."""
        if self.array.shape[3:] != finest.array.shape[3:] or not np.can_cast(self.array.dtype, finest.array.dtype):
            return False
        factors = map(operator.truediv, self.resolution, finest.resolution)
        return all(
            abs(low * factor - origin - shift) <= _MOST_SHIFT
            for low, factor, origin, shift in zip(start, factors, first, self.shift, strict=True)
        )


class OmeImage(NamedTuple):
    """An image."""

    levels: tuple[Level, ...]
    """The finest first."""

    voxel_offset: Triple
    """Coordinates of the first voxel of the finest level."""

    units: tuple[str | None, ...]
    """Those of its axes of space, as they are named."""

    has_units: bool
    """Whether all of them are known."""

    is_of_labels: bool


def is_group(source: object) -> bool:
    """Whether a value is a group of zarr; does not import zarr."""
    kind = type(source)
    return kind.__name__ == "Group" and kind.__module__.split(".")[0] == "zarr"


def is_named_so(location: Location) -> bool:
    """Whether the URL is of a Zarr hierarchy, or of a group in one."""
    parts = re.split("/|::", location.display().rstrip("/"))
    return parts[-1] == _SERVED or (not parts[-1].endswith(_FILES) and any(part.endswith(_SUFFIX) for part in parts))


def open_group(location: Location) -> Any:  # noqa: ANN401 - zarr's, which is optional
    """Open a Zarr group for reading.

    Raises
    ------
    ImportError
        If zarr is not installed.
    NotFoundError
        If there is no group.
    InvalidInfoError
        If there is an array instead.
    """
    zarr, store = zarr_module(), store_at(location, read_only=True)
    try:
        return zarr.open_group(store, mode="r")
    except zarr.errors.ContainsArrayError as exc:
        raise InvalidInfoError(f"{location.display()}: this is an array: pass the group of its image") from exc
    except FileNotFoundError as exc:
        raise NotFoundError(f"{location.display()}: there is no Zarr group") from exc


def store_at(location: Location, *, read_only: bool) -> Any:  # noqa: ANN401
    """Return a store of zarr's own; raises an ImportError if zarr is not installed, and as `zarr_store.store_at`."""
    zarr_module()
    from precomputed_fs.volume import zarr_store  # noqa: PLC0415 - imports zarr

    return zarr_store.store_at(location, read_only=read_only)


def zarr_module() -> Any:  # noqa: ANN401
    """Import ``zarr``, or raise an ImportError that says how to install it."""
    try:
        import zarr  # noqa: PLC0415 - optional
    except ImportError as exc:
        raise ImportError("Zarr needs zarr: pip install 'precomputed-fs[zarr]'", name="zarr") from exc
    return zarr


def read_image(group: Any) -> OmeImage:  # noqa: ANN401
    """Read the metadata of an image.

    Raises
    ------
    InvalidInfoError
        If these are not of one.
    """
    where = _shown(group)
    attributes = group.attrs.asdict()
    ome = attributes.get("ome", attributes)
    ome = ome if isinstance(ome, Mapping) else {}
    if not ome.get("multiscales"):
        found = ", ".join(sorted(name for name, _ in group.members())[:5])
        has_images = any(name in {**attributes, **dict(ome)} for name in _COLLECTIONS)
        hint = "the images are groups in it" if has_images else "pass the group of an image, or one array of it"
        raise InvalidInfoError(f"{where}: there are no multiscales of OME-Zarr; {hint}: {found}")
    try:
        return _read(group, ome["multiscales"][0], is_of_labels="image-label" in ome)
    except (KeyError, TypeError, AttributeError, IndexError) as exc:
        raise InvalidInfoError(f"{where}: multiscales: not as OME-Zarr has them: {exc!r:.80}") from exc
    except ValueError as exc:
        raise InvalidInfoError(f"{where}: multiscales: {exc}") from exc


def _read(group: Any, multiscale: Mapping[str, Any], *, is_of_labels: bool) -> OmeImage:  # noqa: ANN401
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in multiscale["axes"]]
    names = [_axis_name(axis) for axis in axes]
    if len(names) != len(set(names)) or not set(names) <= {*AXES, "c", "t"} or not {"x", "y"} <= set(names):
        raise ValueError(f"expected axes x, y and maybe z, c and t, got {names}")
    named = [axis.get("unit") for axis, name in zip(axes, names, strict=True) if name in AXES]
    units = [_UNITS.get(str(name), UNITS.get(str(name))) for name in named]
    nm = [float(unit) if unit else 1.0 for unit in units] if all(units) else [1.0] * len(units)
    common = multiscale.get("coordinateTransformations", [])
    levels: list[Level] = []
    first, offset, left_out = [0.0] * len(AXES), (0, 0, 0), [0.0] * len(AXES)
    depth = 0.0  # of a plane, which has no axis of its own for it
    for dataset in multiscale["datasets"] or [{}]:
        array = group[dataset["path"]]
        scale, place = _transformed(len(axes), [*dataset.get("coordinateTransformations", []), *common])
        spatial = {name: index for index, name in enumerate(names) if name in AXES}
        lengths = {name: scale[at] * unit for (name, at), unit in zip(spatial.items(), nm, strict=True)}
        depth = depth or lengths["x"]
        level = _level(array, names, [lengths.get(name, depth) for name in AXES])
        centre = [place[spatial[name]] / scale[spatial[name]] if name in spatial else 0.0 for name in AXES]
        if not levels:
            first, offset = centre, triple(map(_offset, centre))
            left_out = [at - 0.5 - low for at, low in zip(centre, offset, strict=True)]
        factors = map(operator.truediv, level.resolution, levels[0].resolution if levels else level.resolution)
        x, y, z = map(_shift, centre, factors, first, offset, left_out)
        levels.append(level._replace(shift=(x, y, z)))
    return OmeImage(tuple(levels), offset, tuple(named), all(units), is_of_labels)


@dataclass(frozen=True, slots=True)
class _Checked:
    """An array of zarr; what cannot be decoded is an error that names it."""

    source: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element."""
        dtype: np.dtype[Any] = np.dtype(self.source.dtype)
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        shape: tuple[int, ...] = self.source.shape
        return shape

    def __getitem__(self, cuts: Any) -> Any:  # noqa: ANN401 - as zarr's
        try:
            return self.source[cuts]
        except DataAccessError:
            raise
        except _BROKEN as exc:
            raise CorruptDataError(f"{_shown(self.source)}: a chunk cannot be decoded: {exc}") from exc


def _shown(node: Any) -> str:  # noqa: ANN401 - a group or an array
    """Return where it is, without secrets."""
    return re.sub(r"[A-Za-z][\w+.-]*://[^\s)>]*", lambda found: without_secrets(found[0]), str(node.store_path))


def _axis_name(axis: Mapping[str, Any]) -> str:
    name = str(axis["name"]).lower()
    return "c" if axis.get("type") == "channel" else "t" if axis.get("type") == "time" else name


def _transformed(rank: int, transformations: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Return the size of an element along each axis, and the place of the first one."""
    scale, place = [1.0] * rank, [0.0] * rank
    for each in transformations:
        kind = each["type"]
        if kind not in ("scale", "translation", "identity"):
            raise ValueError(f"expected a scale or a translation, got {shown(kind)}")
        if kind == "identity":
            continue
        values = [float(value) for value in each[kind]]
        if len(values) != rank or not all(map(math.isfinite, values)):
            raise ValueError(f"expected {rank} numbers, got {shown(each[kind])}")
        if kind == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            place = [a * b for a, b in zip(place, values, strict=True)]
        else:
            place = [a + b for a, b in zip(place, values, strict=True)]
    if min(scale) <= 0:
        raise ValueError(f"expected positive scales, got {scale}")
    return scale, place


def _level(array: Any, names: Sequence[str], resolution: Sequence[float]) -> Level:  # noqa: ANN401
    if len(names) != len(array.shape):
        raise ValueError(f"{array.path}: expected an array of {len(names)} axes, got shape {array.shape}")
    if "t" in names and array.shape[names.index("t")] != 1:
        count = array.shape[names.index("t")]
        raise ValueError(f"expected one time, got {count}: pass one of them, as an array: group[path][time]")
    shards = getattr(array, "shards", None)
    if shards is None or math.prod(shards) * array.dtype.itemsize > _MOST_SHARD_BYTES:
        shards = array.chunks
    chunk = dict(zip(names, shards, strict=True))
    block = [int(chunk.get(name, 1)) for name in AXES]
    array = _Checked(array)
    if "t" in names:
        array, names = Taken(array, names.index("t")), [name for name in names if name != "t"]
    order = tuple(names.index(name) if name in names else None for name in AXES)
    if "c" in names:
        order = (*order, names.index("c"))
    x, y, z = resolution
    return Level(Arranged(array, order), (x, y, z), triple(block))


def _offset(place: float) -> int:
    """Return the first voxel, which has its centre at a place, in voxels; half a voxel may have been left out."""
    corner = place - 0.5
    if abs(corner - round(corner)) <= _NEAR:
        return round(corner)
    return round(place)


def _shift(centre: float, factor: float, first: float, offset: int, left_out: float) -> float:
    """Return how far a level begins behind the finest one, whose first voxel has its centre at `first`."""
    if abs(centre * factor - first) <= _NEAR:  # as of writers that give all levels one translation, or none
        return 0.0
    return (centre - 0.5) * factor - left_out - offset
