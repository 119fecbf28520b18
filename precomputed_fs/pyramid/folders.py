"""All files of a folder, whatever they are: listed a page at a time, and deleted."""

from collections.abc import Iterator, Sequence

from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store.requests import Delete, Job, Listed


def pages(pyramid: Pyramid, folder: str) -> Iterator[Sequence[Listed]]:
    """Yield the files in a folder and in the folders below it, some at a time; nothing if the store cannot list.

    Raises
    ------
    AccessDeniedError, DataAccessError
        If they cannot be listed.
    """
    more = None
    while (page := pyramid.store.list_page(folder, more)) is not None:
        yield page.objects
        more = page.more
        if more is None:
            break


def has_files(pyramid: Pyramid, folder: str) -> bool:
    """Tell whether there is any file in a folder."""
    return any(map(len, pages(pyramid, folder)))


def delete_files(pyramid: Pyramid, folder: str) -> None:
    """Delete all files in a folder and in the folders below it.

    Raises
    ------
    AccessDeniedError
        If there is a symbolic link to a folder outside of the pyramid.
    """
    pyramid.storer.checked(folder)
    store = pyramid.store.confined()
    try:
        while found := next(pages(pyramid, folder), ()):  # always the first page: tokens may not survive what they list
            for _ in store.run_many((_deleting(name) for name, _ in found), IN_FLIGHT):
                pass
    finally:
        pyramid.shards.kept.clear()


def _deleting(name: str) -> Job[list[None]]:
    yield Delete(name)
    return [None]
