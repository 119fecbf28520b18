"""JupyterLab itself shows volumes, in a browser: saved by a stranger and live, light and dark."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import requests
from PIL import Image

from precomputed_fs import Volume, create_volume, open_volume
from precomputed_fs.view.jupyter import proxied_path
from tests.support import browser, servers
from tests.view.client import BRAIN, TISSUES
from tests.view.volumes import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.browser import Chromium, Page, View

BACKGROUNDS = {"Light": (0xFF, 0xFF, 0xFF, 0xFF), "Dark": (0x11, 0x11, 0x11, 0xFF)}
"""Of what a cell prints, in each theme."""

READABLE = 4.5  # contrast of text and what is behind it, as the W3C asks for
MILLIMETRE = (1e6, 1e6, 1e6)
PREFIX = "/user/me/"


# ----------------------------------------------------------------------------------------------------------- JupyterLab


@dataclass(frozen=True)
class JupyterLab:
    """A running JupyterLab, in whose folder notebooks are, and its page, which takes seconds to open."""

    url: str
    folder: Path
    page: Page

    @contextmanager
    def notebook(self, cells: Sequence[tuple[str, str]]) -> Iterator[Notebook]:
        """Open a new notebook of cells, each with its code and the HTML that was saved as its output, or none."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}.ipynb"
        path.write_text(json.dumps(notebook_of(cells)), encoding="utf-8")
        self.page.evaluate("path => jupyterapp.commands.execute('docmanager:open', {path}).then(() => null)", path.name)
        opened = Notebook(self.page)
        try:
            opened.wait(f"jupyterapp.shell.currentWidget?.context?.path === '{path.name}'")
            opened.wait(f"document.querySelectorAll('.jp-Notebook .jp-CodeCell').length === {len(cells)}")
            opened.wait(
                f"document.querySelectorAll('.jp-OutputArea-output').length === {sum(bool(html) for _, html in cells)}"
            )
            yield opened
        finally:
            self.page.evaluate(_CLOSE)


_CLOSE = """async () => {
  const {currentWidget} = jupyterapp.shell;
  await currentWidget.sessionContext.shutdown();
  currentWidget.dispose();
}"""


