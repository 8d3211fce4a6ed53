"""An image tower that was never trained, made to tell images apart."""
from types import SimpleNamespace

import numpy as np
from support.goldens import PACKAGED
from support.training import POSED

from sgm.common.errors import InputError
from sgm.config.model_files import load_spec
from sgm.diffusion.engine import Engine
from sgm.models.initialization import initialize
from sgm.train.clip_whitening import whiten, whiten_image_tokens
from sgm.train.data.examples import Encoders


def test_whitening_by_hand():
    """Four points: variance 4 along (3, 4) / 5, variance 1 across; with a floor of 0.2 times 5, 4 / 5 and 1 / 2 are left."""
    along, across = np.array([3, 4]) / 5, np.array([-4, 3]) / 5
    tokens = np.array([7, -2]) + np.outer([2, 2, -2, -2], along) + np.outer([1, -1, 1, -1], across)
    mean, axes = whiten(tokens, floor=0.2)
    np.testing.assert_allclose(mean, [7, -2])
    found = (tokens - mean) @ axes
    np.testing.assert_allclose(found.T @ found / 4, np.diag([4 / 5, 1 / 2]), atol=1e-12)
    np.testing.assert_allclose(np.abs(found[:, 0]), 2 / 5 ** 0.5)
    assert not whiten(np.ones((3, 2)))[1].any()


def test_tokens_of_a_drawn_tower_tell_images_apart(pynative):
    engine = Engine(load_spec(PACKAGED / "tiny_sv3d_p.yaml", POSED))
    initialize(engine, 0)
    images = np.random.default_rng(0).uniform(-1, 1, (40, 1, 3, 4, 4)).astype(np.float32)
    images = images.repeat(8, -1).repeat(8, -2)
    clips = [SimpleNamespace(angles=None, frames=lambda views, image=image: image[views]) for image in images]

    def tokens():
        return Encoders(engine, 1).tokens(images[:, 0])[:, 0]

    before = tokens()
    assert before.std(0).mean() < 0.2 * np.sqrt((before ** 2).mean())        # nearly the same for all
    clips.insert(3, SimpleNamespace(angles=None, frames=broken))
    whiten_image_tokens(engine, clips)
    after = tokens()
    np.testing.assert_allclose(after.mean(0), 0, atol=1e-3)
    covariance = after.T @ after / len(after)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=2e-3)
    assert 0.9 < covariance[0, 0] <= 1 and (np.diff(np.diag(covariance)) < 1e-3).all()


def broken(views):
    raise InputError("x: cannot be read")
