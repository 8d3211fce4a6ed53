"""A field fitted to a colored ball: it learns, repeats itself, resumes bit for bit, and its depth gives the ball back."""
import numpy as np
import pytest
from mindspore import Tensor
from support.colored_ball import FOCAL, RADIUS, SIDE

from sgm.config.reconstruction import DepthSpec, NerfSpec
from sgm.reconstruct.hull import sdf_grid, visual_hull
from sgm.reconstruct.nerf import depth_fusion, training, volume_rendering
from sgm.reconstruct.posed_views import HALF, ShapeError
from sgm.reconstruct.stage_files import load_state, save_state
from sgm.reconstruct.stages import Hull

SETTINGS = {"resolutions": [8, 24], "steps": 80, "lr": 0.03, "rays": 512, "samples": 16, "width": 16, "side": SIDE,
            "refresh": 15, "preview_every": 0, "save_every": 0}


@pytest.fixture(scope="module")
def sdf(views):
    return visual_hull.closed(visual_hull.hull_sdf(views, 32, HALF), HALF)


@pytest.fixture(scope="module")
def trained(views, sdf, tmp_path_factory):
    """(trainer at the end, the folder of its checkpoint, losses, state in the middle)."""
    folder = tmp_path_factory.mktemp("nerf")
    trainer = training.NerfTrainer(views, sdf, NerfSpec(**SETTINGS), seed=1)
    losses = [trainer.step()[0] for _ in range(40)]
    save_state(folder / "nerf.npz", trainer.state())
    losses += [trainer.step()[0] for _ in range(40)]
    return trainer, folder, losses


def test_field_learns(trained, views):
    trainer, _, losses = trained
    assert losses[-1] < 0.25 * losses[0]
    picture = trainer.render(3, SIDE, 32) / 255
    truth = views.rgb[3] + 1 - views.mask[3][..., None]
    error = np.square(picture - truth)[views.mask[3] > 0].mean()
    assert -10 * np.log10(error) > 20           # 24 and more are usual; a flat gray ball has 13


def test_it_resumes_bit_for_bit(trained, views, sdf):
    trainer, folder, losses = trained
    again = training.NerfTrainer(views, sdf, NerfSpec(**SETTINGS), seed=1)
    again.restore(load_state(folder / "nerf.npz"))
    assert again.done == 40
    assert [again.step()[0] for _ in range(40)] == losses[40:]
    for name, array in trainer.state().items():
        assert np.array_equal(array, again.state()[name]), name


