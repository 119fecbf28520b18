"""The options that commands share: how a pyramid's URL is opened."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from precomputed_fs.cli.parser import completing_files
from precomputed_fs.errors import NotFoundError
from precomputed_fs.volume import Scale, Volume, open_volume

_AXES = 3
_SIDES = ("source", "destination")
_URL = "where the pyramid is: a path, or any fsspec URL"

SCALE = "its key, its voxel size such as 1mm, or its number: 0 is the finest"
"""How a scale can be named."""

_ACCESSOR_OPTIONS = (
    "anon",
    "storage_options",
    "timeout",
    "attempts",
    "denied_is_missing",
    "max_info_bytes",
    "max_file_bytes",
)


def open_url(args: argparse.Namespace) -> Volume:
    """Open the pyramid that a command names."""
    return open_volume(args.url, **accessor_options(args))


def find_scale(volume: Volume, text: str) -> Scale:
    """Return a scale by its key, its voxel size or its number, or raise a NotFoundError."""
    try:
        is_number = text.isdecimal() and text not in [scale.key for scale in volume]
        return volume[int(text) if is_number else text.rstrip("/")]
    except (KeyError, IndexError) as exc:
        raise NotFoundError(f"{volume.url}: {exc.args[0]}") from exc


def accessor_options(args: argparse.Namespace, side: str = "") -> dict[str, Any]:
    """Return the options that were given; for one side of a copy, its own take precedence over those for both."""
    options = {name: value for name in _ACCESSOR_OPTIONS if (value := getattr(args, name)) is not None}
    for name in _ACCESSOR_OPTIONS:
        own = getattr(args, f"{side}_{name}", None)
        if own is not None:
            options[name] = {**options.get(name, {}), **own} if isinstance(own, dict) else own
    return options


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the pyramid's URL, and the options for opening it."""
    completing_files(parser.add_argument("url", metavar="URL", help=_URL))
    add_reading_options(parser)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for opening a pyramid."""
    group = parser.add_argument_group("Options for reading")
    for option, settings in _PLACE_OPTIONS.items():
        group.add_argument(f"--{option}", **settings)
    group.add_argument("--timeout", type=float, metavar="SECONDS", help="until a request times out (default 30)")
    group.add_argument("--attempts", type=int, metavar="N", help="send a request at most this often (default 5)")
    group.add_argument("--max-info-bytes", type=int, metavar="N", help="the largest info to read (default 1 MiB)")
    group.add_argument(
        "--max-file-bytes", type=int, metavar="N", help="the largest of other files to read (default 1 GiB)"
    )
    group.add_argument(
        "--denied-is-missing",
        action="store_true",
        default=None,
        help="treat a denied chunk (403) as absent, which is what buckets answer that may be read but not listed",
    )


def add_sides(parser: argparse.ArgumentParser) -> None:
    """Add the options that apply to one side of a copy; without a prefix, they apply to both."""
    group = parser.add_argument_group("Options for one of the two places, in addition to those for both")
    for side in _SIDES:
        for option, settings in _PLACE_OPTIONS.items():
            told = f"as --{option}, for {side.upper()} only"
            group.add_argument(f"--{side}-{option}", **{**settings, "help": told})


def add_box(parser: argparse.ArgumentParser, text: str, of: str = "the finest scale") -> None:
    """Add an option for a part of the volume."""
    parser.add_argument(
        "--box",
        type=_box,
        metavar="X0:X1,Y0:Y1,Z0:Z1",
        help=f"{text}, in absolute voxel coordinates of {of}; a bound that is left out is that of the "
        'volume, as in ":,:,100:120"; write --box=-5:10,... if the first one is negative',
    )


def _box(text: str) -> tuple[slice, ...]:
    parts = text.split(",")
    try:
        bounds = [[int(bound) if bound.strip() else None for bound in part.split(":")] for part in parts]
    except ValueError:
        bounds = []
    if len(bounds) != _AXES or any(len(each) != 2 for each in bounds):  # noqa: PLR2004 - low and high
        raise argparse.ArgumentTypeError("expected X0:X1,Y0:Y1,Z0:Z1, such as 0:100,:,20:30")
    return tuple(slice(low, high) for low, high in bounds)


class Merge(argparse.Action):
    """Merge the dictionaries of an option that is repeated."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - what `type` made
        _option: str | None = None,
    ) -> None:
        """Merge another one."""
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **values})


def _storage_options(text: str) -> dict[str, Any]:
    """Read ``--storage-options``. Errors do not quote them, since they may hold secrets."""
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        key, mark, value = text.partition("=")
        if mark and not text.lstrip().startswith("{"):
            return {key[:-1]: json.loads(value)} if key.endswith(":") else {key: value}
        options = json.loads(text)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not JSON"
        raise argparse.ArgumentTypeError(f"cannot be read: {reason}") from None
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError("expected a JSON object, @FILE, KEY=TEXT or KEY:=JSON")
    return options


_PLACE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "anon": {
        "action": argparse.BooleanOptionalAction,
        "help": "send no credentials (default: if there are none)",
    },
    "storage-options": {
        "type": _storage_options,
        "action": Merge,
        "metavar": "OPTIONS",
        "help": "options of the fsspec filesystem: a JSON object, @FILE for a file with one, KEY=TEXT, or KEY:=JSON; "
        "may be repeated",
    },
}
"""Options that each of the two places of a copy may have."""
