"""A Python in which no more can be imported than what the package has with one of its extras."""

import sys
import tomllib
from collections import deque
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

_HIDING = """\
import sys
from importlib import machinery, metadata

of_extra = set(sys.argv.pop(1).split())
foreign = {
    module
    for module, names in metadata.packages_distributions().items()
    if of_extra.isdisjoint(name.lower().replace("_", "-").replace(".", "-") for name in names)
}


class Installed(machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in foreign else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(machinery.PathFinder)] = Installed
"""


def command_with(extra: str, code: str, *arguments: str) -> list[str]:
    """Return a command that runs code, with arguments from ``sys.argv[1]`` on; to be run in `ROOT`."""
    return [sys.executable, "-c", _HIDING + code, " ".join(_distributions(extra)), *arguments]


def _distributions(extra: str) -> set[str]:
    """Return the names of the distributions that the package needs with one of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = set()
    waiting = deque((line, "") for line in project["dependencies"] + project["optional-dependencies"][extra])
    while waiting:
        line, of = waiting.popleft()
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": of}):
            continue
        for one in {"", *needed.extras}:
            reached = (canonicalize_name(needed.name), one)
            if reached not in found:
                found.add(reached)
                waiting += [(line, one) for line in metadata.requires(needed.name) or ()]
    return {name for name, _ in found}
