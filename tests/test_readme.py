"""README.md: its sessions run as they stand, and what it links to is there."""

import doctest
import re
from pathlib import Path

import neuroglancer_scripts.accessor
import pytest

README = Path(__file__).parents[1] / "README.md"


def only_sessions(markdown: str) -> str:
    """Blank all lines outside of Python blocks, so that those inside keep their numbers."""
    lines = []
    inside = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


def test_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One session from top to bottom, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in neuroglancer_scripts.accessor.__all__:  # a session replaces some: they come back
        monkeypatch.setattr(neuroglancer_scripts.accessor, name, getattr(neuroglancer_scripts.accessor, name))
    sessions = doctest.DocTestParser().get_doctest(
        only_sessions(README.read_text(encoding="utf-8")), {}, README.name, str(README), 0
    )
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    result = runner.run(sessions, out=output.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(output)


def test_links() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []
