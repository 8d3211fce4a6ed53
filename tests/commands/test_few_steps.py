"""benchmarks/few_steps.py: its denoiser against an integral, and what `--preset few-steps` is chosen for."""
import few_steps
import numpy as np
import pytest

from sgm.config.model import PRESETS, SamplingSpec
from sgm.config.model_files import load_spec


def test_mixture_against_integral():
    """E[clean | x] of two centers in one dimension, summed over a fine line of clean values."""
    data = few_steps.Mixture(dimensions=1, centers=2, conditional=1, deviation=0.3)
    x, clean = np.array([[-1.0], [0.2], [2.0]]), np.linspace(-8, 8, 40001)
    density = np.exp(-(clean - data.centers) ** 2 / (2 * 0.3 ** 2)).sum(0)
    for sigma in (0.1, 1.0, 5.0):
        weight = density * np.exp(-(x - clean) ** 2 / (2 * sigma ** 2))
        wanted = (weight * clean).sum(1) / weight.sum(1)
        np.testing.assert_allclose(data.estimate(x, sigma, data.centers)[:, 0], wanted, rtol=1e-9)


@pytest.mark.parametrize("deviation, scale", [(0.1, 2.5), (0.3, 1.75)])
def test_preset_is_as_near_as_euler(deviation, scale):
    """In 12 calls, on mixtures of two widths and guidances; without its noise levels it is not."""
    data, spec = few_steps.Mixture(deviation=deviation, seed=23), SamplingSpec()
    denoise = data.denoiser(scale)
    wanted = few_steps.solved("heun", denoise, data.noise, 300, spec)

    def distance(name, steps, spec):
        return few_steps.distance(few_steps.solved(name, denoise, data.noise, steps, spec), wanted)

    aim = distance("euler", 50, spec)
    assert distance("dpmpp2m", 12, few_steps.with_preset(spec)) < 0.85 * aim
    assert distance("dpmpp2m", 12, spec) > 1.5 * aim


def test_preset_is_a_configuration():
    sampling = load_spec("sv3d_p", PRESETS["few-steps"]).sampling
    assert (sampling.sampler, sampling.steps, sampling.sigma_second) == ("dpmpp2m", 12, 20)


def test_fewest_calls():
    """The first count from which on all are as near as Euler with 50 steps."""
    distances = {"euler": [3.0, 2.0, 1.0], "late": [9.0, 0.9, 0.8], "swinging": [0.5, 2.0, 0.1]}
    assert few_steps.fewest({"calls": [5, 15, 50], "distances": distances}) == ("late", 15)
