"""Which process is writing a new pyramid or a copy: `info.partial` says so, until `info` is stored last.

It says what is being made and by which process. It is created exclusively, as far as the store supports that, so a
second writer is refused; and what a killed writer has left is never taken for a pyramid.
"""

import contextlib
import datetime as dt
import functools
import json
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    NotFoundError,
    ReplacedError,
)
from precomputed_fs.format.compression import SUFFIXES, decode
from precomputed_fs.format.info_text import HtmlError, check_not_html
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.surroundings import surroundings
from precomputed_fs.store.requests import Body

PARTIAL = "info.partial"
"""The file that exists while a pyramid is being made."""

_JSON_TYPE = "application/json"
_MOST_NAMES = 1000  # that begin with "info"
_ROOM = 4  # times the limit of `info`, for the `info` in it with its indentation
_PROCESSES = Path("/proc")
_STARTED = 19  # the field after its name with the start time of a process, on Linux (man 5 proc_pid_stat)
_ENDED = ("Z", "X")

_held: set[str] = set()
"""The claims that this process holds."""


# ------------------------------------------------------------------------------------------------------- what is there


@dataclass(frozen=True, slots=True)
class Claimed:
    """The content of an `info.partial`."""

    what: Mapping[str, Any]
    """What is being made, and how: the same in each run of one call."""

    maker: Mapping[str, Any] = field(default_factory=dict)
    """The run that is making it, if known."""

    version: str = ""
    """The version of the file, if the store tells versions apart."""

    def is_running(self) -> bool | None:
        """Tell whether the process that makes it is still running; None if that cannot be known."""
        maker = self.maker
        process, started = maker.get("process"), maker.get("started")
        if maker.get("stopped"):
            return False
        if maker.get("machine") != _machine() or not isinstance(process, int) or process < 1:
            return None
        return maker.get("id") in _held if process == os.getpid() else _is_running(process, started)

    def __str__(self) -> str:
        begun = f"a copy of {self.what.get('source', 'something')} to here was begun"
        if "array" in self.what:
            begun = "a pyramid was begun here"
        elif "annotations" in self.what:
            begun = "annotations were begun here"
        if self.maker:
            begun += " at {since} by process {process} on {host}".format_map(_Told(self.maker))
        return f"{begun}, and {'has failed' if self.maker.get('stopped') else 'is not complete'}"


class _Told(dict[str, Any]):
    """Members of a file that may lack any of them."""

    def __missing__(self, _: str) -> str:
        return "?"


def find(pyramid: Pyramid) -> Claimed | None:
    """Read `info.partial`, in one request; None if there is none.

    Raises
    ------
    HtmlError
        If a server sends HTML instead.
    """
    limit = _ROOM * pyramid.options.max_info_bytes
    try:
        body = pyramid.store.read(PARTIAL, limit=limit, versioned=True)
    except NotFoundError:
        return None
    except CorruptDataError:
        return Claimed({})
    said = _said(body, pyramid.location.display(PARTIAL), limit)
    maker = said.pop("maker", None)
    return Claimed(said, maker if isinstance(maker, dict) else {}, body.version)


def _said(body: Body, where: str, limit: int) -> dict[str, Any]:
    try:
        text = decode(body.data, content_encoding=body.content_encoding, limit=limit)
        check_not_html(text, where)
        said = json.loads(text)
    except HtmlError:
        raise
    except (ValueError, RecursionError):  # a CorruptDataError is a ValueError
        return {}
    return said if isinstance(said, dict) else {}


def look(pyramid: Pyramid, *, reads_first: bool = True) -> tuple[list[str] | None, Claimed | None]:
    """Look for `info` and `info.partial`.

    Parameters
    ----------
    pyramid : Pyramid
    reads_first : bool
        Whether to read `info.partial` before listing, which detects places that are not stores; otherwise it is read
        only if it is listed, which saves a request.

    Returns
    -------
    list of str or None
        The names under which `info` exists; None if the store does not say whether it does.
    Claimed or None
        The content of `info.partial`, if it exists and may be read.
    """
    infos: list[str] | None = None
    there = _seen(pyramid) if reads_first else None
    try:
        names = pyramid.store.list_names("info", _MOST_NAMES)
    except AccessDeniedError:  # without list permission, what is absent may be denied
        names = [PARTIAL]
        with contextlib.suppress(AccessDeniedError):
            infos = ["info"] if pyramid.store.exists("info") else []
    else:
        infos = [name for suffix in SUFFIXES if (name := f"info{suffix}") in names]
    if not reads_first and PARTIAL in names:
        there = _seen(pyramid)
    return infos, there


def _seen(pyramid: Pyramid) -> Claimed | None:
    with contextlib.suppress(AccessDeniedError):
        return find(pyramid)
    return None


def check_free(pyramid: Pyramid, there: Claimed, *, overwrite: bool, advice: str) -> None:
    """Check that the unfinished pyramid of another run may be replaced.

    Raises
    ------
    AlreadyExistsError
        If that run is known to be running, or if ``overwrite=False``.
    """
    is_running = there.is_running()
    if overwrite and not is_running:
        return
    if is_running:
        advice = "that process is still running: wait for it, or end it"
    elif is_running is None and there.maker:
        advice = f"if that process is gone, {advice}"
    message = f"{pyramid.url}: {there}; {advice}"
    raise AlreadyExistsError(message)


