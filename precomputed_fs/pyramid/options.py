"""Which options reading and writing have, and their defaults."""

from dataclasses import dataclass

from precomputed_fs.format.compression import MAX_DECODED_SIZE
from precomputed_fs.format.info_text import MAX_INFO_BYTES

MAX_GAP = 1 << 16
"""Most unwanted bytes between two chunks of a shard that are read to save a request (64 KiB)."""

MAX_RANGE = 1 << 22
"""Most bytes of a shard that one request reads for neighbouring chunks (4 MiB)."""

MAX_FILE_BYTES = MAX_DECODED_SIZE
"""Most bytes of a file, or of a chunk whose size `info` does not limit (1 GiB)."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of reading and writing, described at `precomputed_fs.FsspecAccessor`."""

    flat: bool = True
    gzip: bool | None = True
    compresslevel: int = 9
    max_gap: int = MAX_GAP
    max_range: int = MAX_RANGE
    max_info_bytes: int = MAX_INFO_BYTES
    max_file_bytes: int = MAX_FILE_BYTES
    cache: int = 0

    def __post_init__(self) -> None:
        if self.compresslevel not in range(10):
            raise ValueError(f"compresslevel: expected 0 to 9, got {self.compresslevel!r}")
        if self.max_gap < 0 or self.max_range < 1:
            raise ValueError(f"expected max_gap >= 0 and max_range >= 1, got {self.max_gap!r} and {self.max_range!r}")
        if self.max_info_bytes < 1 or self.max_file_bytes < 1:
            given = f"{self.max_info_bytes!r} and {self.max_file_bytes!r}"
            raise ValueError(f"expected max_info_bytes >= 1 and max_file_bytes >= 1, got {given}")
