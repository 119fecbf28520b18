"""How a new pyramid is made: its place claimed, its files stored, its `info` last, so that half of one never opens."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from precomputed_fs.errors import AlreadyExistsError, DataAccessError, InvalidInfoError, NotFoundError
from precomputed_fs.format.annotation_info import ANNOTATIONS_TYPE
from precomputed_fs.format.info_text import HtmlError, parse_info
from precomputed_fs.format.scene_types import kind_of
from precomputed_fs.pyramid import claims
from precomputed_fs.pyramid.pyramid import Pyramid

REPLACE = "overwrite=True replaces it"
"""What to do about an `info` that exists."""


@contextlib.contextmanager
def closing_archive(pyramid: Pyramid) -> Iterator[None]:
    """Complete an archive if the block that writes it fails, since the caller gets nothing to close."""
    try:
        yield
    except BaseException:
        if not pyramid.can_read:
            pyramid.close()
        raise


@contextlib.contextmanager
def making(
    pyramid: Pyramid,
    info: bytes,
    what: Mapping[str, Any],
    *,
    overwrite: bool,
    check_leftovers: Callable[[claims.Claimed | None], None],
    check_unknown: Callable[[], None] = lambda: None,
) -> Iterator[bool]:
    """Claim the place for a block that stores everything else, and then store the `info`.

    Meanwhile `info.partial` says what is being made. If the block fails, that stays, and so does what it has stored.

    Parameters
    ----------
    pyramid : Pyramid
    info : bytes
    what : mapping
        What is made, and how: see `Claim`.
    overwrite : bool
        Whether to replace an existing `info`.
    check_leftovers : callable
        Called before anything is replaced, with the claim that was found; raises if files that exist could be mistaken
        for new ones.
    check_unknown : callable
        Called where there is no `info` and no record of one that was begun, unless ``overwrite=True``; raises if files
        of unknown origin could be mistaken for new ones.

    Yields
    ------
    bool
        Whether something was there: a complete pyramid, or a part of one.
    """
    claim = claims.Claim(pyramid, what)
    try:
        was_there = _take_place(
            pyramid,
            claim,
            kind_of(parse_info(info, "info", len(info))),
            overwrite=overwrite,
            check_leftovers=check_leftovers,
            check_unknown=check_unknown,
        )
        yield was_there
        claim.check_held()
        try:
            pyramid.store_info(info, overwrite=False, listed=())
        except AlreadyExistsError as exc:
            message = f"{pyramid.url}: meanwhile {what_is_there(pyramid)}; files of both may be there: make it again"
            raise AlreadyExistsError(message) from exc
    except BaseException:
        claim.stop()
        raise
    claim.release()


def _take_place(
    pyramid: Pyramid,
    claim: claims.Claim,
    new: str,
    *,
    overwrite: bool,
    check_leftovers: Callable[[claims.Claimed | None], None],
    check_unknown: Callable[[], None],
) -> bool:
    """Claim the place, and delete an existing `info`, since what it describes will be replaced."""
    infos, there = claims.look(pyramid, reads_first=pyramid.can_read)
    if infos and not (overwrite and pyramid.can_read):
        advice = REPLACE if pyramid.can_read else "this kind of archive cannot replace it"
        raise AlreadyExistsError(f"{pyramid.url}: {what_is_there(pyramid)}; {advice}")
    if there is not None:
        is_left = claim.is_same(there) and there.is_running() is False
        claims.check_free(pyramid, there, overwrite=overwrite or is_left, advice=REPLACE)
    was_there = bool(infos) or there is not None
    if not pyramid.can_read:
        return False
    check = functools.partial(check_leftovers, there) if overwrite else check_unknown
    if overwrite or not was_there:
        check()
    check_kind(pyramid, new, is_there=bool(infos))
    try:
        claim.take(there)
    except AlreadyExistsError as exc:
        raise AlreadyExistsError(f"{exc}: {what_is_there(pyramid)}") from exc
    infos, there = claims.look(pyramid)  # another process may have completed one meanwhile
    claim.check_held(there)
    if overwrite:
        for name in ["info"] if infos is None else infos:
            pyramid.store.delete(name)
    elif infos is None:
        claims.find(pyramid)  # raises if nothing can be read here, so that nothing tells whether there is an `info`
    elif infos:
        claim.release()
        raise AlreadyExistsError(f"{pyramid.url}: meanwhile {what_is_there(pyramid)}; {REPLACE}")
    return was_there


def check_kind(pyramid: Pyramid, new: str, *, is_there: bool) -> None:
    """Check that an `info` that is to be replaced is of the same kind: with it, all that it describes would be lost.

    Parameters
    ----------
    new : str
        What the new one is of, as `kind_of` says it.
    is_there : bool
        Whether there is an `info`; otherwise nothing is checked.

    Raises
    ------
    AlreadyExistsError
        If it is of another kind.
    """
    if not is_there:
        return
    there = ""
    with contextlib.suppress(DataAccessError, InvalidInfoError):  # what cannot be read may be replaced
        there = kind_of(pyramid.fetch_info())
    if there and there != new:
        what = f"there is the info of {there}, and overwrite=True does not replace that by one of {new}"
        raise AlreadyExistsError(f"{pyramid.url}: {what}: choose another folder, or delete it first")


def what_is_there(pyramid: Pyramid) -> str:
    """Describe what an existing `info` belongs to.

    Raises
    ------
    HtmlError
        If a server sends HTML: then there is nothing, but the URL is wrong.
    """
    try:
        info = claims.fetch_info(pyramid)
    except InvalidInfoError as exc:
        if isinstance(exc, HtmlError) and pyramid.is_remote:
            raise
        return f"there is an `info` already, but not of a pyramid ({exc})"
    except NotFoundError as exc:
        return str(exc)
    except DataAccessError:
        return "there is an `info` already"
    return "there are annotations already" if info.get("@type") == ANNOTATIONS_TYPE else "there is a pyramid already"
