"""What lies over a slice: another volume, aligned in nanometres."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs import Volume, create_volume
from precomputed_fs.view import colours
from tests.support import servers
from tests.view.volumes import OFFSET, SIZE, asked, make, open_accessor, pixels, voxels

LABELS = voxels((30, 30, 30), "uint32") % 4
"""Some of them are 0."""


def made_over(array: Any = LABELS, **options: Any) -> Volume:
    given = {"resolution": (8, 8, 8), "scales": 1, "overwrite": True, **options}
    return create_volume("memory://test_display/over", array, **given)


def blended(under: Any, ids: Any, alpha: float) -> Any:
    """Blend segments over grey levels."""
    over = colours.segment_colours(ids)
    parts = np.round(over[..., 3:] * alpha) / 255
    return np.rint(over[..., :3] * parts + np.asarray(under, float)[..., np.newaxis] * (1 - parts))


@given(
    resolution=st.tuples(*[st.sampled_from([4, 8, 12, 16, 24])] * 3),
    offset=st.tuples(*[st.integers(-12, 12)] * 3),
    axis=st.sampled_from([0, 1, 2]),
    orientation=st.sampled_from(["neuroglancer", "anatomical"]),
)
def test_each_voxel_has_over_it_what_is_at_its_place(
    resolution: tuple[int, int, int], offset: tuple[int, int, int], axis: int, orientation: str
) -> None:
    base, array = np.full(SIZE, 200, np.uint8), voxels((30, 30, 30), "uint32") % 4 + 1
    scale = make(base, scales=1)[0]
    over = made_over(array, resolution=resolution, voxel_offset=offset)
    at = SIZE[axis] // 2
    grid = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), -1)
    index = np.floor((grid + 0.5) * 8 / resolution).astype(int) - offset
    inside = ((index >= 0) & (index < 30)).all(-1)
    ids = np.where(inside, array[tuple(np.moveaxis(index.clip(0, 29), -1, 0))], 0)
    whole = create_volume("memory://test_display/same", ids.astype(np.uint32), resolution=(8, 8, 8), overwrite=True)
    point: dict[str, Any] = {"xyz"[axis]: at}
    if not inside.any():
        with pytest.raises(ValueError, match=r"overlay: .* lies at"):
            scale.show(**point, overlay=over, size=None)
        return
    shown = pixels(scale.show(**point, overlay=over, size=None, orientation=orientation).convert("RGB"))
    segments = pixels(whole[0].show(**point, size=None, orientation=orientation))
    alpha = np.round(segments[..., 3:] * 0.4) / 255
    np.testing.assert_allclose(shown, segments[..., :3] * alpha + 200 * (1 - alpha), atol=0.51)


def test_labels_lie_over_an_image() -> None:
    array = voxels()
    volume, over = make(array, scales=1), made_over()
    shown = volume.show(z=10, size=None, overlay=over)
    assert shown.mode == "RGB"
    expected = array[:, :, 10].T[..., np.newaxis].repeat(3, -1).astype(float)
    expected[:, :30] = blended(array[:30, :, 10].T, LABELS[:, :, 10].T, 0.4)
    np.testing.assert_allclose(pixels(shown), expected, atol=0.51)
    opaque = pixels(volume.show(z=10, size=None, overlay=over[0], alpha=1))
    np.testing.assert_array_equal(opaque[:, :30][LABELS[:, :, 10].T > 0], colours.segment_colours(
        LABELS[:, :, 10].T[LABELS[:, :, 10].T > 0])[:, :3])  # fmt: skip
    np.testing.assert_array_equal(
        pixels(volume.show(z=10, size=None, overlay=over, alpha=0)), pixels(volume.show(z=10, size=None).convert("RGB"))
    )
    three = volume.show(size=None, overlay=over)
    assert three.mode == "RGBA"
    np.testing.assert_array_equal(pixels(three)[:, :40, :3], pixels(shown))
    assert (pixels(three)[:, 40:48] == 0).all()


def test_a_slice_beside_the_overlay_is_shown_as_it_is() -> None:
    volume = make(voxels(), voxel_offset=(0, 0, 20), scales=1)
    assert volume.show(z=35, overlay=made_over()) == volume.show(z=35)


def test_an_image_may_lie_over_another_and_over_labels() -> None:
    grey, dark = made_over(np.full((40, 30, 20), 250, np.uint8)), make(np.full(SIZE, 150, np.uint8), scales=1)
    assert set(pixels(dark.show(z=3, overlay=grey, alpha=0.5)).ravel()) == {200}
    labels = make(np.zeros(SIZE, np.uint32), scales=1)
    shown = labels.show(z=3, overlay=grey)
    assert shown.mode == "RGBA"
    assert set(map(tuple, pixels(shown).reshape(-1, 4).tolist())) == {(250, 250, 250, 102)}


def test_an_overlay_is_read_from_the_scale_that_suits_the_picture(tmp_path: Any, served: servers.HttpServer) -> None:
    from precomputed_fs import open_volume

    make(voxels((128, 64, 32), "uint32"), str(tmp_path), gzip=False, chunk_size=(32, 32, 32))
    over, base = open_volume(served.url), make(voxels((128, 64, 32)))
    for size, key in {32: "32_32_32", 64: "16_16_16", 128: "8_8_8", 512: "8_8_8"}.items():
        base.show(z=5, size=size, overlay=over)
        assert asked(served) == {key}
    base.show(z=5, size=32, overlay=over["8_8_8"])
    assert asked(served) == {"8_8_8"}


def test_what_is_not_an_overlay_is_refused_before_anything_is_read() -> None:
    base = Volume(open_accessor(servers.refused_url()), make(voxels(), scales=1).info)
    over = made_over()
    for use in (base.show, base[0].plot):
        with pytest.raises(TypeError, match="overlay: expected a volume or a scale, got ndarray: make one with"):
            use(z=3, overlay=LABELS)  # type: ignore[arg-type]
        for alpha in (-0.1, 1.1, np.nan, "0.4", None):
            with pytest.raises(ValueError, match=r"alpha: expected 0 .* to 1"):
                use(z=3, overlay=over, alpha=alpha)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"over lies at 8e\+08 to .* nm along x, .* at 0 to 320 nm: are"):
            use(z=3, overlay=made_over(voxel_offset=(10**8, 0, 0)))


@pytest.mark.usefixtures("_closed")
def test_labels_lie_over_a_plot_in_its_coordinates() -> None:
    scale = make(voxels(), voxel_offset=OFFSET, scales=1)[0]
    over = made_over(resolution=(16, 16, 80), voxel_offset=(2, 0, 5))
    ax = scale.plot(z=105, overlay=over, alpha=0.5)
    under, labels = ax.images
    assert under.get_extent() == [-5, 35, 37, 7]
    assert labels.get_extent() == [4, 36, 38, 6]  # whole voxels of twice the size
    assert (ax.get_xlim(), ax.get_ylim()) == ((-5, 35), (37, 7))
    ids = LABELS[:16, 3:19, 5].T
    expected = colours.segment_colours(ids)
    expected[..., 3] = np.rint(expected[..., 3] * 0.5)
    np.testing.assert_array_equal(np.asarray(labels.get_array()), expected)
    assert len(scale.plot(z=105, overlay=over[0], orientation="anatomical").images) == 2