def notebook_of(cells: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Make a notebook, as it is saved."""

    def outputs(html: str) -> list[dict[str, Any]]:
        data = {"text/html": html, "text/plain": "what is shown if that is not"}
        return [{"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": data}] if html else []

    return {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell{i}",
                "execution_count": None,
                "metadata": {},
                "source": source,
                "outputs": outputs(html),
            }
            for i, (source, html) in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


class Notebook:
    """An open notebook."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def wait(self, condition: str) -> None:
        """Wait until a condition holds, in JavaScript."""
        handle = self.page.handle
        self.page.browser.run(handle.wait_for_function(condition, timeout=browser.DEADLINE * 900))

    def wait_for_outputs(self, count: int) -> None:
        """Wait until there are so many outputs, with all of their pictures."""
        self.wait(f"document.querySelectorAll('.jp-OutputArea-output').length === {count}")
        self.wait("[...document.querySelectorAll('.jp-OutputArea-output img')].every(image => image.complete)")

    def run(self, outputs: int) -> None:
        """Run all cells, once there is a kernel, and wait until there are so many outputs."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.ready")
        assert self.page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
        self.wait_for_outputs(outputs)

    def dress(self, theme: str) -> None:
        """Choose a theme."""
        name = f"JupyterLab {theme}"
        self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        self.wait(f"document.body.dataset.jpThemeName === '{name}'")

    @property
    def is_trusted(self) -> list[bool]:
        """Whether JupyterLab takes the outputs of each cell as they are."""
        trusted: list[bool] = self.page.evaluate(
            "() => [...jupyterapp.shell.currentWidget.model.cells].map(cell => cell.trusted)"
        )
        return trusted

    def html(self) -> list[str]:
        """Return what each output has become in the page."""
        found: list[str] = self.page.evaluate(
            "() => [...document.querySelectorAll('.jp-OutputArea-output')].map(output => output.innerHTML)"
        )
        return found

    def pictures(self, output: int) -> list[NDArray[Any]]:
        """Return the pixels of an output's pictures as they are on the screen."""
        images = self.page.handle.locator(".jp-OutputArea-output").nth(output).locator("img")
        count = self.page.browser.run(images.count())
        shots = [self.page.browser.run(images.nth(i).screenshot()) for i in range(count)]
        return [np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")) for shot in shots]

    def contrasts(self) -> list[float]:
        """Return the contrast of each piece of text in the outputs with what is behind it."""
        pairs: list[list[str]] = self.page.evaluate(_CONTRASTS)
        return [_contrast(*(_channels(colour) for colour in pair)) for pair in pairs]


_CONTRASTS = """() => {
  const behind = element => {
    for (; element; element = element.parentElement) {
      const {backgroundColor} = getComputedStyle(element);
      if (!/^rgba\\(.*, 0\\)$/.test(backgroundColor)) return backgroundColor;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll(".jp-OutputArea-output :is(th, td, code, div)")]
    .filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .map(element => [getComputedStyle(element).color, behind(element)]);
}"""


def _channels(colour: str) -> list[float]:
    """Read a colour of a computed style: its red, green and blue, linear, from 0 to 1."""
    levels = [float(number) / 255 for number in re.findall(r"[\d.]+", colour)[:3]]
    return [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in levels]


def _contrast(*colours: list[float]) -> float:
    """Compute the contrast of two colours, as WCAG 2 defines it."""
    darker, lighter = sorted(float(np.dot(colour, (0.2126, 0.7152, 0.0722))) for colour in colours)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.fixture(scope="module")
def jupyterlab(chromium: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterLab]:
    """Run JupyterLab without anything of this machine's, and as a JupyterHub does: below a prefix, with a proxy.

    Its host name is one that the kernel does not know.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("jupyterlab is not installed (pip install jupyterlab)")
    folder, own = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    port = servers._free_port()
    places = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")
    names = [f"JUPYTER{'' if place.startswith('LAB') else '_'}{place}={own / place.lower()}" for place in places]
    settings = [
        "--allow-root",
        "--expose-app-in-browser",
        "--no-browser",
        f"--ip={servers.LOOPBACK}",
        f"--port={port}",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=tests",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        f"--ServerApp.base_url={PREFIX}",
        "--ServerApp.allow_remote_access=True",
        "--ServerApp.jpserver_extensions=jupyter_server_proxy=True",
    ]
    command = ["env", *names, f"IPYTHONDIR={own}", sys.executable, "-m", "jupyterlab", *settings]
    url = f"http://{servers.LOOPBACK}:{port}{PREFIX.rstrip('/')}"
    hub = url.replace(servers.LOOPBACK, "hub.localhost")
    with servers.server_process(command, port, own), requests.Session() as session:
        with chromium.page(f"{hub}/lab?token=tests&reset", size=(1400, 1200)) as page:
            Notebook(page).wait("window.jupyterapp !== undefined")
            page.evaluate("() => jupyterapp.restored.then(() => null)")
            yield JupyterLab(hub, folder, page)
        session.headers["Authorization"] = "token tests"
        for kernel in session.get(f"{url}/api/kernels", timeout=servers.DEADLINE).json():
            session.delete(f"{url}/api/kernels/{kernel['id']}", timeout=servers.DEADLINE).raise_for_status()


# -------------------------------------------------------------------------------------------------------------- volumes


@pytest.fixture(scope="module")
def brain(jupyterlab: JupyterLab) -> Volume:
    return create_volume(jupyterlab.folder / "brain", BRAIN, resolution=MILLIMETRE)


@pytest.fixture(scope="module")
def tissues(jupyterlab: JupyterLab) -> Volume:
    ids = TISSUES.astype(np.uint64) * 12345
    return create_volume(jupyterlab.folder / "tissues", ids, resolution=MILLIMETRE, encoding="compressed_segmentation")


def assert_looks_like(found: NDArray[Any], expected: NDArray[Any], theme: str) -> None:
    """Compare what is on the screen with a picture, through which the page may show.

    A screenshot has one row or column more where a picture's place in the page is no whole number of pixels.
    """
    rgba = Image.fromarray(expected).convert("RGBA")
    page = Image.new("RGBA", rgba.size, BACKGROUNDS[theme])
    page.alpha_composite(rgba)
    shown = np.asarray(page.convert("RGB"))
    rows, columns = shown.shape[:2]
    more = np.array(found.shape[:2]) - shown.shape[:2]
    assert set(more) <= {0, 1}
    places = [found[top : top + rows, left : left + columns] for top, left in np.ndindex(*(more + 1))]
    assert min(np.abs(place.astype(int) - shown).max() for place in places) <= 1


def assert_shows(notebook: Notebook, output: int, html: str, theme: str) -> None:
    """Check that all that a volume says of itself is in the page, and its pictures are on the screen."""
    said, found = Seen(html), Seen(notebook.html()[output])
    assert found.rows == said.rows
    assert found.text.strip() == said.text
    pictures = notebook.pictures(output)
    assert len(pictures) == len(said.images) > 0
    for shown, expected in zip(pictures, said.images, strict=True):
        assert_looks_like(shown, expected, theme)


def assert_readable(notebook: Notebook) -> None:
    contrasts = notebook.contrasts()
    assert len(contrasts) > 30
    assert min(contrasts) > READABLE


def assert_goes_through_jupyter(view: View, html: str, url: str) -> None:
    """Check that a view is reached wherever JupyterLab is, by those alone who may use it."""
    if importlib.util.find_spec("jupyter_server_proxy") is None:
        pytest.skip("jupyter-server-proxy is not installed (pip install jupyter-server-proxy)")
    frame, link = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert frame == link
    assert re.fullmatch(rf"{PREFIX}proxy/\d+/[\w-]+/view/0", link)
    state = view.page.evaluate("() => viewer.state.toJSON()")
    assert all(layer["source"].startswith(f"precomputed://{url}/proxy/") for layer in state["layers"])
    anonymous = requests.get(
        url.removesuffix(PREFIX.rstrip("/")).replace("hub.localhost", servers.LOOPBACK) + link,
        timeout=servers.DEADLINE,
        allow_redirects=False,
    )
    assert "login" in anonymous.headers["Location"]


STRIPPED = (
    "<div><style>td { color: red }</style><svg width='9'></svg><script>window.ran = true</script><b>kept</b></div>"
)


def test_saved_by_a_stranger(jupyterlab: JupyterLab, brain: Volume, tissues: Volume) -> None:
    said = [brain._repr_html_(), tissues[2]._repr_html_()]
    cells = [("", html) for html in said]
    view = brain.view(tissues)
    view.server.close()
    with jupyterlab.notebook([*cells, ("", STRIPPED), ("", view._repr_html_())]) as notebook:
        assert notebook.is_trusted == [False] * 4
        assert notebook.html()[2].strip() == "<div><b>kept</b></div>"  # JupyterLab is at its most careful
        line = notebook.html()[3]
        assert "<iframe" not in line
        assert f'<a href="{view.url}"' in line
        assert f"Open {brain.url} and {tissues.url} in a new tab" in line
        for theme in BACKGROUNDS:
            notebook.dress(theme)
            for i, html in enumerate(said):
                assert_shows(notebook, i, html, theme)
            assert_readable(notebook)


def test_live(jupyterlab: JupyterLab, brain: Volume, tissues: Volume) -> None:
    cells = [
        "from precomputed_fs import open_volume\nvol, labels = open_volume('brain'), open_volume('tissues')",
        "vol",
        "labels[1]",
        "vol.show(z=90, size=200)",
        "labels.show(x=100, size=150)",
        "vol.plot(z=90);",
        "vol.view(labels, height=300)",
    ]
    with jupyterlab.notebook([(source, "") for source in cells]) as notebook:
        notebook.run(outputs=6)
        assert all(notebook.is_trusted)
        vol, labels = open_volume(brain.url), open_volume(tissues.url)
        said = [vol._repr_html_(), labels[1]._repr_html_()]
        for theme in BACKGROUNDS:
            notebook.dress(theme)
            for i, html in enumerate(said):
                assert_shows(notebook, i, html, theme)
            for output, picture in ((2, vol.show(z=90, size=200)), (3, labels.show(x=100, size=150))):
                (shown,) = notebook.pictures(output)
                assert_looks_like(shown, np.asarray(picture), theme)
            (plotted,) = notebook.pictures(4)
            assert min(plotted.shape[:2]) > 200
            assert_readable(notebook)
        neuroglancer = browser.loaded(notebook.page.inner("iframe[src*='/view/']"))
        assert neuroglancer.errors == []
        assert_goes_through_jupyter(neuroglancer, notebook.html()[5], jupyterlab.url)
        np.testing.assert_array_equal(neuroglancer.volume(vol[2].key), vol[2][..., 0])


def test_a_hostile_volume(jupyterlab: JupyterLab) -> None:
    """Live, where JupyterLab would run scripts: a volume of anybody's is opened, and looked at."""
    url = jupyterlab.folder / "hostile"
    info = create_volume(url, BRAIN[:32, :32, :32], resolution=MILLIMETRE, scales=1).info.to_dict()
    attack = "\"'><img src=x onerror='window.ran = true'><script>window.ran = true</script>"
    info["type"] = attack
    info["scales"] = [
        *info["scales"],
        *(info["scales"][0] | {"key": f"{i}{attack}", "encoding": attack} for i in range(3)),
    ]
    (url / "info").write_text(json.dumps(info))
    code = "from precomputed_fs import open_volume\nvol = open_volume('hostile')\nvol"
    with jupyterlab.notebook([(code, ""), ("vol[1]", "")]) as notebook:
        notebook.run(outputs=2)
        assert all(notebook.is_trusted)
        assert notebook.page.evaluate("() => window.ran === undefined")
        rows = Seen(notebook.html()[0]).rows
        assert [row[0] for row in rows[2:]] == [f"{i}{attack}"[:57] + "..." for i in range(3)]


def test_a_server_that_does_not_answer_does_not_hold_up_a_notebook(jupyterlab: JupyterLab) -> None:
    volume = create_volume("memory://test_jupyter/silent", BRAIN[:32, :32, :32], resolution=MILLIMETRE, scales=1)
    asked, released = threading.Event(), threading.Event()

    async def handler(request: Any) -> Any:
        if request.path == "/info":
            return await servers.respond(200, volume.info.to_json())(request)
        asked.set()
        await asyncio.to_thread(released.wait, servers.DEADLINE)
        return await servers.respond(404)(request)

    with servers.fault_server(handler) as server:
        cells = [
            f"from precomputed_fs import open_volume\nvol = open_volume('{server.url}', attempts=1)",
            "import time\nstarted = time.monotonic()",
            "vol",
            "print(time.monotonic() - started)",
        ]
        with jupyterlab.notebook([(source, "") for source in cells]) as notebook:
            notebook.run(outputs=2)
            table, seconds = notebook.html()
            assert len(Seen(table).rows) == 2
            assert "<img" not in table
            assert asked.is_set()
            assert 1.5 < float(re.sub("<[^>]*>", "", seconds)) < 6
            released.set()


# --------------------------------------------------------------------------------------------- whether there is a proxy


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let this process look like a kernel that a Jupyter server has started."""
    for name in ("JUPYTERHUB_SERVICE_PREFIX", "JPY_PARENT_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))

    def started(url: str | None, *, hub: str = "", has_package: bool = False) -> None:
        if url:
            told = {"url": f"{url}/base/", "base_url": "/base/", "token": "not to be used"}
            (tmp_path / "jpserver-123.json").write_text(json.dumps(told))
            monkeypatch.setenv("JPY_PARENT_PID", "123")
        if hub:
            monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", hub)
        monkeypatch.setitem(
            sys.modules, "jupyter_server_proxy", importlib.import_module("json") if has_package else None
        )

    return started


@pytest.mark.parametrize(
    ("answers", "hub", "has_package", "expected"),
    [
        ((302, 404), "", False, "/base/proxy/9"),  # one has to log in
        ((204, 404), "", False, "/base/proxy/9"),
        ((404, 404), "", True, None),
        ((404, 404), "/base/", True, "/base/proxy/9"),
        ((302, 302), "", True, None),  # one has to log in for everything
        ((302, 302), "/base/", True, "/base/proxy/9"),
        ((302, 302), "/base/", False, None),
    ],
)
def test_whether_jupyter_has_a_proxy_is_asked_of_it(
    kernel: Callable[..., None], answers: tuple[int, int], hub: str, has_package: bool, expected: str | None
) -> None:
    asked: list[Any] = []

    async def handler(request: Any) -> Any:
        asked.append(request)
        return await servers.respond(answers[request.path != "/base/proxy/9/favicon.ico"])(request)

    with servers.fault_server(handler) as server:
        kernel(server.url, hub=hub, has_package=has_package)
        assert proxied_path(9) == expected
    assert len(asked) == 2
    assert not {"authorization", "cookie"} & {name.lower() for request in asked for name in request.headers}
    assert not any("token" in request.path_qs for request in asked)


def test_where_nobody_answers_a_hub_is_known_by_its_environment(kernel: Callable[..., None]) -> None:
    kernel(None)
    assert proxied_path(9) is None
    kernel(servers.refused_url(), has_package=True)
    assert proxied_path(9) is None
    kernel(None, hub="/user/me/", has_package=False)
    assert proxied_path(9) is None
    kernel(servers.refused_url(), hub="/base/", has_package=True)
    assert proxied_path(9) == "/base/proxy/9"


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"url": 7, "base_url": 8}', "not JSON"])
def test_a_damaged_note_of_a_server_is_none(kernel: Callable[..., None], tmp_path: Path, told: str) -> None:
    kernel(servers.refused_url())
    (tmp_path / "jpserver-123.json").write_text(told)
    assert proxied_path(9) is None