def test_a_checkpoint_of_other_settings_is_refused(trained, views, sdf):
    other = training.NerfTrainer(views, sdf, NerfSpec(**{**SETTINGS, "width": 8}), seed=1)
    with pytest.raises(ShapeError, match="does not fit"):
        other.restore(load_state(trained[1] / "nerf.npz"))


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    (tmp_path / "nerf.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ShapeError, match="cannot be read"):
        load_state(tmp_path / "nerf.npz")


def test_depth_and_fusion_give_the_ball_back(trained, sdf):
    trainer = trained[0]
    views, maps = depth_fusion.depth_maps(trainer, SIDE, 48)
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    o, d = (x.astype(np.float64) for x in views.rays(np.zeros(len(rows), int), rows, columns))
    b = (o * d).sum(-1)
    inside = b * b - (o * o).sum(-1) + RADIUS ** 2
    exact = (-b - np.sqrt(np.maximum(inside, 0))).reshape(SIDE, SIDE)
    middle = (inside > 0.5 * RADIUS ** 2).reshape(SIDE, SIDE)
    assert np.isfinite(maps[0][middle]).all()
    assert np.abs(maps[0] - exact)[middle].mean() < 0.03
    settings = DepthSpec(resolution=32, side=SIDE, samples=32)
    hull = Hull(None, visual_hull.hull_sdf(views, 32, HALF), 0.6, None, 0, 1.0, views)
    found, chosen = depth_fusion.surface(trainer, hull, settings)
    axis = sdf_grid.vertices(32, HALF)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    assert (found[radius < RADIUS - 0.06] < 0).all() and (found[radius > RADIUS + 0.08] > 0).all()
    assert chosen["hollows"] == []              # a ball is no vessel
    assert chosen["fusion"] in chosen["candidates"] and chosen["candidates"][chosen["fusion"]]["iou"] > 0.9


@pytest.mark.parametrize("more", [{"directional": True}, {"tv": 0.1}, {"depth": 1.0}, {"encoding": "hash", "hash_levels": 4,
                                                                                     "hash_log2": 12, "hash_finest": 48}])
def test_every_option_trains(views, sdf, more):
    trainer = training.NerfTrainer(views, sdf, NerfSpec(**{**SETTINGS, "rays": 128, "steps": 25, **more}), seed=2)
    losses = [trainer.step()[0] for _ in range(25)]
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < 0.85 * losses[0]


def test_the_loss_of_a_batch_against_its_parts(views, sdf):
    """Rendering's loss is the sum of the pieces, each from volume.py, of what the field says of the sample points."""
    settings = NerfSpec(**{**SETTINGS, "rays": 64, "distortion": 0.3, "mask": 0.7, "depth": 2.0})
    trainer = training.NerfTrainer(views, sdf, settings, seed=3)
    rng = np.random.RandomState(0)
    origins, directions, rgb, alpha, _ = trainer.rays.draw(64, rng)
    t, delta = volume_rendering.sampled(origins, directions, trainer.occupied, trainer.density, HALF, 16, rng)
    points = (origins[:, None] + t[..., None] * directions[:, None]).reshape(-1, 3)
    background = rng.random_sample((64, 3)).astype(np.float32)
    batch = [Tensor(x) for x in (*trainer.field.encode(points), t, delta, rgb, alpha, background)]
    loss, error = training.Rendering(trainer.field, settings)(*batch)
    sigma, colors = trainer.field.evaluate(points, chunk=1024)
    tau = sigma.reshape(64, 16).astype(np.float64) * delta
    before = np.cumsum(tau, axis=1) - tau
    w = np.exp(-before) * (1 - np.exp(-tau))
    color = (w[..., None] * colors.reshape(64, 16, 3)).sum(1) + (1 - w.sum(1))[:, None] * background
    target = rgb + (1 - alpha)[:, None] * background
    expected = np.sqrt(np.square(color - target).sum(-1) + 1e-4).mean() + 0.7 * np.square(w.sum(1) - alpha).mean()
    pairs = np.abs(t[:, :, None].astype(np.float64) - t[:, None, :])
    expected += 0.3 * ((w[:, :, None] * w[:, None, :] * pairs).sum((1, 2)) + (w * w * delta).sum(1) / 3).mean()
    z, m = (w * t).sum(1).reshape(-1, 4), (alpha > 0.99).reshape(-1, 4).all(1)
    expected += 2.0 * (m * ((z[:, 0] - z[:, 1]) ** 2 + (z[:, 0] - z[:, 2]) ** 2)).mean()
    np.testing.assert_allclose(float(loss.asnumpy()), expected, rtol=2e-4)
    np.testing.assert_allclose(float(error.asnumpy()), np.square(color - target).mean(), rtol=2e-4)


def test_patches_are_neighbors(views):
    rays = training.Rays(views, patches=True)
    _, directions, *_ = rays.draw(64, np.random.RandomState(0))
    d = directions.reshape(-1, 4, 3)
    step = np.linalg.norm(d[:, 1] - d[:, 0], axis=-1)
    assert (step < 1.1 / FOCAL).all() and (step > 0.8 / FOCAL).all()
    np.testing.assert_allclose(np.linalg.norm(d[:, 2] - d[:, 0], axis=-1), step, rtol=0.2)


@pytest.mark.parametrize("patches", [False, True])
def test_no_ray_goes_where_nothing_is_known(views, patches):
    known = np.ones(views.mask.shape, bool)
    known[:, :, :SIDE // 2], known[0] = False, False
    rays = training.Rays(views.ignoring(known), patches)
    drawn = []
    rays.views.__dict__["rays"] = lambda view, row, column: drawn.append((view, row, column)) or (None, None)
    rays.draw(4096, np.random.RandomState(0))
    view, row, column = drawn[0]
    assert known[view, row, column].all() and set(view) == set(range(1, len(views)))
    with pytest.raises(ShapeError, match="no pixel near the object is known"):
        training.Rays(views.ignoring(np.zeros_like(known)), patches)
