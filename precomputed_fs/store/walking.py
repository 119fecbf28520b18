"""How all objects below a folder are listed, a page at a time: see `Walk`."""

import itertools
from collections.abc import Iterator

from precomputed_fs.errors import DataAccessError
from precomputed_fs.store.protocols.base import Entry, Filesystem, Synchronous, is_temporary
from precomputed_fs.store.requests import Listed, Page

_MOST_OBJECTS = 1000  # of a page, as stores of objects have it
_DEEPEST = 32  # folders one in another


class Walker:
    """Walks through the folders of a synchronous filesystem; `Page.more` of its pages.

    Memory holds a page, and the names of the folders that are still to be listed.

    Parameters
    ----------
    protocol : Synchronous
    folder : str
        From the root of the pyramid.
    """

    def __init__(self, protocol: Synchronous, folder: str) -> None:
        self._protocol = protocol
        self._folder = folder
        self._todo = [""]  # folders below that one, each with a slash at the end
        self._within = ""
        self._entries: Iterator[Entry] = iter(())
        self._failure: Exception | None = None

    def page(self, fs: Filesystem, path: str) -> Page:
        """Return the next page; `path` is that of the folder in the filesystem."""
        if self._failure is not None:  # a listing that has failed half-way looks like one that has ended
            raise self._failure
        found = list(itertools.islice(self._objects(fs, path), _MOST_OBJECTS))
        return Page(found, self if len(found) == _MOST_OBJECTS else None)

    def _objects(self, fs: Filesystem, path: str) -> Iterator[Listed]:
        while True:
            try:
                for entry in self._entries:
                    name = f"{self._within}{entry.name}"
                    if entry.is_folder:
                        self._add(f"{name}/", path)
                    elif not is_temporary(entry.name):
                        yield within(self._folder, Listed(name, entry.size))
            except Exception as exc:
                self._failure = exc
                raise
            if not self._todo:
                return
            self._entries = self._list(fs, f"{path}/{self._todo[-1]}".rstrip("/"))
            self._within = self._todo.pop()

    def _list(self, fs: Filesystem, path: str) -> Iterator[Entry]:
        try:
            return iter(self._protocol.entries(fs, path))
        except (FileNotFoundError, NotADirectoryError):
            return iter(())

    def _add(self, folder: str, path: str) -> None:
        if folder.count("/") > _DEEPEST:
            raise DataAccessError(f"{path} is {_DEEPEST} folders deep: does a symbolic link lead to a folder above it?")
        self._todo.append(folder)


def within(folder: str, listed: Listed) -> Listed:
    """Return an object by its name from the root of the pyramid, given that from a folder."""
    return listed._replace(name=f"{folder}/{listed.name}") if folder else listed
