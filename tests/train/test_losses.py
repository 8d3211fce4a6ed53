"""The losses by hand and against the reference's weights, and the noise levels they are taken at."""
from statistics import NormalDist

import cv2
import numpy as np
import pytest
from mindspore import Tensor, nn
from support.goldens import TIGHT

from sgm.config.recipe import Recipe
from sgm.train.batches import DiffusionBatches
from sgm.train.losses import (
    AutoencoderLoss,
    DiffusionLoss,
    Stratified,
    edge_mismatch,
    frame_weights,
    lognormal_sigmas,
)


class Fixed(nn.Cell):
    """Yields one value, or what it is given."""

    def __init__(self, value=None):
        super().__init__()
        self.value = value

    def construct(self, x, frames=None):
        return x if self.value is None else self.value


def test_autoencoder_loss():
    """|error| + error^2 + weight * KL of the posterior, by hand; here the decoder yields the drawn latent itself."""
    rng = np.random.RandomState(0)
    mean, log_variance, noise, image = (rng.randn(2, 3, 4, 4).astype(np.float32) for _ in range(4))
    moments = Tensor(np.concatenate([mean, log_variance], 1))
    loss = AutoencoderLoss(Fixed(moments), Fixed(), 0.1)(Tensor(image), Tensor(noise))
    error = mean + np.exp(log_variance / 2) * noise - image
    kl = (mean ** 2 + np.exp(log_variance) - 1 - log_variance).mean() / 2
    assert float(loss.asnumpy()) == pytest.approx(np.abs(error).mean() + (error ** 2).mean() + 0.1 * kl, rel=1e-5)


