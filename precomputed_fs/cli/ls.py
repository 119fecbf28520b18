"""``precomputed-fs ls``: list the keys of scales, or the names of chunks."""

import argparse
import math
from collections.abc import Iterator
from itertools import islice

from precomputed_fs.cli.options import add_url, find_scale, open_url
from precomputed_fs.cli.output import print_json, say
from precomputed_fs.format.grid import chunk_name
from precomputed_fs.volume import Scale, one_line

EXAMPLES = """\
precomputed-fs ls s3://bucket/brain
precomputed-fs ls s3://bucket/brain 0 --limit 10
precomputed-fs ls s3://bucket/brain '1 mm'
"""
HELP = "list the keys of a pyramid's scales, or the names of a scale's chunks"

_LIMIT = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    parser.add_argument(
        "scale",
        metavar="SCALE",
        nargs="?",
        help="list the chunks of this scale: all that `info` implies, whether they are stored or not",
    )
    parser.add_argument("--limit", type=int, default=_LIMIT, help=f"list at most this many chunks (default {_LIMIT})")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> None:
    """Print the names, as lines or as JSON."""
    volume = open_url(args)
    if args.scale is None:
        names, total = [scale.key for scale in volume], len(volume)
    else:
        scale = find_scale(volume, args.scale)
        names, total = list(islice(_chunk_names(scale), max(0, args.limit))), math.prod(scale.grid.shape)
    if args.json:
        print_json({"names": names, "total": total})
        return
    for name in names:
        print(one_line(name))
    if len(names) < total:
        say(f"these are the first {len(names)} of {total}; --limit shows more")


def _chunk_names(scale: Scale) -> Iterator[str]:
    """Name the chunks of a scale, stored or not, so that no chunk costs a request."""
    grid = scale.grid
    xs, ys, zs = map(range, grid.shape)
    return (chunk_name(grid.chunk((x, y, z))) for z in zs for y in ys for x in xs)
