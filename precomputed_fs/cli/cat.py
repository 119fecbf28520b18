"""``precomputed-fs cat``: write a file or a chunk to stdout."""

import argparse
import re
import sys

from precomputed_fs import get_accessor_for_url
from precomputed_fs.cli.options import add_url
from precomputed_fs.format.grid import ChunkCoords, chunk_coords, layout_of

HELP = "write a file or a chunk to stdout, decompressed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    parser.add_argument(
        "path", metavar="PATH", help="such as info, or SCALE/0-64_0-64_0-64 for a chunk, however it is stored"
    )


def run(args: argparse.Namespace) -> None:
    """Write the bytes of a file or chunk to stdout."""
    accessor = get_accessor_for_url(args.url, vars(args))
    key, _, name = args.path.strip("/").rpartition("/")
    data = accessor.fetch_chunk(key, _coords_of(name)) if key and layout_of(name) else accessor.fetch_file(args.path)
    sys.stdout.buffer.write(data)


def _coords_of(name: str) -> ChunkCoords:
    return chunk_coords(int(number) for axis in name.split("_") for number in re.findall(r"(-?\d+)(?:-|$)", axis))
