"""The picture that `Volume.show` returns: Pillow's, which can be saved as JPEG although it is partly transparent."""

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from precomputed_fs.view.colours import on_white

_JPEG = "JPEG"
_PATHS = (str, bytes, os.PathLike)


class Picture(Image.Image):
    """A picture of slices. JPEG has no transparency, so that white takes its place there."""

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Self:
        """Make a picture of pixels: (row, column), or (row, column, channel)."""
        picture = cls()
        vars(picture).update(vars(Image.fromarray(pixels)))
        return picture

    def _new(self, core: Any) -> Self:  # noqa: ANN401 - Pillow's pixels
        """Make the picture that a method of Pillow returns, such as ``resize``: of this class, too."""
        picture = type(self)()
        vars(picture).update(vars(super()._new(core)))
        return picture

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002, ANN401 - Pillow's own
        """Save the picture, as ``Image.save`` does."""
        image: Image.Image = self
        if _is_jpeg(fp, format):
            image = Image.fromarray(on_white(np.asarray(self)))
            image.info = self.info
        Image.Image.save(image, fp, format, **params)

    def _repr_jpeg_(self) -> None:
        """Show no JPEG in a notebook: PNG is there, and keeps what is transparent."""


def _is_jpeg(fp: Any, format: str | None) -> bool:  # noqa: A002, ANN401
    """Whether Pillow would save JPEG: by the format, or else by the file's name."""
    if format is not None:
        return format.upper() == _JPEG
    name = fp if isinstance(fp, _PATHS) else getattr(fp, "name", "")
    suffix = Path(os.fsdecode(name) if isinstance(name, _PATHS) else "").suffix.lower()
    return Image.registered_extensions().get(suffix) == _JPEG
