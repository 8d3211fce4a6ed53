"""The refinement: its graph's gradient against differences of a finer picture, what it does to a ball of the wrong size,
resuming, interrupting, refusing."""
import os
import signal

import cv2
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from support.surfaces import RESOLUTION, ball

from sgm import ops
from sgm.config.reconstruction import DMTetSpec
from sgm.config.yaml_reader import ConfigError
from sgm.reconstruct.dmtet import pixel_batches, rasterizer, refinement, tet_grid
from sgm.reconstruct.nerf import encoding
from sgm.reconstruct.nerf.field import Field
from sgm.reconstruct.optimization import optimize
from sgm.reconstruct.posed_views import HALF, PosedViews
from sgm.views.cameras import camera_to_world, focal_length

SIZE = 64
SMALL = dict(sides=[SIZE], views=[2], steps=[6], lr=[4e-3], field_lr=2e-2, pixels=1024, save_every=0)


def paint(points):
    """A smooth color of the place."""
    return 0.5 + 0.4 * np.sin(9 * points + np.array([0, 1, 2]))


def pictures(sdf, count=6, size=SIZE, fine=4, color=paint):
    """Views of a surface, exact to the fine samples of a pixel."""
    surface = pixel_batches.surface_of(tet_grid.sealed(sdf, HALF), HALF)
    fl, poses = focal_length(size), camera_to_world(np.arange(count) * 360 / count, np.resize([10.0, 35, -20], count), 2.0)
    rgb, mask = np.zeros((count, size, size, 3), np.float32), np.zeros((count, size, size), np.float32)
    n = size * fine
    for k, c2w in enumerate(poses):
        intrinsics = np.array([fl, fl, size / 2, size / 2]) * fine
        ids, depth = rasterizer.face_ids(surface.vertices, surface.faces, c2w, intrinsics, n, n)
        hit = (ids >= 0).reshape(-1)
        points = rasterizer.pixel_rays(np.arange(n * n), n, c2w, intrinsics) * np.where(hit, depth.reshape(-1), 0)[:, None]
        points += c2w[:3, 3].astype(np.float32)
        shown = np.where(hit[:, None], color(points), 0).reshape(n, n, 3).astype(np.float32)
        rgb[k] = cv2.resize(shown, (size, size), interpolation=cv2.INTER_AREA)
        mask[k] = cv2.resize(hit.reshape(n, n).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return PosedViews(rgb, mask, poses, fl, fl, size / 2, size / 2)


def small_field():
    return Field(encoding.dense_levels([4, 12], 2), HALF, width=16)


def radii(sdf):
    return np.linalg.norm(pixel_batches.surface_of(sdf, HALF).vertices, axis=1)


class Caught(Exception):
    """What a step would have run on is known: the step ends."""


def inputs_of(refiner, chosen=(0, 1)):
    """A batch as `Refiner.step` makes it."""
    surface = refiner.surface()
    kept = {}

    def graph(rates, *inputs):
        kept.update(inputs=inputs)
        raise Caught

    refiner.graph, refiner._chosen = graph, lambda stage, step: np.array(chosen)
    with pytest.raises(Caught):
        refiner.step()
    return surface, list(kept["inputs"])


class Painted(Field):
    """The true colors, at points that the host hands over as weights."""

    def encode(self, points, out=None):
        return np.zeros((1, len(points)), np.int32), np.ascontiguousarray(points, np.float32)

    def construct(self, indices, weights):
        phase = ms.ops.concat((weights[:, 0:1], weights[:, 1:2] + 1 / 9, weights[:, 2:3] + 2 / 9), 1)
        return weights[:, 0], 0.5 + 0.4 * ms.ops.sin(9 * phase)


@pytest.mark.parametrize("geometry", [1.0, 0.25])
def test_gradient_of_the_loss_by_colors_and_outlines(geometry):
    """d loss / d radius of a ball that is too large, against the losses of finer pictures of balls of other sizes."""
    size, radius, step = 96, 0.32, 0.004
    views = pictures(ball(0.3, resolution=40), count=2, size=size, fine=6)
    spec = DMTetSpec(sides=[size], views=[2], steps=[1], lr=[1e-3], pixels=8192, geometry=geometry, smooth=0.0)
    refiner = refinement.Refiner(views, ball(radius, resolution=40), Painted(encoding.dense_levels([4], 2), HALF), spec)
    (value, error, weight), (g_a, g_b) = ms.value_and_grad(refinement.Loss(refiner.field, spec), (0, 1), has_aux=True)(
        *inputs_of(refiner)[1])
    found = -float(g_a.asnumpy().astype(np.float64).sum() + g_b.asnumpy().astype(np.float64).sum())
    background = np.random.RandomState([0, 1 << 20, 0]).random_sample((2, 1, 1, 3))

    def exact(radius):
        now = pictures(ball(radius, resolution=40), count=2, size=size, fine=6)
        ours, theirs = (v.rgb + (1 - v.mask)[..., None] * background for v in (now, views))
        return (np.square(ours - theirs).sum() + np.square(now.mask - views.mask).sum()) / views.mask.sum()

    assert found == pytest.approx((exact(radius + step) - exact(radius - step)) / (2 * step), rel=0.06)
    assert float(value.asnumpy()) == pytest.approx(exact(radius), rel=0.06)
    assert 0 < float(error.asnumpy()) < float(value.asnumpy()) and float(weight.asnumpy()) == pytest.approx(1, rel=0.03)


@pytest.fixture(scope="module")
def run():
    """A ball that starts too small, in 24 steps; the states of the run and the PSNRs it was said to have."""
    views, states, psnrs = pictures(ball(0.34)), [], []
    spec = DMTetSpec(**{**SMALL, "save_every": 3, "steps": [24]})
    refiner = refinement.Refiner(views, ball(0.28), small_field(), spec)
    assert optimize(refiner, progress=psnrs.append,
                    save=lambda arrays: states.append({k: v.copy() for k, v in arrays.items()}))
    return refiner, states, psnrs


def test_a_ball_grows_to_its_pictures(run):
    refiner, states, psnrs = run
    surface = refiner.surface()
    assert surface.vertices.dtype == np.float32 and surface.faces.dtype == np.int32 and refiner.sdf.shape == (21, 21, 21)
    before, after = radii(tet_grid.sealed(ball(0.28), HALF)).mean(), radii(refiner.sdf).mean()
    assert abs(after - 0.34) < 0.35 * abs(before - 0.34)
    assert len(psnrs) == refiner.done == refiner.total == 24 and psnrs[-1] > psnrs[0] + 1.5    # dB, of a mean over ten steps
    assert [row[0] for row in refiner.history] == [10, 20, 24] and refiner.history[-1][2] == psnrs[-1]
    assert len(states) == 8 and int(states[-1]["done"]) == 24


def test_picture_of_the_refined_surface(run):
    refiner = run[0]
    rgb, covered = pixel_batches.picture(refiner.surface(), refiner.field, refiner.views, 2)
    both, either = (np.count_nonzero(f(covered, refiner.views.mask[2] > 0.5)) for f in (np.logical_and, np.logical_or))
    assert both > 0.93 * either and (rgb[~covered] == 0).all()
    true = refiner.views.rgb[2]
    assert np.square(rgb - true)[covered].mean() < np.square(true - true[covered].mean(0))[covered].mean()


def test_resumed_it_goes_on_bit_for_bit(run):
    refiner, states, _ = run
    table = refiner.field.table.asnumpy().copy()
    ops.release()
    other = refinement.Refiner(refiner.views, ball(0.28), small_field(), refiner.settings)
    other.restore(states[3])
    assert optimize(other)
    assert (refiner.sdf == other.sdf).all() and (refiner.surface().vertices == other.surface().vertices).all()
    assert (table == other.field.table.asnumpy()).all()


def test_ctrl_c_gives_what_there_is(run, caplog, pynative):
    ops.release()
    states, shown = [], []
    refiner = refinement.Refiner(run[0].views, ball(0.28), small_field(), run[0].settings)

    def interrupt(psnr):
        if refiner.done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert not optimize(refiner, progress=interrupt, save=states.append, preview=lambda: shown.append(refiner.done))
    assert "dmtet: stopped after 2 of 24" in caplog.text and int(states[-1]["done"]) == 2 and len(refiner.surface().faces)
    assert (states[-1]["sdf"] == refiner.sdf).all() and shown == [2] and refiner.history[-1][0] == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_deformation_moves_vertices_within_its_bound(pynative):
    views = pictures(ball(0.3, (0.03, 0, 0)))
    spec = DMTetSpec(**{**SMALL, "deformation": 0.16, "deformation_lr": 0.3})
    refiner = refinement.Refiner(views, ball(0.3), small_field(), spec)
    for _ in range(3):
        refiner.step()
    moved = np.abs(tet_grid.deformed(RESOLUTION, HALF, np.arange(21 ** 3), refiner.deformation, 0.16)
                   - tet_grid.positions(RESOLUTION, HALF))
    assert 0.02 * 0.055 < moved.max() <= 0.16 * 0.055 + 1e-6
    state = refiner.state()
    other = refinement.Refiner(views, ball(0.3), small_field(), spec)
    other.restore(state)
    assert (other.surface().vertices == refiner.surface().vertices).all()


def test_views_take_turns_and_lengths_grow():
    refiner = refinement.Refiner(pictures(ball(0.3), count=5, fine=1), ball(0.3), small_field(), DMTetSpec(**SMALL))
    seen = np.concatenate([refiner._chosen(0, step) for step in range(5)])
    assert sorted(seen) == sorted(list(range(5)) * 2)
    lengths = pixel_batches.Lengths()
    assert [lengths.of("a", n) for n in (1000, 1200, 5, 2100)] == [2048, 2048, 2048, 3072]


def test_refused_inputs():
    views = pictures(ball(0.3), count=3, fine=1)
    for grid in (np.ones((9, 9, 9), np.float32), np.full((9, 9, 9), np.nan, np.float32)):
        with pytest.raises(refinement.RefineError, match="no inside"):
            refinement.Refiner(views, grid, small_field(), DMTetSpec(**SMALL))
    refiner = refinement.Refiner(views, ball(0.3), small_field(), DMTetSpec(**SMALL))
    with pytest.raises(refinement.RefineError, match="does not fit"):
        refiner.restore(refinement.Refiner(views, ball(0.3, resolution=8), small_field(), DMTetSpec(**SMALL)).state())
    for wrong in (dict(lr=[1.0, 1.0]), dict(steps=[3]), dict(pixels=1)):
        with pytest.raises(ConfigError, match=f"dmtet.{next(iter(wrong))}"):
            DMTetSpec(**wrong).validate()
    DMTetSpec().validate()
    refiner.graph = lambda *inputs: (Tensor(np.float32(np.nan)), None, None, None)
    with pytest.raises(refinement.RefineError, match="not finite"):
        refiner.step()


def test_what_is_not_known_enters_no_loss():
    """The left half of the pictures holds nonsense: with it unknown, loss and gradients are those of any other content."""
    views = pictures(ball(0.3), fine=2)
    known = np.ones(views.mask.shape, bool)
    known[:, :, :SIZE // 2 - 3] = False
    spec, results = DMTetSpec(**{**SMALL, "pixels": 4096}), []
    for fill in (None, 0.0, 0.9):
        rgb, mask = views.rgb.copy(), views.mask.copy()
        if fill is not None:
            rgb[~known], mask[~known] = fill, fill
        batcher = pixel_batches.PixelBatcher(
            PosedViews(rgb, mask, views.c2w, *views.intrinsics, known=None if fill is None else known), HALF, RESOLUTION,
            spec, pixel_batches.Lengths())
        surface = pixel_batches.surface_of(tet_grid.sealed(ball(0.32), HALF), HALF)
        field = small_field()

        def encode(*points, field=field):
            return [array for places in points for array in field.encode(places)]
        results.append(batcher.batch(surface, np.array([0, 1]), encode, np.random.RandomState(0)).pixels)
    plain, empty, full = results
    counts = [int((pixels.shares > 0).sum()) for pixels in results]
    assert counts[1] == counts[2] and 0.4 * counts[0] < counts[1] < 0.75 * counts[0]
    used = empty.shares > 0
    np.testing.assert_array_equal(empty.target[used], full.target[used])
    np.testing.assert_array_equal(empty.wanted[used], full.wanted[used])
