"""Training against the reference: loss, gradients, AdamW; and the loop's own parts, down to a resumed run's last bit."""
import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from safetensors import safe_open

from golden_init import GOLDEN
from sgm.cameras import Orbit
from sgm.checkpoint import CheckpointError, open_checkpoint
from sgm.engine import Engine
from sgm.render.procedural import TRAIN_SEEDS, render_clip
from sgm.specs import load_spec
from sgm.train.data import LatentOrbits, PackedOrbits, shuffled
from sgm.train.init import initial_weight, initialise
from sgm.train.objective import AutoencoderLoss, DiffusionLoss, lognormal_sigmas
from sgm.train.recipe import Recipe
from sgm.train.step import TrainStep
from sgm.train.trainer import DiffusionBatches, Trainer, ViewBatches, learning_rate
from sgm.video.denoiser import Denoiser

NOISE = 1e-7        # a golden gradient whose RMS is below this is rounding noise: one of a layer that has no effect


# --- against the reference --------------------------------------------------------------------------------------

def batch_of(golden, mode):
    names = "in/x0", "in/noise", f"in/{mode}/sigmas", "in/crossattn", "in/concat", "in/vector"
    return [Tensor(golden[name]) for name in names]


@pytest.mark.parametrize("mode", ["shared", "perframe"])
def test_loss(mode, golden, tiny_engine, agree):
    """Pynative. One noise level per clip, and the reference's one per frame."""
    g = golden("train_sv3d_p")
    objective = DiffusionLoss(tiny_engine("sv3d_p").model, 5)
    per_frame = objective.per_frame(*batch_of(g, mode))
    agree(f"train_sv3d_p {mode}/loss_per_sample", per_frame, g[f"out/{mode}/loss_per_sample"])
    agree(f"train_sv3d_p {mode}/loss, pynative", per_frame.mean(), g[f"out/{mode}/loss"])


_put = ms.ops.MultitypeFuncGraph("put")


@_put.register("Tensor", "Tensor")
def _put_one(parameter, value):
    ms.ops.assign(parameter, value)
    return True


class Rewind(nn.Cell):
    """Weights and moments as they were at first. A graph: one that has run does not see what the host sets later."""

    def __init__(self, step):
        super().__init__(auto_prefix=False)
        self.now = ms.ParameterTuple((*step.weights, *step.m, *step.v))
        self.first = self.now.clone("first", "same")
        self.map = ms.ops.HyperMap()

    def construct(self):
        return self.map(_put, self.now, self.first)


@pytest.fixture(scope="module")
def reference(golden, tiny_spec, filled):
    """What the tests below look at, all from one compiled TrainStep: torch.optim.AdamW with its defaults, no clipping.

    Per mode of noise levels the loss and {name: gradient}; the weights before and after the step of "shared", and the
    loss after it.
    """
    with safe_open(GOLDEN / "train_sv3d_p.safetensors", "np") as file:
        names = json.loads(file.metadata()["param_names"])
    denoiser = filled(Denoiser(tiny_spec("sv3d_p").unet, 1280), "model.")
    parameters = {}
    for name, parameter in denoiser.parameters_and_names():
        parameter.name = name
        parameters[name.removeprefix("diffusion_model.")] = parameter
    assert set(parameters) == set(names)
    step = TrainStep(DiffusionLoss(denoiser, 5), [parameters[name] for name in names])
    run, rewind = ms.jit(step.construct), ms.jit(Rewind(step).construct)

    def advance(mode, number, lr):
        loss, _ = run(step.rates(number, lr, 0.0), *batch_of(golden("train_sv3d_p"), mode))
        return loss, {name: moment.asnumpy() / 0.1 for name, moment in zip(names, step.m)}  # of a first step only

    def weights():
        return {name: weight.asnumpy().copy() for name, weight in zip(names, step.weights)}

    found = {"names": names, "before": weights(), "shared": advance("shared", 1, 1e-3), "after": weights()}
    found["loss_after"], _ = advance("shared", 2, 0.0)
    rewind()
    found["perframe"] = advance("perframe", 1, 1e-3)
    return found


def is_noise(golden, mode, reference):
    """Of each parameter: whether its golden gradient is rounding noise."""
    sizes = np.array([reference["before"][name].size for name in reference["names"]])
    return golden[f"out/{mode}/grad_norms"] / np.sqrt(sizes) < NOISE


@pytest.mark.parametrize("mode", ["shared", "perframe"])
def test_gradients(mode, golden, reference, agree):
    g = golden("train_sv3d_p")
    loss, gradients = reference[mode]
    agree(f"train_sv3d_p {mode}/loss, compiled", loss, g[f"out/{mode}/loss"])
    noise = is_noise(g, mode, reference)
    # Queries, keys and their norm have no effect on attention to one token; nor has a bias before a norm of one channel.
    dead = [name for name in reference["names"] if any(part in name for part in (".attn2.to_q", ".attn2.to_k", ".norm2."))]
    assert dead and all(noise[reference["names"].index(name)] for name in dead) and noise.sum() < 0.12 * len(noise)
    for name, wanted, is_none in zip(reference["names"], g[f"out/{mode}/grad_norms"], noise):
        if is_none:
            assert np.sqrt((gradients[name] ** 2).mean()) < 1e-6, name
        else:
            agree(f"train_sv3d_p {mode}/grad_norms", np.linalg.norm(gradients[name].astype(np.float64)), wanted, 1e-3)
    prefix = f"out/{mode}/grad/"
    for key in g:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and not noise[reference["names"].index(name)]:
            agree(f"train_sv3d_p {mode}/grad/*", gradients[name], g[key], 1e-3)


def test_optimiser_step(golden, reference, agree):
    """The change of every weight; the first step of AdamW goes by the gradient's sign, which noise has none of."""
    g = golden("train_sv3d_p")
    noise = is_noise(g, "shared", reference)
    before, after = reference["before"], reference["after"]
    for name, wanted, is_none in zip(reference["names"], g["out/adamw/delta_norms"], noise):
        if not is_none:
            delta = np.linalg.norm(after[name].astype(np.float64) - before[name])
            agree("train_sv3d_p adamw/delta_norms", delta, wanted, 1e-3)
    prefix = "out/adamw/param/"
    for key in g:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and not noise[reference["names"].index(name)]:
            agree("train_sv3d_p adamw/param/*", after[name], g[key])
            agree("train_sv3d_p adamw/param/*, its change", after[name] - before[name], g[key] - before[name], 1e-3)
    agree("train_sv3d_p adamw/loss_after", reference["loss_after"], g["out/adamw/loss_after"])
