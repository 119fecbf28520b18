"""The picture of the chapter on the whole dataset is what Neuroglancer shows now."""

import numpy as np
import pytest
from PIL import Image

from tests import dataset_picture
from tests.support.browser import chromium_installed


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(not chromium_installed(), reason="chromium is not installed (apt-get install chromium)")
def test_the_guide_shows_what_is_drawn_now() -> None:
    now = dataset_picture.drawn().astype(int)
    kept = np.asarray(Image.open(dataset_picture.PICTURE).convert("RGB")).astype(int)
    assert now.shape == kept.shape
    assert (np.abs(now - kept).max(axis=2) < 40).mean() > 0.95
    mesh = now[320:480, 200:300]  # of the 3-D panel: the green of segment 3, in light and shade
    assert ((mesh[..., 1] > mesh[..., 0] + 20) & (mesh[..., 1] > mesh[..., 2] + 40)).mean() > 0.3
