"""A training step of a video UNet twice, ours on MindSpore and diffusers' on PyTorch.

Weights, clip and noise are the same. A step is what `train.py` makes of a batch: EDM loss, its
gradient, global-norm clipping, AdamW with bias correction, moving average. PyTorch's side has its
own fused AdamW and foreach functions. A side starts from its weights and continues from step to
step; it answers with the loss and the gradient's norm, which after the first step depend on the
steps before.
"""
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import twins

from sgm.audit.golden_weights import rand
from sgm.config.model import ModelSpec, UNetSpec

# 57.6 million parameters: SVD's network at a fifth of its width, with three levels.
TRAIN = replace(ModelSpec(), name="train", unet=UNetSpec(model_channels=64, channel_mult=[1, 2, 4]))
LR, BETAS, EPS, DECAY, CLIP = 1e-4, (0.9, 0.999), 1e-8, 0.01, 1.0
FOLLOW = 1e-3           # weight of the new parameters in the moving average
SIGMA = 2.0


class Case(NamedTuple):
    """What both sides compute: steps on one clip. model: the `twins.Case` of the UNet."""
    model: twins.Case


def case_of(spec, frames, latent):
    """Return the Case of a clip of that many frames of square latents."""
    return Case(twins.Case("unet", spec, frames, latent, latent))


def inputs(case):
    """Return {name: array}: x0, noise, concat (F, z, h, w); context (1, 1, D); scalars (1, K)."""
    model = case.model
    shape = (model.frames, model.spec.unet.out_channels, model.height, model.width)
    given = twins.inputs(model)
    return {"context": given["context"], "scalars": given["scalars"],
            **{name: rand(f"parity.{name}", shape) for name in ("x0", "noise", "concat")}}


def draw_weights(case, path):
    """Write the network's weights (see `twins.draw_weights`)."""
    return twins.draw_weights(case.model, path)


def ours(case, weights):
    """Return {"step": function} on MindSpore; it returns loss and gradient norm.

    The graphs are those of `sgm.train.trainer`.
    """
    from mindspore import Tensor

    from sgm import ops
    from sgm.checkpoints.loading import load_weights
    from sgm.diffusion.engine import Engine
    from sgm.train.losses import DiffusionLoss
    from sgm.train.optimizer import TrainStep

    ops.set_device("CPU")
    model, given = case.model, inputs(case)
    engine = Engine(model.spec)
    load_weights(engine.model, weights, prefix="model.")
    parameters = list(engine.model.parameters_dict().values())
    loss = DiffusionLoss(engine.model, model.frames)
    training = TrainStep(loss, parameters, BETAS, EPS, DECAY, CLIP)
    graphs = {name: ops.compiled(getattr(training, name))
              for name in ("accumulate", "all_reduce_norm", "update")}
    scalars = dict(zip(model.spec.vector_widths, given["scalars"][0]))
    vector = engine.conditioner.vector(scalars, model.frames).asnumpy()
    arrays = (given["x0"], given["noise"], np.full(model.frames, SIGMA, np.float32),
              np.repeat(given["context"], model.frames, 0), given["concat"], vector)
    batch, one, done = [Tensor(array) for array in arrays], Tensor(np.float32(1)), 0

    def run(name, *inputs):
        return graphs[name](*inputs)

    def step():
        nonlocal done
        loss = ops.fetch(run("accumulate", one, *batch))
        norm, _ = run("all_reduce_norm", one)
        norm = float(ops.fetch(norm))
        done += 1
        rates = training.rates(done, LR, 1 - FOLLOW)
        ops.fetch(training.update_all(run, rates, Tensor(training.clip(norm))))
        return np.array([loss, norm])

    return {"step": step}


def theirs(case, weights):
    """Return the same on PyTorch, with diffusers' network."""
    import torch

    network, given = twins.network_of(case.model, weights), inputs(case)
    parameters = list(network.parameters())
    adam = torch.optim.AdamW(parameters, LR, BETAS, EPS, DECAY, fused=True)
    average = [parameter.detach().clone() for parameter in parameters]
    x0, noise, concat, context, scalars = (torch.from_numpy(given[name])
                                           for name in ("x0", "noise", "concat", "context",
                                                        "scalars"))
    noisy, variance = x0 + SIGMA * noise, SIGMA * SIGMA + 1
    sample = torch.cat((noisy / variance ** 0.5, concat), 1)[None]

    def step():
        adam.zero_grad()
        c_noise = 0.25 * np.log(np.float32(SIGMA))
        output = network(sample, c_noise, context, scalars).sample[0]
        error = noisy / variance - output * SIGMA / variance ** 0.5 - x0
        loss = (error * error).mean() * (1 + 1 / SIGMA ** 2)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, FOLLOW)
        return np.array([loss.item(), norm.item()])

    return {"step": step}
