"""How many requests this process sends to one server at once."""

import os
import time
from collections.abc import Hashable
from typing import Any

FEWEST = 6
"""Requests at once to begin with: servers that accept few connections at a time accept these."""

MOST = 128
"""Requests at once of this process to one server."""

_GROWTH = 4  # requests more at once for each answer


class RequestWindow:
    """How many requests this process sends to one server at once: few at first, more while they are answered."""

    def __init__(self) -> None:
        self.active: set[Any] = set()  # easy handles, of all batches
        self.size: float = FEWEST
        """How many may be sent at once."""

        self._shrunk = 0.0  # when, by the monotonic clock
        self._keeps = True  # whether the server keeps connections

    def grow(self, answers: int) -> None:
        """Allow more, after answers of a server that was waited for.

        Not where each request takes a connection of its own: small servers accept few at a time.
        """
        if self._keeps and len(self.active) + _GROWTH * answers >= self.size:
            more = answers / self.size if self._shrunk else _GROWTH * answers  # slower after it was too many
            self.size = min(MOST, self.size + more)

    def shrink(self, began: float) -> None:
        """Allow half as many, as the server is busy; once for all requests that had begun before it said so."""
        if began > self._shrunk:
            self.size = max(1, self.size // 2)
            self._shrunk = time.monotonic()

    def note(self, *, is_kept: bool) -> None:
        """Tell whether the server keeps a connection."""
        self._keeps = is_kept


_windows: dict[Hashable, RequestWindow] = {}


def window_of(server: Hashable) -> RequestWindow:
    """Return the pace of a server, which all batches of this process share."""
    return _windows.setdefault(server, RequestWindow())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_windows.clear)
