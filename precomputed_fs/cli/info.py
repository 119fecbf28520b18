"""``precomputed-fs info``: list the scales of a pyramid, and what is beside them."""

import argparse
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import precomputed_fs
from precomputed_fs.cli.options import accessor_options, add_url
from precomputed_fs.cli.output import print_json, print_table
from precomputed_fs.errors import DataAccessError, InvalidInfoError, URLError
from precomputed_fs.format.scene_folders import SceneFolder, scene_folders
from precomputed_fs.format.scene_types import SceneType, scene_type_of
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.redaction import without_secrets
from precomputed_fs.view import notebook
from precomputed_fs.volume import Volume, one_line
from precomputed_fs.volume.open import open_info, volume_from

EXAMPLES = """\
precomputed-fs info s3://bucket/brain
precomputed-fs info brain --json
precomputed-fs info gs://bucket/annotations
"""
HELP = "list the scales of a pyramid, and its meshes, skeletons and segment properties; or describe annotations"

_LARGE = "inline"  # the member of segment properties that lists all of them
_OPENED: Mapping[str, Callable[[Volume], object]] = {
    "segment_properties": lambda volume: volume.segment_properties,
    "mesh": lambda volume: volume.meshes,
    "skeletons": lambda volume: volume.skeletons,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_url(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> None:
    """Print the scales, as a table or as JSON."""
    accessor, given = open_info(args.url, **accessor_options(args))
    kind = scene_type_of(given)
    if kind is not None:
        _describe_alone(args, accessor.url, given, kind)
        return
    volume = volume_from(accessor, given)
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
    for line in _beside(volume):
        print(line)


def _describe_alone(args: argparse.Namespace, url: str, given: Mapping[str, Any], kind: SceneType) -> None:
    """Print what a folder of annotations, meshes, skeletons or segment properties has."""
    if args.json:
        info = {name: value for name, value in given.items() if name != _LARGE}
        print_json({"url": url, "holds": kind.holds, "info": info})
        return
    with_options = functools.partial(getattr(precomputed_fs, kind.opened_by), **accessor_options(args))
    print(repr(with_options(args.url)))


def _beside(volume: Volume) -> Iterator[str]:
    """Yield a line for each folder that `info` names; of each, `info` is read."""
    for folder in scene_folders(volume.info):
        try:
            yield repr(_OPENED[folder.member](volume))
        except (DataAccessError, InvalidInfoError, URLError, ValueError) as exc:
            yield f"{folder.kind} in {one_line(without_secrets(folder.given))}: {one_line(str(exc))}"


def _described(volume: Volume, folder: SceneFolder) -> dict[str, Any]:
    """Describe a folder that `info` names."""
    described: dict[str, Any] = {"folder": without_secrets(folder.given)}
    try:
        info = Folder.beside(volume.pyramid, folder.given, folder.member).info_if_any()
    except (DataAccessError, InvalidInfoError, URLError) as exc:
        return {**described, "error": str(exc)}
    return {**described, "type": (info or {}).get("@type"), "sharded": bool((info or {}).get("sharding"))}


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
        **{folder.member: _described(volume, folder) for folder in scene_folders(volume.info)},
    }
