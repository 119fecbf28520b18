"""A pyramid as NumPy arrays: volumes of scales that are read and written by slicing, in absolute voxel coordinates."""

from precomputed_fs.volume.create import create_volume
from precomputed_fs.volume.indexing import Index, Selection, checked_integer, checked_size
from precomputed_fs.volume.open import check_not_redirected, open_volume, volume_of
from precomputed_fs.volume.progress import Progress
from precomputed_fs.volume.scale import Scale
from precomputed_fs.volume.scale_array import ScaleArray
from precomputed_fs.volume.text import one_line
from precomputed_fs.volume.volume import Volume

__all__ = [
    "Index",
    "Progress",
    "Scale",
    "ScaleArray",
    "Selection",
    "Volume",
    "check_not_redirected",
    "checked_integer",
    "checked_size",
    "create_volume",
    "one_line",
    "open_volume",
    "volume_of",
]
