"""Neuroglancer precomputed volumes wherever fsspec reaches."""

import importlib
import typing

from precomputed_fs.accessor import (
    Accessor,
    FsspecAccessor,
    add_argparse_options,
    convert_file_url_to_pathname,
    get_accessor_for_url,
)
from precomputed_fs.doctor import doctor
from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    URLError,
)
from precomputed_fs.view import view
from precomputed_fs.volume import Scale, Volume, create_volume, open_volume

if typing.TYPE_CHECKING:
    from precomputed_fs.copying.run import copy_pyramid
    from precomputed_fs.interop.neuroglancer_scripts import install, uninstall
    from precomputed_fs.scene.annotation_writing import create_annotations
    from precomputed_fs.scene.annotations import open_annotations
    from precomputed_fs.scene.mesh import Mesh
    from precomputed_fs.scene.mesh_writing import create_meshes
    from precomputed_fs.scene.meshes import open_meshes
    from precomputed_fs.scene.segment_properties import open_segment_properties
    from precomputed_fs.scene.segment_property_writing import create_segment_properties
    from precomputed_fs.scene.skeleton import Skeleton
    from precomputed_fs.scene.skeleton_writing import create_skeletons
    from precomputed_fs.scene.skeletons import open_skeletons
    from precomputed_fs.view.server import serve

__all__ = [
    "AccessDeniedError",
    "Accessor",
    "AlreadyExistsError",
    "CorruptDataError",
    "DataAccessError",
    "FsspecAccessor",
    "InvalidInfoError",
    "Mesh",
    "NotFoundError",
    "Scale",
    "Skeleton",
    "URLError",
    "Volume",
    "add_argparse_options",
    "convert_file_url_to_pathname",
    "copy_pyramid",
    "create_annotations",
    "create_meshes",
    "create_segment_properties",
    "create_skeletons",
    "create_volume",
    "doctor",
    "get_accessor_for_url",
    "install",
    "open_annotations",
    "open_meshes",
    "open_segment_properties",
    "open_skeletons",
    "open_volume",
    "serve",
    "uninstall",
    "view",
]

__version__ = "0.1.0"

_IMPORTED_LATER = {
    "Mesh": "precomputed_fs.scene.mesh",
    "Skeleton": "precomputed_fs.scene.skeleton",
    "copy_pyramid": "precomputed_fs.copying.run",
    "create_annotations": "precomputed_fs.scene.annotation_writing",
    "create_meshes": "precomputed_fs.scene.mesh_writing",
    "create_segment_properties": "precomputed_fs.scene.segment_property_writing",
    "create_skeletons": "precomputed_fs.scene.skeleton_writing",
    "install": "precomputed_fs.interop.neuroglancer_scripts",
    "open_annotations": "precomputed_fs.scene.annotations",
    "open_meshes": "precomputed_fs.scene.meshes",
    "open_segment_properties": "precomputed_fs.scene.segment_properties",
    "open_skeletons": "precomputed_fs.scene.skeletons",
    "serve": "precomputed_fs.view.server",
    "uninstall": "precomputed_fs.interop.neuroglancer_scripts",
}
"""What few programs call, and which module has it: that is imported where it is first asked for."""


if not typing.TYPE_CHECKING:  # a type checker would take any name for one that there is

    def __getattr__(name: str) -> object:
        if name not in _IMPORTED_LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = getattr(importlib.import_module(_IMPORTED_LATER[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__]
