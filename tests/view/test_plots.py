"""Plots of slices with matplotlib."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from precomputed_fs.view import colours as view_colours
from tests.view.volumes import OFFSET, SIZE, make, voxels


def drawn(ax: Any) -> Any:
    """Draw all of a figure, such that errors of drawing are seen, and return its one image."""
    ax.figure.savefig(io.BytesIO(), format="png")
    (image,) = ax.images
    return image


@pytest.mark.usefixtures("_closed")
def test_a_plot_has_axes_in_voxels_and_in_lengths() -> None:
    array = voxels(SIZE, "uint16")
    scale = make(array, resolution=(4, 4, 40), voxel_offset=OFFSET, scales=1)[0]
    ax = scale.plot(y=8, limits=(10, 90))
    image = drawn(ax)
    np.testing.assert_array_equal(np.asarray(image.get_array()), array[:, 1].T)
    assert image.get_extent() == [-5, 35, 120, 100]
    assert image.get_clim() == (10, 90)
    assert image.cmap.name == "gray"
    assert ax.get_aspect() == 10
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("x (voxels)", "z (voxels)", "4 x 4 x 40 nm, y = 8")
    top, right = ax.child_axes
    assert (top.get_xlabel(), right.get_ylabel()) == ("x (nm)", "z (nm)")
    np.testing.assert_allclose(top.get_xlim(), (-20, 140))
    np.testing.assert_allclose(right.get_ylim(), (4800, 4000))


@pytest.mark.usefixtures("_closed")
@pytest.mark.parametrize(("resolution", "unit", "end"), [(8, "nm", 320), (800, "µm", 32), (1e6, "mm", 40)])
def test_lengths_are_in_a_readable_unit(resolution: float, unit: str, end: float) -> None:
    ax = make(voxels(), resolution=(resolution,) * 3, scales=1)[0].plot(z=0)
    drawn(ax)
    top, _ = ax.child_axes
    assert top.get_xlabel() == f"x ({unit})"
    np.testing.assert_allclose(top.get_xlim(), (0, end))


@pytest.mark.usefixtures("_closed")
def test_without_a_coordinate_there_are_three_plots() -> None:
    array = voxels()
    axes = make(array)[0].plot()
    assert [ax.get_title() for ax in axes] == ["8 nm, z = 10", "8 nm, y = 15", "8 nm, x = 20"]
    for ax, plane in zip(axes, (array[:, :, 10].T, array[:, 15].T, array[20][:, ::-1]), strict=True):
        np.testing.assert_array_equal(np.asarray(drawn(ax).get_array()), plane)
        assert drawn(ax).get_clim() == (0, 255)
    assert axes[2].get_xlim() == (20, 0)


@pytest.mark.usefixtures("_closed")
def test_a_plot_of_a_volume_counts_voxels_of_its_first_scale() -> None:
    volume = make(voxels((64, 64, 64)), voxel_offset=(-10, 0, 0))
    ax = volume.plot(z=33, size=16)
    assert drawn(ax).get_array().shape == (16, 17)
    assert ax.get_title() == "32 nm, z = 33"
    assert drawn(ax).get_extent() == [-12, 56, 64, 0]  # of voxels that are four times as long


@pytest.mark.usefixtures("_closed")
def test_plots_in_colour() -> None:
    ids = voxels(SIZE, "uint32")
    image = drawn(make(ids, scales=1)[0].plot(z=4))
    np.testing.assert_array_equal(np.asarray(image.get_array()), view_colours.segment_colours(ids[:, :, 4].T))
    colours = voxels((*SIZE, 3))
    image = drawn(make(colours, scales=1)[0].plot(z=4))
    np.testing.assert_array_equal(np.asarray(image.get_array()), colours[:, :, 4].transpose(1, 0, 2))


@pytest.mark.usefixtures("_closed")
def test_a_plot_may_have_axes_of_ones_own() -> None:
    from matplotlib import pyplot as plt

    scale = make(voxels())[0]
    _, (first, second, third) = plt.subplots(1, 3)
    assert scale.plot(z=1, ax=first) is first
    assert list(scale.plot(ax=[first, second, third])) == [first, second, third]
    with pytest.raises(ValueError, match="ax: expected 3, one for each slice, got 1"):
        scale.plot(ax=first)


@pytest.mark.usefixtures("_closed")
@pytest.mark.parametrize("shape", [(40, 30, 20), (20, 40, 30), (40, 40, 2), (200, 10, 60)])
@pytest.mark.parametrize("orientation", ["neuroglancer", "anatomical"])
def test_slices_of_a_figure_are_at_one_scale(shape: tuple[int, int, int], orientation: str) -> None:
    axes = make(voxels(shape), scales=1)[0].plot(orientation=orientation)
    axes[0].figure.canvas.draw()
    scales = []
    for ax in axes:
        box = ax.get_window_extent()
        scales += [box.width / np.ptp(ax.get_xlim()), box.height / np.ptp(ax.get_ylim())]
        assert min(text.get_size() for text in (ax.title, ax.xaxis.label, *ax.get_xticklabels())) >= 10
    np.testing.assert_allclose(scales, scales[0], rtol=0.02)
    width, height = axes[0].figure.get_size_inches()
    assert (width, height) <= (10, 6)


@pytest.mark.usefixtures("_closed")
def test_a_plot_is_turned_with_its_axes() -> None:
    array = voxels()
    ax = make(array, voxel_offset=OFFSET, scales=1)[0].plot(x=0, orientation="anatomical")
    np.testing.assert_array_equal(np.asarray(drawn(ax).get_array()), array[5].T[::-1])
    assert drawn(ax).get_extent() == [7, 37, 100, 120]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("y (voxels)", "z (voxels)")


@pytest.mark.usefixtures("_closed")
def test_an_image_may_have_other_colours() -> None:
    import matplotlib as mpl

    volume = make(voxels(), scales=1)
    assert drawn(volume.plot(z=3, cmap="magma")).cmap.name == "magma"
    assert drawn(volume.plot(z=3, cmap=mpl.colormaps["hot"])).cmap.name == "hot"
    with pytest.raises(ValueError, match="magmaa"):
        volume.plot(z=3, cmap="magmaa")
    coloured, labels = make(voxels((*SIZE, 3)), scales=1), make(voxels(SIZE, "uint32"), "memory://test_display/labels")
    assert drawn(coloured.plot(z=3, channel=1, cmap="magma")).cmap.name == "magma"
    with pytest.raises(ValueError, match=r"cmap: .* is shown in red, green and blue: choose a channel"):
        coloured.plot(z=3, cmap="magma")
    with pytest.raises(ValueError, match=r"cmap: .* is a segmentation"):
        labels.plot(z=3, cmap="magma")
