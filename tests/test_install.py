"""Setting up: what the Makefile installs, when, and with which tool."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest

from tests import install
from tests.support.extras import ROOT, command_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

DEADLINE = 110.0

# ------------------------------------------------------------------------------------------------------- the installers


class Commands:
    """What `tests.install` runs: pip's settings are listed for real, nothing is installed."""

    def __init__(self, fails: Callable[[list[str]], bool]) -> None:
        self._fails = fails
        self._run = subprocess.run
        self.run: list[list[str]] = []
        self.environment: dict[str, str] = {}

    def __call__(self, command: Iterable[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        arguments = list(command)
        if "config" in arguments:
            return self._run(arguments, **options)
        assert arguments[:2] == [sys.executable, "-m"]
        self.run.append(arguments[2:])
        self.environment = options["env"] or {}
        return subprocess.CompletedProcess(arguments, int(self._fails(arguments)))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], bool]], Commands]:
    def record(fails: Callable[[list[str]], bool]) -> Commands:
        recorded = Commands(fails)
        monkeypatch.setattr(subprocess, "run", recorded)
        return recorded

    return record


@pytest.mark.processes
def test_uv_installs_what_pip_would(
    commands: Callable[..., Commands], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "SSL_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "pip.conf").write_text(
        "[global]\n"
        "index-url = https://mirror.example/simple\n"
        "extra-index-url = \n  https://one.example/simple\n  https://two.example/simple\n"
        "cert = /global.pem\n"
        "[install]\n"
        "cert = /install.pem\n"
        "find-links = /wheels /more\n"
        "[download]\n"
        "index-url = https://not.example/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:s=3'cret@mirror.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")  # to pip, as if it were not set
    monkeypatch.setenv("UV_FIND_LINKS", "/for/uv")
    recorded = commands(lambda _: False)
    assert install.main("demo") == 0
    fetched, installed = recorded.run
    assert (fetched[:2], fetched[-1]) == (["pip", "install"], "uv")
    assert (installed[:3], installed[-2:]) == (["uv", "pip", "install"], ["--editable", ".[demo]"])
    assert (
        recorded.environment.items()
        >= {
            "UV_DEFAULT_INDEX": "https://user:s=3'cret@mirror.example/simple",
            "UV_INDEX": "https://one.example/simple https://two.example/simple",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_FIND_LINKS": "/for/uv",
            "UV_SYSTEM_CERTS": "1",
            "SSL_CERT_FILE": "/install.pem",
        }.items()
    )
    assert "s=3'cret" not in str(recorded.run)


@pytest.mark.processes
@pytest.mark.parametrize("failing", ["no uv in the index", "uv fails"])
def test_pip_installs_where_uv_cannot(
    commands: Callable[..., Commands], capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    recorded = commands(lambda command: "uv" in command if failing == "no uv in the index" else command[2] == "uv")
    assert install.main("test") == 0
    assert capsys.readouterr().err == "uv cannot install here; pip does, which takes minutes ...\n"
    package, extra = recorded.run[-2:]
    assert (package[:2], package[-2:]) == (["pip", "install"], ["--editable", "."])
    assert (extra[:2], extra[-3:]) == (
        ["pip", "install"],
        ["--editable", ".[test]", f"boto3<={metadata.version('botocore')}"],
    )


@pytest.mark.processes
def test_what_pip_cannot_install_is_a_failure(commands: Callable[..., Commands]) -> None:
    for failing in (".", ".[demo]"):
        commands(lambda command, failing=failing: "uv" in command or failing in command)
        assert install.main("demo") == 1


# --------------------------------------------------------------------------------------------------------- the Makefile


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
PYTHON = """\
#!/bin/sh
echo "$@" >> log
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *tests.install* | *"not unmeasured"*) test ! -e broken ;;
esac
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Return what runs make in a copy of the repo, and returns its exit code and what it ran Python with."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o700)

    def run(*arguments: str) -> tuple[int, list[str]]:
        log = tmp_path / "log"
        log.write_text("")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        done = subprocess.run(
            ["make", "--quiet", "PYTHON=./python", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
            timeout=DEADLINE,
        )
        return done.returncode, [line for line in log.read_text().splitlines() if not line.startswith("-c ")]

    return run


@pytest.mark.processes
@needs_make
def test_each_target_installs_its_own_extra_once(make: Callable[..., tuple[int, list[str]]], tmp_path: Path) -> None:
    assert make("demo") == (0, ["-m venv .venv", "-m tests.install demo", "-m tests.demo"])
    assert make("demo") == (0, ["-m tests.demo"])
    runs = ["-m pytest -m not unmeasured --cov --cov-report=term -x", "-m pytest -m unmeasured -x"]
    assert make("test", "PYTEST_ARGS=-x") == (0, ["-m venv .venv", "-m tests.install test", *runs])
    assert make("test", "PYTEST_ARGS=-x") == (0, runs)
    (tmp_path / "broken").touch()
    assert make("test", "PYTEST_ARGS=-x") == (2, runs), "a failed run hides neither the other nor itself"
    (tmp_path / "broken").unlink()
    os.utime(tmp_path / "pyproject.toml", (2**32, 2**32))
    assert make("demo", "URL=gs://lab/brain") == (
        0, ["-m venv .venv", "-m tests.install demo", "-m tests.demo gs://lab/brain"]
    )  # fmt: skip


@pytest.mark.processes
@needs_make
def test_what_was_not_installed_is_installed_the_next_time(
    make: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    code, ran = make("demo")
    assert code != 0
    assert ran[-1] == "-m tests.install demo"
    (tmp_path / "broken").unlink()
    assert make("demo")[0] == 0


# ------------------------------------------------------------------------------------------------------ the extra demo

SMALL_DEMO = """\
import sys
from tests import demo

whole = demo.mni152()
demo.mni152 = lambda: whole.slicer[::3, ::3, ::3]
sys.exit(demo.main(["--picture", sys.argv[1]]))
"""


@pytest.mark.processes
@pytest.mark.slow
def test_the_demo_needs_no_more_than_its_extra(tmp_path: Path) -> None:
    command = command_with("demo", SMALL_DEMO, str(tmp_path / "demo.png"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    assert "equals its source, voxel by voxel" in done.stdout
