"""``precomputed-fs copy``: copy a pyramid."""

import argparse
import contextlib
from typing import Any

from precomputed_fs import FsspecAccessor, copy_pyramid, open_volume
from precomputed_fs.cli.options import SCALE, accessor_options, add_box, add_reading_options, add_sides, find_scale
from precomputed_fs.cli.parser import completing_files
from precomputed_fs.cli.storing import add_storing_options, encoding_parameters, writing_options

EXAMPLES = """\
precomputed-fs copy s3://bucket/brain brain --scale 0 --no-gzip
precomputed-fs copy s3://bucket/brain part --box 1000:2000,500:900,:
precomputed-fs copy brain gs://bucket/brain --encoding jpeg --parameter jpeg_quality=85 --sharding auto
precomputed-fs copy s3://a/brain s3://b/brain --destination-storage-options endpoint_url=https://storage.example.org
"""
HELP = "copy a pyramid, as it is or stored differently; run again, it resumes an interrupted copy"


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
    parser.add_argument(
        "--chunk-size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="in voxels (default: unchanged)"
    )
    parser.add_argument("--overwrite", action="store_true", help="first delete what is at the destination")
    parser.add_argument("--verify", action="store_true", help="read the copy back, and compare")
    parser.add_argument(
        "--no-scene",
        dest="scene",
        action="store_false",
        help="leave out the meshes, skeletons and segment properties that `info` names",
    )
    parser.add_argument("--dask", metavar="ADDRESS", help="copy on the dask cluster with this scheduler")
    add_storing_options(parser, encoding="unchanged", sharding="unchanged", gzip="each chunk as at the source")


def run(args: argparse.Namespace) -> None:
    """Copy, in this process or on a dask cluster."""
    volume = open_volume(args.source, **accessor_options(args, "source"))
    parameters = encoding_parameters(args)
    writing = {**accessor_options(args, "destination"), **writing_options(args), "denied_is_missing": False}
    with contextlib.ExitStack() as stack:
        client = None if args.dask is None else stack.enter_context(_dask_client(args.dask, args.timeout))
        copy_pyramid(
            volume,
            FsspecAccessor(args.destination, **writing),
            scales=args.scale and [find_scale(volume, text).key for text in args.scale],
            box=args.box,
            encoding=args.encoding,
            chunk_size=args.chunk_size,
            sharding=args.sharding,
            gzip=args.gzip,
            overwrite=args.overwrite,
            verify=args.verify,
            scene=args.scene,
            client=client,
            **parameters,
        )


def _dask_client(address: str, timeout: float | None) -> Any:  # noqa: ANN401 - dask ships no types
    try:
        from distributed import Client  # noqa: PLC0415 - only where it is asked for
    except ImportError as exc:
        raise ImportError("--dask needs a package that is not installed: pip install distributed") from exc
    return Client(address, timeout=timeout, set_as_default=False)
