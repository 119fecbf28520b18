"""Plots of slices with matplotlib."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from precomputed_fs import (
    create_volume,
)
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
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("x (voxels)", "z (voxels)", "4_4_40, y = 8")
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
    assert [ax.get_title() for ax in axes] == ["8_8_8, z = 10", "8_8_8, y = 15", "8_8_8, x = 20"]
    for ax, plane in zip(axes, (array[:, :, 10].T, array[:, 15].T, array[20][:, ::-1]), strict=True):
        np.testing.assert_array_equal(np.asarray(drawn(ax).get_array()), plane)
        assert drawn(ax).get_clim() == (0, 255)
    assert axes[2].get_xlim() == (20, 0)


@pytest.mark.usefixtures("_closed")
def test_a_plot_of_a_volume_counts_voxels_of_its_first_scale() -> None:
    volume = make(voxels((64, 64, 64)), voxel_offset=(-10, 0, 0))
    ax = volume.plot(z=33, size=16)
    assert drawn(ax).get_array().shape == (16, 17)
    assert ax.get_title() == "32_32_32, z = 33"
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
def test_a_title_is_no_formula() -> None:
    info = make(voxels()).info.to_dict()
    info["scales"][0]["key"] = "$\\undefined{$ \x1b[31m"
    scale = create_volume("memory://test_display/formula", info, overwrite=True)[0]
    scale[...] = voxels()[..., np.newaxis]
    ax = scale.plot(z=0)
    drawn(ax)
