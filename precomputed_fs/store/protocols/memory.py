"""How fsspec's memory filesystem is read and written."""

from precomputed_fs.store.protocols.base import Filesystem, Synchronous


class Memory(Synchronous):
    """Objects in a dictionary of this process."""

    def changed_lately(self, fs: Filesystem, folder: str) -> bool:
        return True
