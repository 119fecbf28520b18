"""``precomputed-fs info``: list the scales of a pyramid."""

import argparse
from typing import Any

from precomputed_fs.cli.options import add_url, open_url
from precomputed_fs.cli.output import print_json, print_table
from precomputed_fs.view import notebook
from precomputed_fs.volume import Volume, one_line

EXAMPLES = """\
precomputed-fs info s3://bucket/brain
precomputed-fs info brain --json
"""
HELP = "list the scales of a pyramid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> None:
    """Print the scales, as a table or as JSON."""
    volume = open_url(args)
    if args.json:
        print_json(_summary(volume))
        return
    channels, scales = volume.info.num_channels, len(volume)
    print(one_line(volume.url))
    print(
        f"{one_line(volume.info.type)} of {volume.dtype}, "
        f"{channels} channel{'s' * (channels > 1)}, {scales} scale{'s' * (scales > 1)}"
    )
    rows = [notebook.described(scale) for scale in volume]
    for cells in rows:
        del cells["Layout"]  # unknown, since no chunk was asked for
    print_table([list(rows[0]), *(list(cells.values()) for cells in rows)])


def _summary(volume: Volume) -> dict[str, Any]:
    return {
        "url": volume.url,
        "type": volume.info.type,
        "data_type": volume.info.data_type,
        "num_channels": volume.info.num_channels,
        "scales": [
            {
                "key": scale.key,
                "size": scale.shape[:3],
                "voxel_offset": scale.voxel_offset,
                "resolution": scale.resolution,
                "chunk_size": scale.chunk_size,
                "grid": scale.grid.shape,
                "encoding": scale.encoding,
                "sharded": scale.info.sharding is not None,
                "hidden": scale.info.hidden,
                "bytes": scale.array.nbytes,
            }
            for scale in volume
        ],
    }
