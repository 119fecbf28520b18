"""Which folder a volume's `info` names for meshes, skeletons or segment properties; and how it comes to name one."""

from precomputed_fs.errors import AlreadyExistsError, NotFoundError
from precomputed_fs.format.scene_folders import KINDS, resolved
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.redaction import without_secrets
from precomputed_fs.volume.info_update import update_info
from precomputed_fs.volume.volume import Volume


def named_folder(volume: Volume, member: str, instead: str) -> Folder:
    """Return the folder that a volume's `info` names.

    Parameters
    ----------
    member : str
        "mesh", "skeletons" or "segment_properties".
    instead : str
        What to do if it names none, for the message.

    Raises
    ------
    NotFoundError
        If it names none.
    URLError, InvalidInfoError
        See `Folder.beside`.
    """
    given = getattr(volume.info, member)
    if not given:
        where = volume.pyramid.location.display("info")
        raise NotFoundError(f"{where} names no {KINDS[member]}: {instead}")
    return Folder.beside(volume.pyramid, given if "://" in given else resolved("", given), member)


def folder_to_write(volume: Volume, member: str, folder: str | None, default: str, *, overwrite: bool) -> Folder:
    """Return the folder to write to: one that is given, the one that `info` names, or the default.

    Raises
    ------
    AlreadyExistsError
        If `info` names another folder than the one given, unless `overwrite` has that replaced in `info`.
    """
    there = getattr(volume.info, member)
    chosen = folder or there or default
    if there and not overwrite and resolved("", chosen) != resolved("", there):
        where = volume.pyramid.location.display("info")
        named = without_secrets(there)
        what = f"pass folder={named!r} to use that one, or overwrite=True to have info name {folder!r}"
        raise AlreadyExistsError(f"{where} names the folder {named!r} as {member}: {what}")
    return Folder.beside(volume.pyramid, resolved("", chosen) if "://" not in chosen else chosen, member)


def finish_writing(volume: Volume, member: str, folder: Folder, given: str) -> None:
    """Write what waits in a buffer, and have `info` name the folder."""
    if folder.pyramid is volume.pyramid:
        volume.flush_unless_in_block()
    else:
        folder.pyramid.flush()
    if getattr(volume.info, member) != given:
        update_info(volume, {member: given})
