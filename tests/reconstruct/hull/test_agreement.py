"""Coverage and color residual of views whose right values are known by hand."""
import numpy as np
import pytest

from sgm.reconstruct.hull.agreement import color_residual, outline_coverage
from sgm.reconstruct.posed_views import PosedViews
from sgm.views.cameras import Orbit, focal_length

SIZE, COUNT = 40, 15


def balls(levels):
    """Views of a ball in the middle, view k of one gray level: every camera sees a disk of the same radius."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    mask = np.tile(np.float32(np.hypot(x, y) < 0.3 * SIZE), (len(levels), 1, 1))
    rgb = mask[..., None] * np.float32(levels)[:, None, None, None] * np.ones(3, np.float32)
    fl = focal_length(SIZE)
    return PosedViews(rgb, mask, Orbit.static(10, len(levels)).poses(), fl, fl, SIZE / 2, SIZE / 2)


def test_residual_is_the_difference_from_the_median():
    levels = np.full(COUNT, 0.5)
    assert color_residual(balls(levels), resolution=32) == pytest.approx(0, abs=1e-6)
    levels[2] = 0.7                     # one view against all others, whose median it does not move
    found = color_residual(balls(levels), resolution=32)
    assert found == pytest.approx(np.where(np.arange(COUNT) == 2, 0.2, 0)[:, None] * (1, 1), abs=1e-6)


def test_residual_of_one_channel_is_its_share():
    views = balls(np.full(COUNT, 0.5))
    views.rgb[4, ..., 0] += 0.3 * views.mask[4]
    assert color_residual(views, (0.5,), 32)[4, 0] == pytest.approx(0.3 / np.sqrt(3), abs=1e-6)


def test_quantiles_tell_a_highlight_from_drift():
    """0.4 brighter on the upper third of one view's disk, which is .29 of it: the median is 0, the quantile .9 not."""
    views = balls(np.full(COUNT, 0.5))
    views.rgb[3, :int(0.4 * SIZE)] += 0.4 * views.mask[3, :int(0.4 * SIZE), :, None]
    assert color_residual(views, resolution=32)[3] == pytest.approx([0, 0.4], abs=1e-6)


def test_hidden_colors_do_not_count():
    """Two views see nothing in common with enough others: no figure, rather than a false one."""
    assert np.isnan(color_residual(balls(np.full(3, 0.5)), resolution=32)).all()


def test_coverage():
    """One view that shows the lower half alone leaves little more than half of the ball to all others."""
    views = balls(np.full(COUNT, 0.5))
    assert outline_coverage(views, 32) > 0.96
    views.mask[0, :SIZE // 2] = 0
    assert 0.5 < outline_coverage(views, 32) < 0.7
