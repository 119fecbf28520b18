"""The picture that `show` returns, as a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.view.volumes import SIZE, make, pixels, voxels

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = {
    "L": lambda: make(voxels(), scales=1).show(z=3),
    "LA": lambda: make(voxels(), scales=1).show(),
    "RGB": lambda: make(voxels((*SIZE, 3)), scales=1).show(z=3),
    "RGBA": lambda: make(voxels(SIZE, "uint32") % 2, scales=1).show(z=3),
}


@pytest.mark.parametrize("mode", PICTURES)
def test_every_picture_can_be_saved_as_jpeg_and_keeps_what_is_transparent(mode: str, tmp_path: Path) -> None:
    picture = PICTURES[mode]()
    assert picture.mode == mode
    for name in ("a.jpg", "b.JPEG", "c.png", "d.webp"):
        picture.save(tmp_path / name, quality=95)
    with Image.open(tmp_path / "a.jpg") as saved:
        assert (saved.format, saved.mode, saved.size) == ("JPEG", mode.removesuffix("A"), picture.size)
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        difference = pixels(saved.convert("RGB")).astype(int) - pixels(white.convert("RGB"))
        assert np.abs(difference).mean() < 8
    with Image.open(tmp_path / "c.png") as saved:
        assert saved.mode == mode
        np.testing.assert_array_equal(pixels(saved), pixels(picture))


def test_a_jpeg_goes_wherever_pillow_writes_one(tmp_path: Path) -> None:
    picture = PICTURES["LA"]()
    stream = io.BytesIO()
    picture.save(stream, "jpeg")
    assert stream.getvalue().startswith(b"\xff\xd8")
    for target in (str(tmp_path / "text.jpg"), tmp_path / "no suffix"):
        picture.save(target, format="JPEG")
    with (tmp_path / "file.jpg").open("wb") as file:
        picture.save(file)
    assert {path.read_bytes()[:2] for path in tmp_path.iterdir()} == {b"\xff\xd8"}
    with pytest.raises(ValueError, match="unknown file extension"):
        picture.save(tmp_path / "x.unknown")


def test_what_pillow_makes_of_a_picture_can_be_saved_as_jpeg_too(tmp_path: Path) -> None:
    picture = PICTURES["RGBA"]()
    for name, made in {
        "resized": picture.resize((40, 30)),
        "cropped": picture.crop((0, 0, 5, 5)).rotate(90),
        "copied": picture.copy(),
    }.items():
        assert made.mode == "RGBA"
        made.save(tmp_path / f"{name}.jpg")
        with Image.open(tmp_path / f"{name}.jpg") as saved:
            assert (saved.mode, saved.size) == ("RGB", made.size)


def test_a_notebook_gets_one_picture_with_what_is_transparent() -> None:
    picture: Any = PICTURES["RGBA"]()
    assert picture._repr_jpeg_() is None
    with Image.open(io.BytesIO(picture._repr_png_())) as shown:
        np.testing.assert_array_equal(pixels(shown), pixels(picture))
