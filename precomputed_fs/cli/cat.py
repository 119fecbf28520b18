"""``precomputed-fs cat``: write a file or a chunk to stdout."""

import argparse
import sys

from precomputed_fs import get_accessor_for_url
from precomputed_fs.cli.options import add_url
from precomputed_fs.format.grid import parse_chunk_name

EXAMPLES = """\
precomputed-fs cat s3://bucket/brain info
precomputed-fs cat s3://bucket/brain 8_8_8/0-64_0-64_0-64 > chunk
"""
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
    coords = parse_chunk_name(name) if key else None
    data = accessor.fetch_file(args.path) if coords is None else accessor.fetch_chunk(key, coords)
    sys.stdout.buffer.write(data)
