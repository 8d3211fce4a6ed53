"""Batches of a feed-forward network's training: what a pixel shows is what its ray meets, in the world of the input."""
import numpy as np
import pytest
from support.small_lrm import CENTERS, CHANGES, RADIUS, hits, write_balls

from sgm.common.errors import InputError
from sgm.config.lrm import load_lrm_spec
from sgm.config.recipe import Recipe
from sgm.feedforward.rays import SV3D_INTRINSICS, pixel_rays, upright_cameras
from sgm.train.feedforward.feedforward_batches import BACKGROUNDS, ViewsOfInputs
from sgm.train.objects.masked_views import MaskedViews


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return MaskedViews([str(write_balls(tmp_path_factory.mktemp("data") / "balls"))])


def batches(clips, still=False, **changes):
    recipe = Recipe(task="feedforward", **{"batch": 2, "views": 3, "crop": 8, "stages": [16, 32], "samples": 16, "seed": 5,
                                           "steps": 100, "recentered": 0.0, "perceptual_from": 0.33, **changes})
    trained, held = clips.split(3)
    return ViewsOfInputs(recipe, load_lrm_spec("lrm_small", CHANGES), clips, trained, held if still else trained, still=still)


@pytest.mark.parametrize("number", [3, 80])
def test_rays_meet_what_their_pixels_show(clips, number):
    """The ball of an object, turned by its input's azimuth and twice as large, covers the pixels that are opaque."""
    made = batches(clips)
    image, camera, target, background, share, origins, directions, near, far, jitter, uniform = made(number)
    assert image.shape == (2, 3, 16, 16) and target.shape == (6, 4, 8, 8) and background.shape == (6, 1, 1, 1)
    assert origins.shape == (6 * 64, 3) and near.shape == (6 * 64, 1) and jitter.shape == uniform.shape == (6 * 64, 8)
    size, _ = made.stage(number)
    assert size == (16 if number < 50 else 32) and share == (number >= 33)      # `perceptual_from` is 0.33 of 100 steps
    for k, index in enumerate(made.clip_indices(number)):
        # which view was the input is told by the camera: elevations differ
        elevation = np.degrees(np.arcsin(camera[k, 11] / 4))
        source = np.abs(clips.angles[index][:, 1] - elevation).argmin()
        turn = np.radians(-clips.angles[index][source][0])
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        part = slice(3 * k * 64, 3 * (k + 1) * 64)
        center, opaque = 2 * rotation @ CENTERS[index], target[3 * k:3 * k + 3, 3].reshape(-1)
        larger, smaller = (hits(origins[part], directions[part], center, 2 * r) for r in (RADIUS + 0.06, RADIUS - 0.06))
        assert larger[opaque > 0].all() and (opaque[smaller] == 1).all() and 0 < opaque.mean() < 1
        assert (near[part] < far[part]).all()


def test_input_is_a_view_that_is_trained_on(clips):
    """As it was rendered, on white, and told the camera it was rendered with, give or take the noise."""
    trained, _ = clips.split(3)
    for number in range(6):
        images, cameras, *_ = batches(clips)(number)
        for image, camera, index in zip(images, cameras, batches(clips).clip_indices(number)):
            pictures = clips.pictures(index, trained, 16)
            errors = [np.abs(image - (view[:3] + 1 - view[3:])).max() for view in pictures]
            view = trained[int(np.argmin(errors))]
            exact = upright_cameras([clips.angles[index][view][1]])[0]
            assert min(errors) < 1e-6 and 0.001 < np.abs(camera - exact).max() <= 0.02 + 1e-6
            assert set(np.round(batches(clips)(number)[3].reshape(-1), 3)) <= set(BACKGROUNDS)
    recentered = batches(clips, recentered=1.0)(1)[0]
    covered = (recentered.min(1) < 0.9)
    assert all(0.6 < covered[k].any(axis).mean() <= 1 for k in range(2) for axis in (0, 1))


def test_recentered_inputs_are_told_their_intrinsics(clips):
    """The ball, seen by the camera that the network is told, covers what it covers in the input."""
    made = batches(clips, recentered=1.0, camera_noise=0.0)
    for number in range(3):
        images, cameras, *_ = made(number)
        for image, camera, index in zip(images, cameras, made.clip_indices(number)):
            elevation = np.degrees(np.arcsin(camera[11] / 4))
            turn = np.radians(-clips.angles[index][np.abs(clips.angles[index][:, 1] - elevation).argmin()][0])
            rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
            rays = pixel_rays(camera[None, :12].reshape(1, 3, 4), camera[12:], 16, 16)
            center, covered = 2 * rotation @ CENTERS[index], image.min(0).reshape(-1)
            larger, smaller = (hits(*rays, center, 2 * r) for r in (RADIUS + 0.06, RADIUS - 0.06))
            assert covered[smaller].max() < 0.5 < 0.9 < covered[~larger].min() and smaller.mean() > 0.2
            assert abs(camera[12] / SV3D_INTRINSICS[0] - 1) > 0.02 or abs(camera[14] - 0.5) > 0.02


def test_some_squares_are_anywhere(clips):
    """Three in four have their middle in the object's box, the others in the whole view."""
    made, opacity = batches(clips), np.zeros((32, 32))
    opacity[4:6, 4:6] = 1
    corners = np.array([made.place(np.random.default_rng(k), opacity) for k in range(400)])
    far = (corners > 4).any(1).mean()
    assert 0.15 < far < 0.3


def test_batches_follow_from_their_number(clips):
    first, again, other = batches(clips)(3), batches(clips)(3), batches(clips)(4)
    assert all((a == b).all() for a, b in zip(first, again)) and not (first[9] == other[9]).all()
    still = batches(clips, still=True)(3)
    assert (still[9] == 0.5).all() and (still[3] == 1).all() and still[4] == 1
    exact = upright_cameras(clips.angles[:, 5][:, 1])
    assert (still[1] == exact[batches(clips).clip_indices(3)]).all()
    assert batches(clips, perceptual_from=0.5)(49)[4] == 0 and batches(clips, perceptual_from=0.5)(50)[4] == 1


@pytest.mark.parametrize("changes, said", [
    ({"crop": 10}, "crop: found 10, expected a multiple of 4 up to 16"), ({"lpips": ["a", "b"]}, "crop: found 8, expected a multiple of 16"), ({"crop": 20}, "up to 16, the smallest of stages"),
    ({"stages": [24]}, "stages: found 24, expected a divisor of 32"), ({"views": 5}, "views: found 5, expected at most 4")])
def test_what_does_not_fit(clips, changes, said):
    with pytest.raises(InputError, match=said):
        batches(clips, **changes)
