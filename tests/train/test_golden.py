"""A training step against the reference: loss of each frame, gradients, AdamW."""
import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors import safe_open
from support.goldens import GOLDEN

from sgm.diffusion.denoiser import Denoiser
from sgm.train.losses import DiffusionLoss
from sgm.train.optimizer import TrainStep

NOISE = 1e-7        # a golden gradient whose RMS is below this is rounding noise: one of a layer that has no effect


def batch_of(golden, mode):
    names = "in/x0", "in/noise", f"in/{mode}/sigmas", "in/crossattn", "in/concat", "in/vector"
    return [Tensor(golden[name]) for name in names]


@pytest.fixture(scope="module")
def names():
    """Of the golden's parameters, in its order."""
    with safe_open(GOLDEN / "train_sv3d_p.safetensors", "np") as file:
        return json.loads(file.metadata()["param_names"])


@pytest.fixture(scope="module")
def perframe(golden, tiny_engine, names):
    """Pynative, with the reference's one noise level per frame: loss of each frame, loss, {name: gradient}."""
    denoiser = tiny_engine("sv3d_p").model
    parameters = {name.removeprefix("model.diffusion_model."): parameter
                  for name, parameter in denoiser.parameters_dict().items()}
    assert set(parameters) == set(names)
    objective = DiffusionLoss(denoiser, 5)

    def loss(*batch):
        each = objective.per_frame(*batch)
        return each.mean(), each

    differentiate = ms.value_and_grad(loss, None, ms.ParameterTuple([parameters[name] for name in names]), has_aux=True)
    (mean, each), gradients = differentiate(*batch_of(golden("train_sv3d_p"), "perframe"))
    return {"each": each, "loss": mean, "gradients": {name: g.asnumpy() for name, g in zip(names, gradients)}}


@pytest.fixture(scope="module", params=["pynative", pytest.param("compiled", marks=pytest.mark.slow)])
def shared(request, golden, tiny_spec, filled, names):
    """A TrainStep, one noise level per clip: torch.optim.AdamW with its defaults and no clipping.

    Loss, {name: gradient}, {name: weight} before and after the step, and the loss after it.
    """
    denoiser = filled(Denoiser(tiny_spec("sv3d_p").unet, 1280), "model.")
    parameters = {}
    for name, parameter in denoiser.parameters_and_names():
        parameter.name = name
        parameters[name.removeprefix("diffusion_model.")] = parameter
    step = TrainStep(DiffusionLoss(denoiser, 5), [parameters[name] for name in names])
    run, batch = step.construct, batch_of(golden("train_sv3d_p"), "shared")
    if request.param == "compiled":
        run = ms.jit(run)

    def weights():
        return {name: parameters[name].asnumpy().copy() for name in names}

    found = {"before": weights()}
    found["loss"], _ = run(step.rates(1, 1e-3, 0.0), *batch)
    # The first moment, which was zero, has taken a tenth of the gradient.
    found["gradients"] = {name: moment.asnumpy() / 0.1 for name, moment in zip(names, step.m)}
    found["after"] = weights()
    found["loss_after"], _ = run(step.rates(2, 0.0, 0.0), *batch)
    return found


def test_loss_of_each_frame(golden, tiny_engine, perframe, agree):
    """Pynative."""
    g = golden("train_sv3d_p")
    each = DiffusionLoss(tiny_engine("sv3d_p").model, 5).per_frame(*batch_of(g, "shared"))
    for mode, result in (("shared", each), ("perframe", perframe["each"])):
        agree(f"train_sv3d_p {mode}/loss_per_sample", result, g[f"out/{mode}/loss_per_sample"])
        agree(f"train_sv3d_p {mode}/loss, pynative", result.mean(), g[f"out/{mode}/loss"])


def noisy(golden, mode, gradients):
    """Names of the parameters whose golden gradient is rounding noise."""
    sizes = np.sqrt([gradient.size for gradient in gradients.values()])
    return {name for name, rms in zip(gradients, golden[f"out/{mode}/grad_norms"] / sizes) if rms < NOISE}


def test_gradients(shared, golden, agree):
    check_gradients("shared", shared, golden("train_sv3d_p"), agree)


def test_gradients_of_a_level_per_frame(perframe, golden, agree):
    check_gradients("perframe", perframe, golden("train_sv3d_p"), agree)


def check_gradients(mode, found, g, agree):
    gradients, prefix = found["gradients"], f"out/{mode}/grad/"
    agree(f"train_sv3d_p {mode}/loss, with gradients", found["loss"], g[f"out/{mode}/loss"])
    noise = noisy(g, mode, gradients)
    # Queries, keys and their norm have no effect on attention to one token; nor a bias before a norm of one channel.
    assert {name for name in gradients if ".attn2.to_q" in name or ".attn2.to_k" in name or ".norm2." in name} < noise
    assert len(noise) < 0.12 * len(gradients)
    for (name, gradient), wanted in zip(gradients.items(), g[f"out/{mode}/grad_norms"]):
        if name in noise:
            assert np.sqrt((gradient ** 2).mean()) < 1e-6, name
        else:
            agree(f"train_sv3d_p {mode}/grad_norms", np.linalg.norm(gradient.astype(np.float64)), wanted, 1e-3)
            if prefix + name in g:
                agree(f"train_sv3d_p {mode}/grad/*", gradient, g[prefix + name], 1e-3)


def test_optimiser_step(golden, shared, agree):
    """The change of every weight; the first step of AdamW goes by the gradient's sign, which noise has none of."""
    g, before, after, prefix = golden("train_sv3d_p"), shared["before"], shared["after"], "out/adamw/param/"
    noise = noisy(g, "shared", shared["gradients"])
    for name, wanted in zip(before, g["out/adamw/delta_norms"]):
        if name not in noise:
            delta = after[name].astype(np.float64) - before[name]
            agree("train_sv3d_p adamw/delta_norms", np.linalg.norm(delta), wanted, 1e-3)
            if prefix + name in g:
                agree("train_sv3d_p adamw/param/*", after[name], g[prefix + name])
                agree("train_sv3d_p adamw/param/*, its change", delta, g[prefix + name] - before[name], 1e-3)
    agree("train_sv3d_p adamw/loss_after", shared["loss_after"], g["out/adamw/loss_after"])
