"""``precomputed-fs copy``: copy a pyramid."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from precomputed_fs import FsspecAccessor, add_argparse_options, copy_pyramid, open_volume
from precomputed_fs.cli.options import (
    SCALE,
    Merge,
    accessor_options,
    add_box,
    add_reading_options,
    add_sides,
    find_scale,
)
from precomputed_fs.cli.parser import completing_files
from precomputed_fs.codecs import ENCODINGS

EXAMPLES = """\
precomputed-fs copy s3://bucket/brain brain --scale 0 --no-gzip
precomputed-fs copy s3://bucket/brain part --box 1000:2000,500:900,:
precomputed-fs copy brain gs://bucket/brain --encoding jpeg --parameter jpeg_quality=85 --sharding auto
precomputed-fs copy s3://a/brain s3://b/brain --destination-storage-options endpoint_url=https://storage.example.org
"""
HELP = "copy a pyramid, as it is or stored differently; run again, it resumes an interrupted copy"

_WRITING_OPTIONS = ("flat", "compresslevel")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    place = "where the pyramid is: a path, or any fsspec URL"
    completing_files(parser.add_argument("source", metavar="SOURCE", help=place))
    completing_files(parser.add_argument("destination", metavar="DESTINATION", help="where to copy it"))
    add_reading_options(parser)
    add_sides(parser)
    parser.add_argument(
        "--scale",
        metavar="SCALE",
        action="append",
        help=f"copy only this: {SCALE}; may be repeated (default: all)",
    )
    add_box(parser, "copy only this region")
    parser.add_argument("--encoding", help="encode chunks like this (default: unchanged)")
    parser.add_argument(
        "--parameter",
        type=_key_value,
        action=Merge,
        default={},
        metavar="KEY=JSON",
        help="a parameter of that encoding, such as jpeg_quality=90; may be repeated",
    )
    parser.add_argument(
        "--chunk-size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="in voxels (default: unchanged)"
    )
    parser.add_argument(
        "--sharding",
        type=_sharding,
        metavar="SHARDING",
        help="auto, none, or the JSON object for info, or @FILE for a file with one (default: unchanged)",
    )
    parser.add_argument("--overwrite", action="store_true", help="first delete what is at the destination")
    parser.add_argument("--verify", action="store_true", help="read the copy back, and compare")
    parser.add_argument("--dask", metavar="ADDRESS", help="copy on the dask cluster with this scheduler")
    add_argparse_options(parser)
    parser.add_argument("--gzip", action="store_true", help="compress with gzip (default: each chunk as at the source)")
    parser.set_defaults(gzip=None)


def run(args: argparse.Namespace) -> None:
    """Copy, in this process or on a dask cluster."""
    volume = open_volume(args.source, **accessor_options(args, "source"))
    writing = {name: getattr(args, name) for name in _WRITING_OPTIONS}
    row = ENCODINGS.get((args.encoding or "").lower())
    own = {parameter.key for parameter in row.parameters} if row else set()
    if foreign := sorted(args.parameter.keys() - own):
        raise ValueError(f"--parameter {foreign[0]}: the given --encoding has no such parameter")
    with contextlib.ExitStack() as stack:
        client = None if args.dask is None else stack.enter_context(_dask_client(args.dask, args.timeout))
        copy_pyramid(
            volume,
            FsspecAccessor(
                args.destination, **{**accessor_options(args, "destination"), **writing, "denied_is_missing": False}
            ),
            scales=args.scale and [find_scale(volume, text).key for text in args.scale],
            box=args.box,
            encoding=args.encoding,
            chunk_size=args.chunk_size,
            sharding=args.sharding,
            gzip=args.gzip,
            overwrite=args.overwrite,
            verify=args.verify,
            client=client,
            **args.parameter,
        )


def _dask_client(address: str, timeout: float | None) -> Any:  # noqa: ANN401 - dask ships no types
    try:
        from distributed import Client  # noqa: PLC0415 - only where it is asked for
    except ImportError as exc:
        raise ImportError("--dask needs a package that is not installed: pip install distributed") from exc
    return Client(address, timeout=timeout, set_as_default=False)


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
