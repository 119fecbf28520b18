"""Pyramids and arrays that these tests share."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
from neuroglancer.segment_colors import hex_string_from_segment_id
from PIL import Image

from precomputed_fs import (
    FsspecAccessor,
    Scale,
    Volume,
    create_volume,
)
from precomputed_fs.format.info import Info

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.support import servers


OFFSET = (-5, 7, 100)

SIZE = (40, 30, 20)


def voxels(shape: tuple[int, ...] = SIZE, dtype: str = "uint8") -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 250, shape).astype(dtype)


def make(array: NDArray[Any], url: str = "memory://test_display/made", **options: Any) -> Volume:
    given = {"resolution": (8, 8, 8), "chunk_size": (16, 16, 16), "overwrite": True}
    if array.dtype != np.int64:
        return create_volume(url, array, **{**given, **options})
    volume = create_volume(url, array.view(np.uint64), **{**given, **options})  # as which int64 is read, but not made
    return Volume(volume.accessor, Info.parse({**volume.info.to_dict(), "data_type": "int64"}))


def open_accessor(url: str) -> FsspecAccessor:
    return FsspecAccessor(url, attempts=1)


def pixels(image: Image.Image) -> NDArray[Any]:
    return np.asarray(image)


def asked(server: servers.HttpServer) -> set[str]:
    """Return the scales of which chunks were asked for, and forget it."""
    found = {entry.path.split("/")[-2] for entry in server.log.entries() if re.search(r"\d-\d", entry.path)}
    server.log.clear()
    return found


SOME_IDS = [0, 1, 2, 3, 1000, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**64 - 1]


def neuroglancers(number: int) -> tuple[int, ...]:
    return (*bytes.fromhex(hex_string_from_segment_id(0, number)[1:]), 255) if number else (0, 0, 0, 0)


def hostile(text: str, **changed: Any) -> Volume:
    """Make a volume, of which all that `info` can say in words is a text."""
    info = make(voxels(), scales=1).info.to_dict()
    info["type"] = text
    info["scales"][0] |= {"key": text, "encoding": text} | changed
    accessor = open_accessor("memory://test_display/hostile")
    return Volume(accessor, Info.parse(info))


class Seen(HTMLParser):
    """What a browser would make of some HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"br", "img"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MULTIPLICATION SIGN}", "x")

    @property
    def images(self) -> list[NDArray[Any]]:
        """The pictures in it, decoded."""
        sources = [value for name, value in self.attributes if name == "src"]
        encoded = [source.removeprefix("data:image/png;base64,") for source in sources]
        return [pixels(Image.open(io.BytesIO(base64.b64decode(data, validate=True)))) for data in encoded]


def seen(source: Volume | Scale) -> Seen:
    return Seen(source._repr_html_())


def many(count: int) -> Volume:
    info = make(voxels(), scales=1).info.to_dict()
    info["scales"] = [info["scales"][0] | {"key": f"key{i}"} for i in range(count)]
    return Volume(open_accessor("memory://test_display/many"), Info.parse(info))
