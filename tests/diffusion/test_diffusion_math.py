"""Noise levels, preconditioning, guidance and loss weights against the reference's numbers."""
import numpy as np
import pytest
from mindspore import Tensor, nn

from sgm.diffusion.denoiser import scalings
from sgm.diffusion.guidance import guide, scales
from sgm.diffusion.samplers import karras_sigmas
from sgm.train.losses import DiffusionLoss, lognormal_sigmas

TIGHT = dict(rtol=5e-6, atol=1e-7)      # of every element: the values span six decades


@pytest.fixture(scope="module")
def math(golden):
    return golden("diffusion_math")


@pytest.mark.parametrize("sigma_max", [80, 700])
@pytest.mark.parametrize("steps", [10, 25, 30, 50])
def test_noise_levels(steps, sigma_max, math):
    ours, theirs = karras_sigmas(steps, sigma_max=sigma_max), math[f"out/sigmas_{steps}_max{sigma_max}"]
    np.testing.assert_allclose(ours, theirs, **TIGHT)
    assert len(ours) == steps + 1 and ours[-1] == 0 and ours[0] == pytest.approx(sigma_max, rel=1e-12)


def test_noise_levels_follow_their_formula():
    """Equal steps of sigma^(1/rho)."""
    roots = karras_sigmas(7, 0.1, 9, rho=3)[:-1] ** (1 / 3)
    np.testing.assert_allclose(np.diff(roots), (0.1 ** (1 / 3) - 9 ** (1 / 3)) / 6)


def test_scalings(math):
    results = scalings(Tensor(math["in/sigma"]))
    for name, ours in zip(("c_skip", "c_out", "c_in", "c_noise"), results):
        np.testing.assert_allclose(ours.asnumpy(), math[f"out/{name}"], **TIGHT, err_msg=name)


@pytest.mark.parametrize("frames", [5, 14, 21, 25])
@pytest.mark.parametrize("name, kind, low, high", [
    ("linear_2.5", "linear", 1, 2.5), ("linear_1.5_3.0", "linear", 1.5, 3), ("triangle_2.5", "triangle", 1, 2.5)])
def test_guidance_scales(name, kind, low, high, frames, math):
    ours = scales(kind, low, high, frames)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, math[f"out/{name}_{frames}"][0], **TIGHT)


def test_trapezoid_and_constant_by_hand():
    ramp = [1, 1.5, 2]
    np.testing.assert_allclose(scales("trapezoid", 1, 2, 30), ramp + [2] * 24 + ramp[::-1])
    np.testing.assert_allclose(scales("trapezoid", 1, 2, 9), [2] * 9)      # too short for an edge
    np.testing.assert_allclose(scales("constant", 1, 4, 3), [4, 4, 4])
    with pytest.raises(ValueError, match="guidance: found 'square', expected one of linear, triangle"):
        scales("square", 1, 2, 5)


@pytest.mark.parametrize("name, kind, low, high", [
    ("linear", "linear", 1, 2.5), ("triangle", "triangle", 1, 2.5), ("vanilla_4", "constant", 1, 4)])
def test_guided(name, kind, low, high, math, agree):
    """The batch holds the unconditional frames first."""
    both = Tensor(math["in/guider_x"])
    scale = Tensor(scales(kind, low, high, 21).reshape(-1, 1, 1, 1))
    agree(f"diffusion_math guided_{name}", guide(both[:21], both[21:], scale), math[f"out/guided_{name}"], 1e-6)


class OffByOne(nn.Cell):
    """A denoiser whose every estimate is wrong by one; records what it was given."""

    def __init__(self, clean):
        super().__init__()
        self.clean = clean

    def prepare(self, crossattn, num_frames):
        return crossattn

    def construct(self, x, sigma, prepared, concat, vector, image_only, num_frames):
        self.noisy = x.asnumpy()
        return self.clean + 1.0


def test_loss_weights(math):
    """An error of one everywhere leaves the weight: 1 + 1 / sigma^2. The noisy latents are x0 + sigma noise."""
    sigma = math["in/sigma"]
    clean, noise = (np.random.RandomState(k).randn(len(sigma), 4, 2, 2).astype(np.float32) for k in range(2))
    empty = Tensor(np.zeros((len(sigma), 1), np.float32))
    stub = OffByOne(Tensor(clean))
    objective = DiffusionLoss(stub, len(sigma))
    given = Tensor(clean), Tensor(noise), Tensor(sigma), empty, empty, empty
    np.testing.assert_allclose(objective.per_frame(*given).asnumpy(), math["out/w_v"], rtol=2e-5)
    np.testing.assert_allclose(objective(*given).asnumpy(), math["out/w_v"].mean(), rtol=2e-5)
    np.testing.assert_allclose(stub.noisy, clean + sigma.reshape(-1, 1, 1, 1) * noise, rtol=1e-5)


class Replay:
    """A generator whose normal numbers are known."""

    def __init__(self, values):
        self.values = values

    def standard_normal(self, count):
        assert count == len(self.values)
        return self.values


@pytest.mark.parametrize("name, mean, std", [("0.7_1.6", 0.7, 1.6), ("1.0_1.6", 1.0, 1.6), ("default", -1.2, 1.2)])
def test_training_noise_levels(name, mean, std, math):
    """exp(mean + std n), and the same for all frames of a clip."""
    rand = math["in/sigma_rand"]
    np.testing.assert_allclose(
        lognormal_sigmas(Replay(rand), len(rand), 1, mean, std), math[f"out/edm_sigma_{name}"], **TIGHT)
    clips = lognormal_sigmas(Replay(rand), len(rand), 3, mean, std)
    assert clips.dtype == np.float32
    np.testing.assert_allclose(clips.reshape(-1, 3), np.repeat(math[f"out/edm_sigma_{name}"][:, None], 3, 1), **TIGHT)


@pytest.mark.parametrize("mode, frames", [("shared", 5), ("perframe", 1)])
def test_noise_levels_of_the_golden_training(mode, frames, golden):
    """One per clip of five frames is what the golden calls shared."""
    g = golden("train_sv3d_p")
    rand = g[f"in/{mode}/rand"][::frames]
    ours = lognormal_sigmas(Replay(rand), len(rand), frames, 1.0, 1.6)
    np.testing.assert_allclose(ours, g[f"in/{mode}/sigmas"], **TIGHT)
