"""The options that say how a pyramid is stored, which `create` and `copy` share."""

import argparse
import json
from pathlib import Path
from typing import Any

from precomputed_fs import add_argparse_options
from precomputed_fs.cli.options import Merge
from precomputed_fs.codecs import ENCODINGS

_WRITING_OPTIONS = ("flat", "compresslevel")


def add_storing_options(parser: argparse.ArgumentParser, *, encoding: str, sharding: str, gzip: str) -> None:
    """Add the options; the texts say what is the default of each."""
    parser.add_argument("--encoding", help=f"encode chunks like this (default: {encoding})")
    parser.add_argument(
        "--parameter",
        type=_key_value,
        action=Merge,
        default={},
        metavar="KEY=JSON",
        help="a parameter of that encoding, such as jpeg_quality=90; may be repeated",
    )
    parser.add_argument(
        "--sharding",
        type=_sharding,
        metavar="SHARDING",
        help=f"auto, none, or the JSON object for info, or @FILE for a file with one (default: {sharding})",
    )
    add_argparse_options(parser)
    parser.add_argument("--gzip", action="store_true", help=f"compress with gzip (default: {gzip})")
    parser.set_defaults(gzip=None)


def encoding_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of the encoding.

    Raises
    ------
    ValueError
        If the encoding has none of this name.
    """
    row = ENCODINGS.get((args.encoding or "").lower())
    own = {parameter.key for parameter in row.parameters} if row else set()
    if foreign := sorted(args.parameter.keys() - own):
        raise ValueError(f"--parameter {foreign[0]}: the given --encoding has no such parameter")
    return dict(args.parameter)


def writing_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options for the names and the compression of what is written, but `gzip`."""
    return {name: getattr(args, name) for name in _WRITING_OPTIONS}


def _key_value(text: str) -> dict[str, Any]:
    key, mark, value = text.partition("=")
    try:
        return {key: json.loads(value)}
    except ValueError:
        if mark and key:
            return {key: value}
    raise argparse.ArgumentTypeError("expected KEY=JSON")


def _sharding(text: str) -> bool | dict[str, Any]:
    if text in ("auto", "none"):
        return text == "auto"
    try:
        sharding = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, ValueError) as exc:
        raise argparse.ArgumentTypeError(f"expected auto, none, a JSON object or @FILE: {exc}") from None
    if not isinstance(sharding, dict):
        raise argparse.ArgumentTypeError("expected auto, none, a JSON object or @FILE")
    return sharding
