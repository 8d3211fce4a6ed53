"""Fitting unseen objects: the distribution of embeddings, views that do not fit, and an object that is found again."""
from dataclasses import replace

import numpy as np
import pytest
from support.small_autodecoder import write_weights

from sgm.autodecoder import fitting
from sgm.autodecoder.object_folder import agreement, as_levels, seen_like
from sgm.autodecoder.pipeline import load_autodecoder
from sgm.common.errors import InputError
from sgm.reconstruct.posed_views import PosedViews
from sgm.views.cameras import FOV_DEG, Orbit, focal_length


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgm.ops.compiled", lambda function: function)
        yield load_autodecoder(ckpt=write_weights(tmp_path_factory.mktemp("weights") / "small.safetensors"))


def views_of(objects, latent, count=4, size=16):
    """As `read_views` returns them."""
    orbit = Orbit.static(20, count)
    made = objects.model.render(latent, orbit.poses(), size)[0]
    fl = focal_length(size, FOV_DEG)
    return PosedViews(made[..., :3] * made[..., 3:], made[..., 3], orbit.poses(), fl, fl, size / 2, size / 2)


def test_coordinates_of_embeddings():
    """All rows come back; the coordinates of all have unit variance; directions without variance are none."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((40, 3)) @ rng.standard_normal((3, 8)) + 2).astype(np.float32)
    found = fitting.distribution(rows)
    assert found.basis.shape == (3, 8)
    coordinates = np.concatenate([found.coordinates(row[None]) for row in rows])
    np.testing.assert_allclose(found.mean + coordinates @ found.basis, rows, atol=1e-4)
    np.testing.assert_allclose(np.cov(coordinates.T), np.eye(3), atol=1e-4)
    with pytest.raises(InputError, match="found one embedding for all objects"):
        fitting.distribution(np.ones((5, 8), np.float32))


def ball(radius=0.3, count=3, size=32):
    """Views of a white ball in the middle, exactly."""
    orbit = Orbit.static(20, count)
    fl = focal_length(size, FOV_DEG)
    views = PosedViews(np.zeros((count, size, size, 3), np.float32), np.zeros((count, size, size), np.float32),
                       orbit.poses(), fl, fl, size / 2, size / 2)
    origins, directions = views.rays(*(part.reshape(-1) for part in np.indices(views.mask.shape)))
    mask = hits(origins, directions, radius).reshape(views.mask.shape).astype(np.float32)
    return replace(views, mask=mask, rgb=np.repeat(mask[..., None], 3, -1))


def hits(origins, directions, radius):
    """Whether rays (N, 3) meet the ball."""
    return np.linalg.norm(np.cross(origins, directions), axis=-1) < radius


def test_object_beyond_the_box_is_refused():
    views = ball()
    assert fitting.ViewPixels(views).side == fitting.SIDE
    # twice as far out, and seen by cameras that look away from it
    for wrong in (ball(0.9), replace(views, c2w=views.c2w @ np.diag([1, -1, -1, 1]))):
        with pytest.raises(InputError, match="cup: [0-9]+% of the object's pixels see past the box"):
            fitting.ViewPixels(wrong, "cup")


def test_pixels_have_their_rays():
    """A pixel of a square shows the ball where its ray meets it."""
    origins, directions, jitter, target, known = fitting.ViewPixels(ball()).batch(np.random.default_rng(0), 8)
    assert jitter.shape == (8, origins.shape[1]) and known.min() == 1 and target.shape == (fitting.SQUARES, 4, 16, 16)
    wanted = hits(origins.T, directions.T, 0.3).reshape(fitting.SQUARES, 16, 16)
    assert (target[:, 3] == wanted).all() and (target[:, 0] == wanted).all() and 0.1 < wanted.mean() < 0.9


def test_what_is_not_known_is_left_out():
    known = np.ones((3, 32, 32), bool)
    known[:, :, 16:] = False
    target, told = fitting.ViewPixels(ball().ignoring(known)).batch(np.random.default_rng(1), 2)[3:]
    assert 0 < told.mean() < 1 and (target * (1 - told) == 0).all()


@pytest.mark.slow
def test_nearest_object(objects):
    for index in (0, 2):
        pixels = fitting.ViewPixels(views_of(objects, objects.model.latents_of([index])))
        assert fitting.nearest_object(objects.model, pixels) == index


@pytest.mark.slow
def test_object_between_trained_ones_is_found(objects):
    """Of an embedding that no object has: the fit sees it better than the nearest object by 6 dB."""
    model = objects.model
    rows = fitting.embeddings_of(model, np.arange(3))
    latents = model.run("latent_decoder", np.float32([[0.4, 0.2, 0.4]]) @ rows).reshape(1, -1, 8)
    views = views_of(objects, latents)
    found, fitted = objects.fitter.fit(views, steps=60)
    true = as_levels(views.rgb, views.mask)
    nearest, best = (agreement(seen_like(model, x[0], views), true)["psnr"]
                     for x in (model.latents_of([found.nearest]), fitted))
    assert best > nearest + 6, (nearest, best)


@pytest.mark.slow
def test_fit_that_is_stopped_is_what_there_is(objects):
    """No step at all: the nearest object."""
    latents = objects.model.latents_of([2])
    seen = []
    found, fitted = objects.fitter.fit(views_of(objects, latents), stopped=[1],
                                       progress=lambda stage, *numbers: seen.append((stage, *numbers[:2])))
    assert found.nearest == 2 and seen == [("nearest object", 3, 3)]
    np.testing.assert_allclose(fitted, latents, atol=1e-3)


@pytest.mark.slow
def test_fit_after_another_is_as_if_alone(tmp_path):
    """In real graphs, which keep the memory of the parameters that they first ran with."""
    objects = load_autodecoder(ckpt=write_weights(tmp_path / "small.safetensors"))
    first, second = (views_of(objects, objects.model.latents_of([k])) for k in (0, 2))
    objects.fitter.fit(first, steps=4)
    after, alone = (fitter.fit(second, steps=4) for fitter in (objects.fitter, fitting.Fitter(objects.model)))
    assert after[0].nearest == 2 and after[0].loss == alone[0].loss
    np.testing.assert_array_equal(after[1], alone[1])
