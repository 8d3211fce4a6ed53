"""The grids of single views: interpolation by hand, what is learned of a highlight, and its removal."""
from dataclasses import replace

import numpy as np
import pytest
from mindspore import Parameter, Tensor
from support.colored_ball import SIDE

from sgm.config.reconstruction import NerfSpec
from sgm.reconstruct.hull import visual_hull
from sgm.reconstruct.nerf import training
from sgm.reconstruct.nerf.appearance import Appearance
from sgm.reconstruct.posed_views import HALF

SETTINGS = {"resolutions": [8, 24], "steps": 200, "lr": 0.01, "rays": 256, "samples": 16, "width": 16, "side": SIDE,
            "refresh": 15, "preview_every": 0, "save_every": 0}


def with_grids(values):
    values = np.asarray(values, np.float32)
    added = Appearance(len(values), values.shape[1] - 1)
    added.grid = Parameter(Tensor(values.reshape(-1, 1)), name="appearance")
    return added


def test_interpolation_by_hand():
    """Two views of one cell; pixels of a picture of 2 x 4 have their middles at 1/4, 3/4 down and 1/8, 3/8 ... across."""
    added = with_grids([[[0, 1], [2, 3]], [[5, 5], [5, 5]]])
    view, row, column = (np.array(x, np.int32) for x in ([0, 0, 1], [0, 1, 0], [0, 3, 2]))
    found = added(*map(Tensor, added.encode(view, row, column, 2, 4))).asnumpy()
    np.testing.assert_allclose(found[:, 0], [1 / 8 + 2 / 4, 7 / 8 + 2 * 3 / 4, 5], rtol=1e-6)


def test_what_is_removed_is_what_was_added(views):
    """The host's picture of a grid and the graph's values at its pixels are the same."""
    added = with_grids(np.random.RandomState(0).uniform(-0.05, 0.05, (12, 5, 5)))
    gray = replace(views, rgb=0.5 * views.mask[..., None] * np.ones(3, np.float32))
    rows, columns = (x.reshape(-1).astype(np.int32) for x in np.mgrid[:SIDE, :SIDE])
    for k in (0, 7):
        expected = added(*map(Tensor, added.encode(np.full(len(rows), k, np.int32), rows, columns, SIDE, SIDE))).asnumpy()
        found = (gray.rgb - added.removed(gray).rgb)[k, ..., 0]
        # OpenCV places a sample to a 32nd of a cell: .1 of a cell's difference at most, / 32
        np.testing.assert_allclose(found, expected.reshape(SIDE, SIDE) * views.mask[k], atol=0.1 / 32)
    dark = with_grids(np.full((12, 2, 2), 0.9)).removed(gray)
    assert dark.rgb.min() == 0 and dark.mask is gray.mask       # no color below black


@pytest.mark.slow
def test_a_highlight_that_moves_is_learned_and_removed(views):
    """A spot at one place of every picture, as of a light beside the camera: no color of the ball."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    spot = 0.3 * np.exp(-((x - 6) ** 2 + (y + 6) ** 2) / (2 * (0.07 * SIDE) ** 2)).astype(np.float32)
    plain = replace(views, rgb=0.6 * views.rgb)
    lit = replace(plain, rgb=plain.rgb + (spot * views.mask)[..., None])
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, 32, HALF), HALF)
    inside, off = views.mask > 0.99, []
    for given in (lit, plain):
        trainer = training.NerfTrainer(given, sdf, NerfSpec(**SETTINGS), seed=1, cells=8, weight=0.3)
        for _ in range(200):
            trainer.step()
        off.append(np.square(trainer.appearance.removed(given).rgb - plain.rgb)[inside].mean())
    before = np.square(lit.rgb - plain.rgb)[inside].mean()
    assert off[0] < 0.45 * before               # .31 is usual
    assert off[1] < 0.15 * before               # and little is taken where there is no spot: .08


@pytest.mark.slow
def test_its_state_is_restored(views):
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, 16, HALF), HALF)
    one, other = (training.NerfTrainer(views, sdf, NerfSpec(**SETTINGS), cells=4, weight=0.1) for _ in range(2))
    one.step()
    other.restore(one.state())
    assert np.array_equal(one.appearance.grids(), other.appearance.grids()) and one.appearance.grids().any()


def test_without_cells_there_is_none(views):
    sdf = visual_hull.closed(visual_hull.hull_sdf(views, 16, HALF), HALF)
    trainer = training.NerfTrainer(views, sdf, NerfSpec(**SETTINGS), seed=1)
    assert trainer.appearance is None and not any("appearance" in name for name in trainer.state())
