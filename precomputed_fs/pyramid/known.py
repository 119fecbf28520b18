"""What is remembered about a pyramid: its `info`, and which names its chunks have."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.errors import AccessDeniedError, NotFoundError
from precomputed_fs.format.names import VARIANTS, Variant
from precomputed_fs.format.scale_layout import ScaleLayout


@dataclass(slots=True)
class ScaleNames:
    """Which kinds of names the chunks of one scale are known to have."""

    seen: list[Variant] = field(default_factory=list)
    sampled: bool = False
    folders: bool = False
    """Whether a listing showed sub-directories, whose chunks may be compressed or not."""

    is_plain: bool | None = None
    """Whether raw chunks are stored without compression, so that parts of them can be read; None: not known."""

    has_told: bool = False
    """Whether a chunk was asked for to learn that; it may have been absent."""

    to_read: tuple[list[Variant], Collection[Variant]] | None = None
    """The list `seen` and the names to ask for because of it; outdated if `seen` is another list."""

    def note(self, variant: Variant) -> None:
        """Remember a name that a chunk has."""
        if variant not in self.seen:
            self.seen = [*self.seen, variant]

    def known(self) -> list[Variant]:
        """Return the kinds of names that are known to be in use."""
        if self.folders and all(variant.flat for variant in self.seen):
            return [*self.seen, *(variant for variant in VARIANTS if not variant.flat)]
        return self.seen


@dataclass(slots=True, eq=False)
class InfoState:
    """One state of `info`. A new `info` is a new state, so an answer that comes late changes only the old one."""

    info: Mapping[str, Any] | None = None
    """None: not read yet. Empty: it could not be read."""

    error: NotFoundError | AccessDeniedError | None = None
    """Why it could not be read; a copy of it is to be raised, as a traceback keeps what its frames know."""

    layouts: dict[str, ScaleLayout] = field(default_factory=dict)


class Known:
    """What is remembered about a pyramid: its `info`, and the names in its scales."""

    def __init__(self) -> None:
        self.current = InfoState()
        self._scales: dict[str, ScaleNames] = {}

    def names_in(self, key: str) -> ScaleNames:
        """Return what is known about the names in a scale."""
        return self._scales.get(key) or self._scales.setdefault(key, ScaleNames())

    def forget_names(self, key: str) -> None:
        """Forget the names in a scale."""
        self._scales.pop(key, None)

    def expect(self, info: Mapping[str, Any] | None) -> None:
        """Use this `info`, whatever is stored; None: read the stored one when it is next needed."""
        self.current = InfoState(info)
