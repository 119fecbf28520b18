"""Neuroglancer precomputed volumes wherever fsspec reaches."""

from precomputed_fs.accessor import (
    Accessor,
    FsspecAccessor,
    add_argparse_options,
    convert_file_url_to_pathname,
    get_accessor_for_url,
)
from precomputed_fs.copying import copy_pyramid
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
from precomputed_fs.serve import serve
from precomputed_fs.volume import Scale, Volume, create_volume, open_volume

__all__ = [
    "AccessDeniedError",
    "Accessor",
    "AlreadyExistsError",
    "CorruptDataError",
    "DataAccessError",
    "FsspecAccessor",
    "InvalidInfoError",
    "NotFoundError",
    "Scale",
    "URLError",
    "Volume",
    "add_argparse_options",
    "convert_file_url_to_pathname",
    "copy_pyramid",
    "create_volume",
    "doctor",
    "get_accessor_for_url",
    "open_volume",
    "serve",
]

__version__ = "0.1.0"
