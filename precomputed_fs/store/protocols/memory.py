"""Memory of this process."""

from precomputed_fs.store.protocols.base import Filesystem, Synchronous


class Memory(Synchronous):
    """fsspec's dictionary of objects."""

    def changed_lately(self, fs: Filesystem, folder: str) -> bool:
        return True
