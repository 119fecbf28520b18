"""The dimensions of annotations as people give them: voxel sizes, or a unit for each axis."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from precomputed_fs.errors import shown
from precomputed_fs.format.annotation_info import Dimension
from precomputed_fs.format.lengths import voxel_size
from precomputed_fs.scene.spatial_levels import split_unit

AXES = ("x", "y", "z")

_QUANTITY = re.compile(r"\s*([0-9.eE+-]+)?\s*([^\W\d]*(?:/s)?)\s*")
_PAIR = 2
_UNIT = "a quantity such as '4 nm' or (4, 'nm')"


def dimensions_of(given: Any) -> dict[str, Dimension]:  # noqa: ANN401 - see `Dimensions`
    """Return the dimensions of a collection, in metres, seconds and the like, as the client writes them.

    Parameters
    ----------
    given : optional
        Sizes of a unit along x, y and z; a scale; or the unit of each axis by its name. By default nanometres.

    Raises
    ------
    ValueError
        If it is neither a voxel size nor names axes with units.

    Examples
    --------
    >>> dimensions_of((4, 4, "40 nm"))["z"]
    Dimension(scale=4e-08, unit='m')
    >>> dimensions_of({"x": "1 um", "t": (2, "ms")})
    {'x': Dimension(scale=1e-06, unit='m'), 't': Dimension(scale=0.002, unit='s')}
    """
    if isinstance(given, Mapping):
        if not given:
            raise ValueError("dimensions: expected at least one")
        return {str(name): _dimension(str(name), unit) for name, unit in given.items()}
    resolution = getattr(given, "resolution", given)  # of a scale
    try:
        sizes: Sequence[float] = voxel_size(1 if resolution is None else resolution)
    except ValueError as exc:
        raise ValueError(f"dimensions: {exc}; or pass a mapping, such as {{'x': '4 nm', 'y': '4 nm'}}") from exc
    return {name: _scaled(size, "nm") for name, size in zip(AXES, sizes, strict=True)}


def _dimension(name: str, given: Any) -> Dimension:  # noqa: ANN401
    scale, unit = given, "nm"
    if isinstance(given, str):
        match = _QUANTITY.fullmatch(given)
        scale, unit = (match[1] or 1, match[2]) if match else (None, "")
    elif isinstance(given, Sequence) and len(given) == _PAIR:
        scale, unit = given
    try:
        made = _scaled(scale, unit)
    except (ArithmeticError, KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"dimensions: {name}: expected {_UNIT}, got {shown(given)}") from exc
    if not 0 < made.scale < float("inf"):
        raise ValueError(f"dimensions: {name}: expected a positive quantity, got {shown(given)}")
    return made


def _scaled(scale: Any, unit: Any) -> Dimension:  # noqa: ANN401
    base, exponent = split_unit(unit)
    if unit and base not in ("m", "s", "Hz", "rad/s"):
        raise ValueError(unit)
    return Dimension(float(Decimal(str(scale)).scaleb(exponent)), base)