def contrast(image, octave):
    """The root mean squares of an octave in squares of 8 pixels, of images (N, 3, H, W), by hand."""
    coarse, fine = (cv2.resize(image, None, fx=1 / k, fy=1 / k, interpolation=cv2.INTER_AREA).repeat(k, 0).repeat(k, 1)
                    for k in (2 ** octave, 2 ** (octave - 1)))
    mean = cv2.resize((fine - coarse) ** 2, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    return np.sqrt(mean + 1e-4)


def test_edge_mismatch():
    """The difference in contrast by hand; none between a texture and the same one that lies elsewhere."""
    rng = np.random.RandomState(0)
    first, second = (rng.randn(16, 24, 3).astype(np.float32) for _ in range(2))
    wanted = sum(np.abs(contrast(first, octave) - contrast(second, octave)).mean() for octave in (1, 2))

    def found(a, b):
        return float(edge_mismatch(*(Tensor(x.transpose(2, 0, 1)[None]) for x in (a, b))).asnumpy())

    assert found(first, second) == pytest.approx(wanted, rel=1e-5)
    assert found(first, first[::-1, ::-1]) > 0.1
    blocks = first.reshape(2, 8, 3, 8, 3)
    assert found(first, blocks[:, ::-1, :, ::-1].reshape(first.shape)) < 1e-6


# --- clips that lack frames -------------------------------------------------------------------------------------------

class Places(nn.Cell):
    """A denoiser whose error is the place in time that it was told, of a frame of F = clips x T."""

    def prepare(self, crossattn, num_frames):
        self.told = num_frames
        return Tensor(np.arange(crossattn.shape[0], dtype=np.float32)[:, None])

    def construct(self, x, sigma, prepared, concat, vector, image_only, num_frames):
        self.frames = num_frames
        return x - sigma.reshape(-1, 1, 1, 1) * self.noise + prepared.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("front", [1.0, 0.5])
def test_frames_keep_their_place(front):
    """Two clips of four frames, of which two and two are seen: what each is told and weighs is that of its place."""
    rng, rows = np.random.RandomState(0), np.int32([1, 3, 4 + 0, 4 + 3])
    x0, noise = (rng.randn(4, 2, 3, 3).astype(np.float32) for _ in range(2))
    sigma = np.float32([2, 2, 0.5, 0.5])
    denoiser = Places()
    denoiser.noise = Tensor(noise)
    weights = frame_weights(4, front)
    objective = DiffusionLoss(denoiser, 4, weights=None if front == 1 else weights)
    empty = np.zeros((4, 1), np.float32)
    given = *map(Tensor, (x0, noise, sigma, np.zeros((8, 1, 5), np.float32), empty, empty)), Tensor(rows)
    wanted = rows.astype(np.float64) ** 2 * (1 + 1 / sigma.astype(np.float64) ** 2)
    np.testing.assert_allclose(objective.per_frame(*given).asnumpy(), wanted, rtol=1e-5)
    assert (denoiser.told, denoiser.frames) == (4, 2)
    np.testing.assert_allclose(objective(*given).asnumpy(), (wanted * weights[rows % 4]).mean(), rtol=1e-5)


# --- noise levels -----------------------------------------------------------------------------------------------------

def quantiles(numbers):
    """The normal CDF of an array's numbers."""
    return np.vectorize(NormalDist().cdf)(numbers)


class Known:
    """A generator with known offsets and one order."""

    def __init__(self, offsets, order):
        self.offsets, self.order = offsets, order

    def integers(self, most, size):
        assert size == len(self.offsets)
        return (np.array(self.offsets) * most).astype(np.int64)

    def permutation(self, count):
        assert count == len(self.order)
        return np.array(self.order)


def test_levels_lie_in_strata():
    """The inverse normal CDF of (i + u) / n: 0.6745, 1.2816 and 0.2533 are its values at 0.75, 0.9 and 0.6."""
    found = Stratified(Known([0.5, 0.5], [1, 0])).standard_normal(2)
    np.testing.assert_allclose(found, [0.6744897502, -0.6744897502], atol=1e-8)
    found = Stratified(Known([0.5, 0.5, 0.5, 0.5, 0], [4, 2, 0, 1, 3])).standard_normal(5)
    np.testing.assert_allclose(found, [1.2815515655, 0, -1.2815515655, -0.5244005127, 0.2533471031], atol=1e-8)
    assert np.isfinite(Stratified(Known([0], [0])).standard_normal(1)).all()       # u = 0 is no number's quantile
    levels = lognormal_sigmas(Stratified(Known([0.5, 0.5], [1, 0])), 2, 3, 1.0, 1.6)
    np.testing.assert_allclose(levels, np.exp(1 + 1.6 * np.repeat([0.6744897502, -0.6744897502], 3)), rtol=1e-6)


def test_levels_have_the_distribution_of_independent_ones_and_steadier_means():
    draws = np.stack([Stratified(np.random.default_rng(seed)).standard_normal(6) for seed in range(3000)])
    found = quantiles(draws)
    for ours in np.sort(found, 0).T:            # wherever in the batch a clip stands: Kolmogorov's test
        assert np.abs(ours - np.arange(3000) / 3000).max() < 1.95 / np.sqrt(3000)
    strata = np.sort(np.floor(6 * found), 1)
    assert (strata == np.arange(6)).all()
    assert draws.mean(1).std() < 0.35 / np.sqrt(6)                              # of independent ones 1 / sqrt(6)


class Clips:
    """A source of five clips of three frames, no latents of which matter."""
    num_frames = 3

    def __len__(self):
        return 5

    def batch(self, rng, indices, drop, roam, frames):
        shape = len(indices) * (frames or 3), 1, 2, 2
        return np.zeros(shape, np.float32), "token", "latent", "vector"


@pytest.mark.parametrize("frames", [0, 2])
def test_a_step_is_one_set_of_strata(frames):
    """However it is divided: into batches at once, accumulated ones, or processes'. And each step draws anew."""
    def levels(batch, together, step):
        batches = DiffusionBatches(Recipe(seed=3, batch=batch, p_mean=0.0, p_std=1.0, frames=frames), Clips(), together)
        each = [batches(step * together + k)[2].reshape(batch, -1) for k in range(together)]
        assert all((level == level[:, :1]).all() and level.shape[1] == (frames or 3) for level in each)     # one per clip
        return np.concatenate(each)[:, 0]
    for step in range(3):
        whole = levels(6, 1, step)
        assert (np.sort(np.floor(6 * quantiles(np.log(whole)))) == np.arange(6)).all()
        for batch, together in ((1, 6), (2, 3), (3, 2)):
            np.testing.assert_array_equal(levels(batch, together, step), whole)
    assert (levels(6, 1, 0) != levels(6, 1, 1)).all()


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
