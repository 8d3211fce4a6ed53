"""EDM against numbers of NVlabs/edm, and samplers against a Gaussian whose denoiser is known exactly."""
import json

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, value_and_grad
from mindspore import ops as P
from safetensors import safe_open
from support.goldens import golden_file

from sgm.autodecoder.latents.edm import DenoisingLoss, Preconditioned, coefficients
from sgm.diffusion.samplers import Churn, heun, karras_sigmas


@pytest.fixture(scope="module")
def edm(golden):
    return golden("edm")


@pytest.fixture(scope="module")
def settings():
    with safe_open(golden_file("edm.safetensors"), "np") as file:
        return {name: json.loads(text) for name, text in file.metadata().items() if text.startswith("{")}


class Toy(nn.Cell):
    """The golden's network: theta2 tanh(theta0 x + theta1 c) + theta3 x."""

    def __init__(self, theta):
        super().__init__()
        self.theta = Parameter(Tensor(theta), name="theta")

    def construct(self, x, noise):
        shape = (-1,) + (1,) * (x.ndim - 1)
        inner = self.theta[0] * x + self.theta[1] * noise.reshape(shape)
        # MindSpore's tanh is off by 1e-4 on a CPU
        return self.theta[2] * (2 * P.sigmoid(2 * inner) - 1) + self.theta[3] * x


def denoiser(edm):
    return Preconditioned(Toy(edm["in/theta"]), 0.5)


def test_coefficients(edm, agree):
    found = coefficients(Tensor(edm["in/coef.sigma"].astype(np.float32)), 0.5)
    for name, value in zip(("c_skip", "c_out", "c_in", "c_noise"), found):
        agree(f"EDM {name}", value, edm[f"out/coef.{name}"], 1e-6)


def test_preconditioned_network(edm, agree):
    found = denoiser(edm)(Tensor(edm["in/precond.x"]), Tensor(edm["in/precond.sigma"]))
    agree("EDM D(x, sigma)", found, edm["out/precond.D"], 1e-5)


@pytest.mark.parametrize("name", ["default", "alt"])
def test_loss_and_gradient(name, edm, settings, agree):
    """Loss, its mean over the batch, and the gradient of the golden's sum over batch size."""
    wanted = settings[f"loss.{name}"]
    sigma = np.exp(edm["in/loss.rnd_normal"].reshape(-1) * wanted["P_std"] + wanted["P_mean"]).astype(np.float32)
    agree(f"EDM sigma, {name}", sigma, edm[f"out/loss.{name}.sigma"].reshape(-1), 1e-6)
    loss = DenoisingLoss(denoiser(edm))
    x, noise = (Tensor(edm[f"in/loss.{part}"]) for part in ("images", "noise"))
    each = edm[f"out/loss.{name}.loss"]
    agree(f"EDM loss, {name}", loss.per_item(x, noise, Tensor(sigma)), each.reshape(len(each), -1).mean(1), 1e-5)
    mean, gradients = value_and_grad(loss, None, loss.trainable_params())(x, noise, Tensor(sigma))
    agree(f"EDM mean, {name}", mean, edm[f"out/loss.{name}.mean"][0], 1e-5)
    size = each[0].size                         # ours is the mean of all numbers, the golden's gradient that of a sum
    agree(f"EDM gradient, {name}", gradients[0].asnumpy() * size, edm[f"out/loss.{name}.grad_theta"], 1e-4)


@pytest.mark.parametrize("steps, low, high, rho", [(10, 0.02, 40, 5), (18, 0.002, 80, 7), (32, 0.002, 80, 7),
                                                   (5, 0.002, 80, 7), (64, 0.002, 80, 7)])
def test_noise_levels(steps, low, high, rho, edm):
    np.testing.assert_allclose(karras_sigmas(steps, low, high, rho), edm[f"out/sigmas.n{steps}_min{low}_max{high}_rho{rho}"],
                               rtol=1e-12)


@pytest.mark.parametrize("name", ["heun", "heun_short", "churn", "churn_all"])
def test_sampler_trace(name, edm, settings):
    """float64, with the denoiser of a Gaussian: the noise level of every evaluation, and the end."""
    wanted, levels = settings[name], []
    mean, variance = edm["in/mu"], edm["in/std"] ** 2

    def denoise(x, sigma):
        levels.append(sigma)
        return (variance * x + sigma ** 2 * mean) / (variance + sigma ** 2)

    churn = None
    if "S_churn" in wanted:
        noise = edm[f"in/{name}.noise"].astype(np.float64)
        bounds = (wanted["S_min"], wanted["S_max"]) if "S_min" in wanted else (0, np.inf)
        churn = Churn(noise.__getitem__, wanted["S_churn"], *bounds, wanted["S_noise"])
    sigmas = karras_sigmas(wanted["num_steps"], wanted["sigma_min"], wanted["sigma_max"], wanted["rho"])
    *_, (_, x, _) = heun(denoise, edm["in/latents"].astype(np.float64) * sigmas[0], sigmas, churn)
    np.testing.assert_allclose(levels, edm[f"act/{name}.calls.sigma"], rtol=1e-12)
    np.testing.assert_allclose(x, edm[f"out/{name}.x"], atol=1e-11)


def test_network_and_sampler_together(edm, settings, agree):
    """The toy network, preconditioned, in float32, through the sampler."""
    wanted, network = settings["toy_precond_heun"], denoiser(edm)
    sigmas = karras_sigmas(wanted["num_steps"], wanted["sigma_min"], wanted["sigma_max"], wanted["rho"])

    def denoise(x, sigma):
        count = len(x)
        return network(Tensor(x.astype(np.float32)), Tensor(np.full(count, sigma, np.float32))).asnumpy()
    *_, (_, x, _) = heun(denoise, edm["in/latents"].astype(np.float64) * sigmas[0], sigmas)
    agree("EDM network and sampler", x, edm["out/toy_precond_heun.x"], 1e-4)


@pytest.mark.parametrize("amount", [0.0, 40.0])
def test_samples_of_a_gaussian_have_its_moments(amount):
    """Mean 0.3 and deviation 0.5 of 20 000 samples; deterministic ones end where the exact solution of the ODE does."""
    mean, std, count, steps = 0.3, 0.5, 20_000, 64
    rng = np.random.default_rng(0)
    sigmas = karras_sigmas(steps, 0.002, 80.0)
    start = rng.standard_normal(count) * sigmas[0]

    def denoise(x, sigma):
        return (std ** 2 * x + sigma ** 2 * mean) / (std ** 2 + sigma ** 2)
    churn = Churn(lambda i: rng.standard_normal(count), amount) if amount else None
    *_, (_, x, _) = heun(denoise, start, sigmas, churn)
    assert abs(x.mean() - mean) < 4 * std / count ** 0.5 + 0.01
    assert abs(x.std() - std) < 0.015
    if not amount:
        exact = mean + (start - mean) * std / np.hypot(std, sigmas[0])
        assert np.abs(x - exact).max() < 0.02
    else:           # what is added makes the end forget the start
        assert abs(np.corrcoef(x, start)[0, 1]) < 0.9
