"""The sampler with guidance on a denoiser that is known exactly, and the way between two seeds."""
import numpy as np
import pytest

from sgm.autodecoder.latents.latent_normalization import Normalization
from sgm.autodecoder.latents.sampling import Noise, between, sample
from sgm.autodecoder.object_model import VOXELS
from sgm.config.autodecoding import load_autodecoder_spec

DEVIATION = 0.5
CLASSES = ["diffusion.condition.kind=class", "diffusion.condition.labels=[low, high]"]


class Gaussian:
    """A model whose latents are normal: their mean is -1 or 3 by the class, and 0 without one."""

    def __init__(self, *changes):
        self.spec = load_autodecoder_spec("autodecoder_small", ["volume.channels=16", "volume.side=16", *changes])
        self.normalization, self.calls = Normalization(0.0, 1.0, 1.0, 8.0), []

    def run(self, name, x, sigma, *tokens):
        """The estimate E[x0 | x]: between the mean and x, by their variances."""
        assert name == "denoiser"
        self.calls.append(len(sigma))
        x = x.reshape(len(sigma), -1)
        mean = tokens[0] @ np.float32([[-1], [3]]) if tokens else 0
        level = sigma[:, None] ** 2
        return (x * DEVIATION ** 2 + mean * level) / (DEVIATION ** 2 + level)


@pytest.mark.parametrize("label, guidance, mean, sides", [
    (None, None, 0, 1), (0, 1.0, -1, 1), (1, 1.0, 3, 1), (1, 2.0, 6, 2), (0, 3.0, -3, 2)])
def test_guidance_moves_the_mean(label, guidance, mean, sides, agree):
    """Estimates are linear in the mean here, so that guidance g gives samples of mean g times the class's.

    Each is where the ODE leads exactly: what begins at sigma_max ends at the mean plus its share of the way there.
    """
    model = Gaussian(*CLASSES)
    token = None if label is None else np.eye(2)[label][None]
    latents = sample(model, [5, 6], steps=40, churn=0.0, condition=token, guidance=guidance)
    assert latents.shape == (2, VOXELS, 8) and set(model.calls) == {2 * sides}
    start = 80 * Noise(model, [5, 6]).draw()
    agree("guided samples", latents, mean + DEVIATION / np.hypot(DEVIATION, 80) * (start - mean), 2e-2)


def test_model_without_conditions_is_told_nothing():
    latents = sample(Gaussian(), [1], steps=40, churn=40.0)
    assert abs(latents.mean()) < 0.03 and abs(latents.std() / DEVIATION - 1) < 0.1


def test_between_two_seeds(agree):
    """Its ends are the seeds' own samples, what is between has the length of noise, steps are even."""
    model = Gaussian()
    noise = Noise(model, [1, 2]).draw()
    way = between(*noise, 5)
    agree("first seed", way[0], noise[0], 1e-6)
    agree("second seed", way[-1], noise[1], 1e-6)
    assert np.abs(np.linalg.norm(way.reshape(5, -1), axis=1) / (8 * VOXELS) ** 0.5 - 1).max() < 0.03
    apart = np.linalg.norm(np.diff(way.reshape(5, -1), axis=0), axis=1)
    assert np.ptp(apart) / apart[0] < 0.05
    agree("sample of an end", sample(model, [7], 4, 0.0, start=way[-1:]), sample(model, [2], 4, 0.0), 1e-5)
