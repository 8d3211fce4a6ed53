"""Batches of stage 1: what a pixel of the target shows is what its ray meets, whoever shares cameras."""
from types import SimpleNamespace

import numpy as np
import pytest
from support.small_autodecoder import CHANGES, VIEWS, write_objects

from sgm.autodecoder.embeddings import Table
from sgm.config.autodecoding import load_autodecoder_spec
from sgm.config.recipe import Recipe
from sgm.train.objects.object_batches import LatentBatches, ViewSquares
from sgm.train.objects.object_building import training_views
from sgm.views.cameras import DISTANCE, FOV_DEG, camera_to_world, focal_length, project


@pytest.fixture(params=[True, False], ids=["shared", "own"])
def views(request, tmp_path):
    folder = write_objects(tmp_path / "balls", side=32, shared=request.param)
    found = training_views(load_autodecoder_spec("autodecoder_small", CHANGES), Recipe(data=[str(folder)]))
    assert found.shared == request.param
    return found


def squares(views, still=False, **changes):
    recipe = Recipe(task="autodecoder", **{"batch": 2, "views": 3, "crop": 8, "seed": 5, **changes})
    model = SimpleNamespace(spec=SimpleNamespace(samples=4), embeddings=Table(3, 4), cameras=object())
    return ViewSquares(recipe, model, views, views.split(2)[0], still)


def test_views_are_shrunk_premultiplied(views):
    found = views.pictures(1, [2, 0])
    rgba = np.float64(views.packed[1].arrays["clips"][1][[2, 0]]) / 255
    blocks = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1).reshape(2, 16, 2, 16, 2, 4).mean((2, 4))
    np.testing.assert_allclose(found, blocks.transpose(0, 3, 1, 2), atol=1e-6)
    assert (found[:, :3] <= found[:, 3:] + 1e-6).all()


def test_rays_belong_to_their_pixels(views):
    """Each ray, followed to the middle of the scene, is seen by its camera at the pixel whose color is the target."""
    batches = squares(views)
    rows, origins, directions, jitter, target, cameras = batches(7)
    groups = 1 if views.shared else 2
    assert origins.shape == directions.shape == (3, groups * 3 * 64) and jitter.shape == (4, groups * 3 * 64)
    assert target.shape == (6, 4, 8, 8) and cameras.shape == (groups * 3,) and rows.tolist() == batches.clip_indices(7)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-6)
    for camera, o, d in zip(range(len(cameras)), np.split(origins, groups * 3, 1), np.split(directions, groups * 3, 1)):
        group, view = divmod(cameras[camera], VIEWS) if not views.shared else (rows[0], cameras[camera])
        azimuth, elevation = views.angles[group][view]
        pose = camera_to_world(azimuth, elevation, DISTANCE)
        pixels, depth = project((o + 2 * d).T, pose, focal_length(16, FOV_DEG), 8, 8)
        assert (depth > 1.5).all()
        place = np.floor(pixels).astype(int).reshape(8, 8, 2)
        np.testing.assert_allclose(pixels.reshape(8, 8, 2) - place, 0.5, atol=1e-3)
        shown = [camera + 3 * k for k in range(2)] if views.shared else [camera]
        for row in shown:
            whole = views.pictures(rows[row // 3], [view])[0]
            assert (target[row] == whole[:, place[..., 1], place[..., 0]]).all()


def test_batches_follow_from_their_number(views):
    first, again, other = squares(views)(3), squares(views)(3), squares(views)(4)
    assert all((a == b).all() for a, b in zip(first, again)) and not (first[3] == other[3]).all()
    still = squares(views, still=True)(3)
    assert (still[3] == 0.5).all()


def test_held_out_views(views):
    trained, held = views.split(3)
    assert held.tolist() == [0, 3] and trained.tolist() == [1, 2, 4, 5] and views.split(0)[1].tolist() == []


def test_batches_of_latents():
    latents = np.random.default_rng(0).standard_normal((5, 512, 4)).astype(np.float32)
    batches = LatentBatches(Recipe(task="latent_diffusion", batch=3, p_mean=-1.2, p_std=1.2), latents)
    x, noise, sigma = batches(2)
    assert (x.reshape(3, 512, 4) == latents[batches.clip_indices(2)]).all() and noise.shape == x.shape and sigma.shape == (3,)
    levels = np.log(np.concatenate([batches(number)[2] for number in range(200)]))
    assert abs(levels.mean() + 1.2) < 0.05 and abs(levels.std() - 1.2) < 0.08
