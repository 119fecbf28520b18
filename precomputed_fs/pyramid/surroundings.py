"""What is at a place without `info`, or near it: the pyramid that was probably meant.

This is looked up after a failure only: a listing or two, and one request for each of some folders, all at once.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping

from precomputed_fs.errors import DataAccessError, did_you_mean
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Job

_MOST_NAMES = 1000  # in one listing
_MOST_FOLDERS = 20  # that are looked into
_SHOWN = 5

_IMAGE = "an image, which create_volume(url, {shown!r}) makes a pyramid of"
_ARRAY = "a file of another format: read it as an array, and create_volume(url, array, resolution=...) makes a pyramid"
_FILES: Mapping[str, str] = {
    r"\.nii(\.gz)?": _IMAGE,
    r"\.(czi|h5|hdf5|lif|mgh|mgz|mha|mrc|npy|npz|nrrd|tiff?)": _ARRAY,
    r"\.zip": "an archive: a pyramid in it is zip://folder::{shown}",
    r"\.(n5|zarr)": "another format: xarray and zarr open Zarr; tensorstore opens Zarr and N5",
}
"""What to do with files, by the ends of their names."""

_FORMATS: Mapping[str, str] = {
    **dict.fromkeys((".zarray", ".zattrs", ".zgroup", "zarr.json"), "a Zarr, which xarray and zarr open"),
    "attributes.json": "an N5, which tensorstore opens",
}
"""Other formats, by the names of files in their folders."""


def surroundings(pyramid: Pyramid) -> str:
    """Say what is where there is no `info`, and what may have been meant; empty if that is unknown."""
    location = pyramid.location
    shown = location.display()
    if location.mistaken:
        return location.mistaken
    for end, what in _FILES.items():
        if len(location.links) == 1 and re.search(f"{end}$", shown, re.IGNORECASE):
            return f"is this {what.format(shown=shown)}?"
    if "://" not in shown and re.search(r"[$]\w|%\w+%", shown):
        return "variables in a path are not replaced: os.path.expandvars does that"
    with contextlib.suppress(DataAccessError):
        return _inside(pyramid) or _above(pyramid)
    return ""


def _inside(pyramid: Pyramid) -> str:
    """Describe what is in the folder."""
    location, store = pyramid.location, pyramid.store
    names = sorted(set(store.list_names("", _MOST_NAMES)))
    if other := next((_FORMATS[name] for name in names if name in _FORMATS), ""):
        return f"this is {other}"
    folders = [name for name in names if "." not in name]
    tried = map(_with_info, folders[:_MOST_FOLDERS])
    found = [name for results in store.run_many(tried, _MOST_FOLDERS) for name in results]
    if found:
        what = f"there {'is a pyramid' if len(found) == 1 else 'are pyramids'} in it"
        untried = f" (of the first {_MOST_FOLDERS} folders)" if len(folders) > _MOST_FOLDERS else ""
        return f"{what}: {_listed(location.display(name) for name in sorted(found))}{untried}"
    if not names:
        return ""
    return _pyramid_above(pyramid) or f"only this is there: {_listed(names)}; is the URL right?"


def _with_info(folder: str) -> Job[list[str]]:
    return [folder] if (yield from jobs.exists(f"{folder}/info")) else []


def _above(pyramid: Pyramid) -> str:
    """Describe what is beside a folder that is empty or cannot be listed."""
    if found := _pyramid_above(pyramid):
        return found
    with _store_above(pyramid) as store:
        names = store.list_names("", _MOST_NAMES) if store else []
        name = pyramid.location.display().rstrip("/").rpartition("/")[2]
        if store is not None and name not in names and (near := did_you_mean(name, names)):
            return f"nothing is there{near}"
    return ""


def _pyramid_above(pyramid: Pyramid) -> str:
    with _store_above(pyramid) as store:
        if store is not None and store.exists("info"):
            return f"did you mean the pyramid, {store.location.display()}?"
    return ""


@contextlib.contextmanager
def _store_above(pyramid: Pyramid) -> Iterator[ObjectStore | None]:
    """Open the folder above; None if there is none."""
    try:
        above = pyramid.location.above(1)
    except ValueError:
        yield None
        return
    store = ObjectStore(above, attempts=1, timeout=pyramid.store.timeout)
    try:
        yield store
    finally:
        store.close()


def _listed(names: Iterator[str] | list[str]) -> str:
    """Show the first of some names."""
    shown = list(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