def fetch_info(pyramid: Pyramid) -> Mapping[str, Any]:
    """Fetch `info`; if it is absent, the error says whether the pyramid is unfinished, or what is there instead."""
    try:
        return pyramid.fetch_info()
    except NotFoundError as exc:
        if not (said := absence(pyramid, exc)):
            raise
        raise NotFoundError(said) from exc


def absence(pyramid: Pyramid, exc: NotFoundError) -> str:
    """Say that a pyramid without `info` is unfinished, or what is there instead; empty if nothing more is known.

    Parameters
    ----------
    pyramid : Pyramid
    exc : NotFoundError
        That of `info`.
    """
    if exc.is_of_bucket:
        return ""
    if said := _unfinished(pyramid):
        return said
    around = surroundings(pyramid)
    return around and f"{pyramid.location.display('info')} does not exist; {around}"


def _unfinished(pyramid: Pyramid) -> str:
    there = None
    with contextlib.suppress(DataAccessError, HtmlError):
        there = find(pyramid)
    if there is None:
        return ""
    advice = "wait for that process" if there.is_running() else "wait if it is being made, or make it again"
    return f"{pyramid.location.display('info')} does not exist yet: {there}: {advice}"


# -------------------------------------------------------------------------------------------------------------- a claim


class Claim:
    """The right to make one pyramid at one place.

    In an archive that is being written there is no `info.partial`, because no other process can look there.

    Parameters
    ----------
    pyramid : Pyramid
        The place.
    what : mapping
        What is made, and how; as in JSON.
    """

    def __init__(self, pyramid: Pyramid, what: Mapping[str, Any]) -> None:
        self._pyramid = pyramid
        self._what = json.loads(json.dumps(what))
        self._id = uuid.uuid4().hex
        self._maker = {
            "id": self._id,
            "since": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "machine": _machine(),
            "process": os.getpid(),
            "started": _started(os.getpid()),
        }

    def is_same(self, there: Claimed) -> bool:
        """Tell whether another run makes the same in the same way."""
        return bool(there.what == self._what)

    def is_mine(self, there: Claimed) -> bool:
        """Tell whether a claim is this run's."""
        return bool(there.maker.get("id") == self._id)

    def take(self, there: Claimed | None, **more: Any) -> None:  # noqa: ANN401 - JSON
        """Claim the place for this run: write a first `info.partial`, or replace the one that was found.

        Raises
        ------
        AlreadyExistsError
            If another process was faster.
        """
        if not self._pyramid.can_read:
            return
        _held.add(self._id)
        try:
            self._say({**self._what, **more, "maker": self._maker}, there)
        except (AlreadyExistsError, ReplacedError) as exc:  # after other failures the claim may have been written
            _held.discard(self._id)
            message = f"{self._pyramid.url}: another process was faster and began here"
            raise AlreadyExistsError(message) from exc

    def _say(self, said: Mapping[str, Any], there: Claimed | None) -> None:
        text = json.dumps(said, indent=2).encode()
        replacing = "" if there is None else there.version
        self._pyramid.store.write(PARTIAL, text, content_type=_JSON_TYPE, create=there is None, replacing=replacing)

    def check_held(self, there: Claimed | None = None, *, shared: bool = False) -> None:
        """Check that no other run has taken the place meanwhile.

        Parameters
        ----------
        there : Claimed, optional
            The claim that was just found; the default is to read it.
        shared : bool
            Whether another run that makes the same may have taken it.

        Raises
        ------
        AlreadyExistsError
            If another run has.
        """
        if there is None and self._pyramid.can_read:
            there = _seen(self._pyramid)
        if there is not None and not (self.is_same(there) if shared else self.is_mine(there)):
            shown = self._pyramid.url
            message = f"{shown}: meanwhile {there}; files of both may be there: make it again"
            raise AlreadyExistsError(message)

    def stop(self) -> None:
        """Mark the claim as stopped, if possible; what was made stays."""
        if self._id not in _held:
            return
        with contextlib.suppress(DataAccessError, HtmlError):
            there = find(self._pyramid)
            if there is not None and self.is_mine(there):
                self._say({**there.what, "maker": {**self._maker, "stopped": True}}, there)
        _held.discard(self._id)

    def release(self) -> None:
        """Delete the claim to a complete pyramid, unless the credentials lack permission to delete."""
        _held.discard(self._id)
        if self._pyramid.can_read:
            with contextlib.suppress(AccessDeniedError):
                self._pyramid.store.delete(PARTIAL)


# ------------------------------------------------------------------------------------------------------------ processes


@functools.cache
def _machine() -> str:
    """Identify the scope in which process ids are unique: a machine since its boot, or a container."""
    try:
        boot = (_PROCESSES / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
        return f"{boot} {(_PROCESSES / 'self' / 'ns' / 'pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _started(process: int) -> str | None:
    """Return when a process of this machine was started; empty if it has ended; None if that is unknown."""
    try:
        fields = (_PROCESSES / str(process) / "stat").read_bytes().rpartition(b")")[2].decode().split()
    except OSError:
        return None
    return "" if fields[0] in _ENDED else fields[_STARTED]


def _is_running(process: int, started: object) -> bool | None:
    """Tell whether a process of this machine still runs, and is the one that was started at that time."""
    now = _started(process)
    if started and now is not None:
        return now == started
    if os.name != "posix":  # without signal 0
        return None
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
