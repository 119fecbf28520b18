"""Who is making a pyramid: `info.partial` is there until all chunks are, and only then `info`.

It says what is made there and which process makes it. It is created exclusively, as far as the store knows how to, so
of two makers one is refused; and what a killed one has left is never taken for a pyramid.
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
from precomputed_fs.store.requests import Body

PARTIAL = "info.partial"
"""The file that is there while a pyramid is being made."""

_JSON_TYPE = "application/json"
_MOST_NAMES = 1000  # that begin with "info"
_ROOM = 4  # times as many bytes as an `info` may have, for the `info` in it and how it is indented
_PROCESSES = Path("/proc")
_STARTED = 19  # which field behind its name says when a process was started, on Linux (man 5 proc_pid_stat)
_ENDED = ("Z", "X")

_held: set[str] = set()
"""The claims that this process holds."""


# ------------------------------------------------------------------------------------------------------- what is there


@dataclass(frozen=True, slots=True)
class Claimed:
    """What an `info.partial` says."""

    what: Mapping[str, Any]
    """What is being made, and how: the same in each run of one call."""

    maker: Mapping[str, Any] = field(default_factory=dict)
    """The run that makes it, if that is told."""

    version: str = ""
    """Which one was read, where the store tells versions apart."""

    def is_running(self) -> bool | None:
        """Tell whether who makes it is still at work; None where that cannot be known."""
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
        if self.maker:
            begun += " at {since} by process {process} on {host}".format_map(_Told(self.maker))
        return f"{begun}, and {'has failed' if self.maker.get('stopped') else 'is not complete'}"


class _Told(dict[str, Any]):
    """Members of a file that anybody may have written."""

    def __missing__(self, _: str) -> str:
        return "?"


def find(pyramid: Pyramid) -> Claimed | None:
    """Return what `info.partial` says, in one request; None where there is none.

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
    """Find out what is there.

    Parameters
    ----------
    pyramid : Pyramid
    reads_first : bool
        Whether `info.partial` is read before anything is listed, which tells what is no store; or only where a listing
        has it, which saves a request.

    Returns
    -------
    list of str or None
        Under which names `info` is there; None where the store says neither that it is nor that it is not.
    Claimed or None
        What `info.partial` says, if it is there and may be read.
    """
    infos: list[str] | None = None
    there = _seen(pyramid) if reads_first else None
    try:
        names = pyramid.store.list_names("info", _MOST_NAMES)
    except AccessDeniedError:  # who may not list may still read and write; what is absent may be denied then
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
    """Check that what another run has begun may be replaced.

    Raises
    ------
    AlreadyExistsError
        If it is still at work, as far as that can be known; or if ``overwrite=False``.
    """
    is_running = there.is_running()
    if overwrite and not is_running:
        return
    if is_running:
        advice = "that process is still at it: wait for it, or end it"
    elif is_running is None and there.maker:
        advice = f"if that process is gone, {advice}"
    message = f"{pyramid.url}: {there}; {advice}"
    raise AlreadyExistsError(message)


def fetch_info(pyramid: Pyramid) -> Mapping[str, Any]:
    """Fetch `info`: `Pyramid.fetch_info`, which says of a pyramid that is being made, or was left unfinished, so."""
    try:
        return pyramid.fetch_info()
    except NotFoundError as exc:
        if said := unfinished(pyramid):
            raise NotFoundError(said) from exc
        raise


def unfinished(pyramid: Pyramid) -> str:
    """Say where there is no `info` that a pyramid is being made, or was left unfinished; nothing if neither is so."""
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

    In an archive that is being written, where nobody else looks, nothing is said.

    Parameters
    ----------
    pyramid : Pyramid
        The place.
    what : mapping
        What is made, and how, as JSON has it.
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
        """Tell whether another run is of the same call."""
        return bool(there.what == self._what)

    def is_mine(self, there: Claimed) -> bool:
        """Tell whether it is this run's."""
        return bool(there.maker.get("id") == self._id)

    def take(self, there: Claimed | None, **more: Any) -> None:  # noqa: ANN401 - as JSON has it
        """Say that the place is this run's: where nobody has said so, or in the place of what was found.

        Raises
        ------
        AlreadyExistsError
            If another has been faster.
        """
        if not self._pyramid.can_read:
            return
        _held.add(self._id)
        try:
            self._say({**self._what, **more, "maker": self._maker}, there)
        except (AlreadyExistsError, ReplacedError) as exc:  # after another failure it may be this run's all the same
            _held.discard(self._id)
            message = f"{self._pyramid.url}: another process has been faster to begin here"
            raise AlreadyExistsError(message) from exc

    def _say(self, said: Mapping[str, Any], there: Claimed | None) -> None:
        text = json.dumps(said, indent=2).encode()
        replacing = "" if there is None else there.version
        self._pyramid.store.write(PARTIAL, text, content_type=_JSON_TYPE, create=there is None, replacing=replacing)

    def check_held(self, there: Claimed | None = None, *, shared: bool = False) -> None:
        """Check that nobody has taken the place meanwhile; if it may be shared, nobody but another run of the same.

        Parameters
        ----------
        there : Claimed, optional
            What was just found; by default it is looked for.
        shared : bool

        Raises
        ------
        AlreadyExistsError
            If somebody has.
        """
        if there is None and self._pyramid.can_read:
            there = _seen(self._pyramid)
        if there is not None and not (self.is_same(there) if shared else self.is_mine(there)):
            shown = self._pyramid.url
            message = f"{shown}: meanwhile {there}; chunks of both may be there: make it again"
            raise AlreadyExistsError(message)

    def stop(self) -> None:
        """Say, if that can be said, that nobody is at work any more; what was made stays."""
        if self._id not in _held:
            return
        with contextlib.suppress(DataAccessError, HtmlError):
            there = find(self._pyramid)
            if there is not None and self.is_mine(there):
                self._say({**there.what, "maker": {**self._maker, "stopped": True}}, there)
        _held.discard(self._id)

    def release(self) -> None:
        """Delete what was said of a pyramid that is complete; who may not delete may still write."""
        _held.discard(self._id)
        if self._pyramid.can_read:
            with contextlib.suppress(AccessDeniedError):
                self._pyramid.store.delete(PARTIAL)


# ------------------------------------------------------------------------------------------------------------ processes


@functools.cache
def _machine() -> str:
    """Name what numbers of processes are told apart in: a machine since it was started, or a container."""
    try:
        boot = (_PROCESSES / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
        return f"{boot} {(_PROCESSES / 'self' / 'ns' / 'pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _started(process: int) -> str | None:
    """Tell when a process of this machine was started; nothing, if it has ended; None where that cannot be seen."""
    try:
        fields = (_PROCESSES / str(process) / "stat").read_bytes().rpartition(b")")[2].decode().split()
    except OSError:
        return None
    return "" if fields[0] in _ENDED else fields[_STARTED]


def _is_running(process: int, started: object) -> bool | None:
    """Tell whether a process of this machine is the one that was started then."""
    now = _started(process)
    if started and now is not None:
        return now == started
    if os.name != "posix":  # where there is no signal that does nothing
        return None
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
