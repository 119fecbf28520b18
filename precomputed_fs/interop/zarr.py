"""Volumes as Zarr groups: `Volume.to_zarr`."""

import functools
import os
from collections.abc import AsyncIterator, Iterable
from typing import Any

from precomputed_fs.interop.zarr_view import ZarrView
from precomputed_fs.store.loop import in_thread
from precomputed_fs.volume import Volume

try:
    import zarr
    from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype
except ImportError as exc:
    raise ImportError("Zarr groups need zarr: pip install 'precomputed-fs[zarr]'", name="zarr") from exc


def to_zarr(volume: Volume) -> "zarr.Group":
    """Return a volume as a Zarr group: see `Volume.to_zarr`."""
    return zarr.open_group(VolumeStore(volume), mode="r")


class VolumeStore(Store):
    """A volume as a store that zarr can read.

    Parameters
    ----------
    volume : Volume
    """

    def __init__(self, volume: Volume) -> None:
        super().__init__(read_only=True)
        self._view = ZarrView(volume)

    @property
    def volume(self) -> Volume:
        """The volume that is read."""
        return self._view.volume

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.volume, os.getpid())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VolumeStore) and self.volume is other.volume

    def __hash__(self) -> int:
        return hash(id(self.volume))

    def __repr__(self) -> str:
        return f"VolumeStore({self.volume!r})"

    # ----------------------------------------------------------------------------------------------------- as zarr asks

    @property
    def supports_writes(self) -> bool:
        """False."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """False."""
        return False

    @property
    def supports_listing(self) -> bool:
        """True, but chunks are not listed."""
        return True

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, or a part of it; None if there is none."""
        data = await in_thread(functools.partial(self._view.read, key))
        if data is None:
            return None
        buffer = (prototype or zarr.core.buffer.default_buffer_prototype()).buffer
        return buffer.from_bytes(_part(data, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Tell whether there is an object."""
        return self._view.has(key)

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002 - as zarr calls it
        """Fail: nothing is written through here."""
        raise ValueError(f"{self.volume.url}: {key} is read-only; write with vol[0][...] = array")

    async def delete(self, key: str) -> None:
        """Fail: nothing is deleted through here."""
        raise ValueError(f"{self.volume.url}: {key} is read-only")

    async def list(self) -> AsyncIterator[str]:
        """Yield the keys of all metadata."""
        for key in self._view.metadata_keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys of all metadata that begin with a prefix."""
        for key in self._view.metadata_keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        for name in self._view.entries(prefix.strip("/")):
            yield name


def _restored(volume: Volume, home: int) -> VolumeStore:
    """Return a store in the process that unpickles it, where memory of another one would be zeros."""
    location = volume.pyramid.location
    if home != os.getpid() and any(link.protocol == "memory" for link in location.links):
        raise ValueError(
            f"{location.display()}: memory:// belongs to one process, and this is another one: use threads"
        )
    return VolumeStore(volume)


def _part(data: bytes | memoryview, asked: ByteRequest | None) -> bytes | memoryview:
    if isinstance(asked, RangeByteRequest):
        return data[asked.start : asked.end]
    if isinstance(asked, OffsetByteRequest):
        return data[asked.offset :]
    if isinstance(asked, SuffixByteRequest):
        return data[max(0, len(data) - asked.suffix) :]
    return data
