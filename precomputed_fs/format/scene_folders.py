"""Which folders `info` names beside those of its scales, and where they are: segment properties, meshes, skeletons.

Paths are resolved as Neuroglancer's client resolves them (``resolveRelativePath`` in its ``kvstore/url.ts``): from the
folder of the `info` that names them, with empty segments and ``.`` left out and ``..`` leading up. So a leading slash
means nothing, and a URL is a path, too, with an odd name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from precomputed_fs.format.info import Info

KINDS: Mapping[str, str] = {
    "segment_properties": "segment properties",
    "mesh": "meshes",
    "skeletons": "skeletons",
}
"""What the folders hold, by the members of `info` that name them."""


@dataclass(frozen=True, slots=True)
class SceneFolder:
    """A folder that an `info` names.

    Attributes
    ----------
    member : str
        The member that names it: one of `KINDS`.
    given : str
        The path as it is written there.
    path : str
        The path from the pyramid's folder, without segments that mean nothing: empty for that folder itself, with
        leading ``..`` for a folder outside of it.
    """

    member: str
    given: str
    path: str

    @property
    def kind(self) -> str:
        """What it holds, in words."""
        return KINDS[self.member]

    @property
    def is_url(self) -> bool:
        """Whether a URL was written where a path belongs: no reader opens it."""
        return "://" in self.given

    @property
    def is_inside(self) -> bool:
        """Whether it is a folder of its own in the pyramid's."""
        return bool(self.path) and not self.is_url and self.path.split("/", 1)[0] != ".."

    def contains(self, path: str) -> bool:
        """Whether another path is this folder, or in it."""
        return f"{path}/".startswith(f"{self.path}/")


def scene_folders(info: Info) -> tuple[SceneFolder, ...]:
    """Return the folders that the `info` of a volume names; an empty path names none.

    Examples
    --------
    >>> scale = {"key": "1", "size": [1, 1, 1], "resolution": [1, 1, 1], "chunk_sizes": [[1, 1, 1]], "encoding": "raw"}
    >>> info = Info.parse({"data_type": "uint32", "num_channels": 1, "scales": [scale], "mesh": "./meshes/"})
    >>> [folder.path for folder in scene_folders(info)]
    ['meshes']
    """
    named = ((member, getattr(info, member)) for member in KINDS)
    return tuple(SceneFolder(member, given, resolved("", given)) for member, given in named if given)


def resolved(folder: str, given: str) -> str:
    """Resolve a path that the `info` in a folder names.

    Parameters
    ----------
    folder : str
        The path of that folder from the pyramid's; empty for the pyramid's own.
    given : str

    Examples
    --------
    >>> resolved("mesh", "../properties"), resolved("", "a/./../../b/"), resolved("mesh", "..")
    ('properties', '../b', '')
    """
    parts: list[str] = []
    for part in f"{folder}/{given}".split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
