"""Gradients of every weight, through encoder, triplanes and both passes of samples, against the public PyTorch code."""
import json

import mindspore as ms
import numpy as np
import pytest
from support.auditing import examined
from support.feedforward_goldens import SPECS, golden_of, network, tensors

from sgm.audit.diffusion_graphs import GraphBuilder, floats
from sgm.autodecoder.perceptual import MultiScaleGradients
from sgm.feedforward import rays
from sgm.feedforward.training_loss import ReconstructionLoss
from sgm.train.optimizer import TrainStep

NAME = "openlrm_kvdiff"


def loss_of(scenes, views, side, weights=(0.0, 0.0, 5e-4)):
    """By default OpenLRM's without its perceptual term: of pixels, and the total variation of the planes."""
    spec = SPECS[NAME]
    return ReconstructionLoss(network(NAME), spec, MultiScaleGradients(side), scenes, views, side, spec.volume.samples, weights)


def batch(g):
    """The arguments of the loss, of three crops of views of each scene."""
    cameras, side = g["in/render_cameras"], int(g.metadata["region_size"])
    found = []
    for camera, (row, column), size in zip(cameras.reshape(-1, 25), np.int64(g["in/render_anchors"]).reshape(-1, 2),
                                           np.int64(g["in/render_resolutions"]).reshape(-1)):
        whole = rays.pixel_rays(camera[None, :16].reshape(1, 4, 4), camera[[16, 20, 18, 21]], size, size)
        found.append([x.reshape(size, size, 3)[row:row + side, column:column + side].reshape(-1, 3) for x in whole])
    box = rays.through_box(*[np.concatenate(x) for x in zip(*found)], "openlrm", 1.0)
    samples, count = SPECS[NAME].volume.samples // 2, len(box.origins)
    background = g["in/render_bg_colors"].reshape(-1, 1, 1, 1)
    # all opaque, as the targets have their background already
    target = g["in/render_image"].reshape(-1, 3, side, side)
    target = np.concatenate([target, np.ones_like(target[:, :1])], 1)
    return tensors(g["in/image"], g["in/source_camera"], target, background, np.zeros(()), *box[:4], np.full((count, samples), 0.5),
                   np.tile(np.linspace(0, 1, samples), (count, 1)))


def test_gradients_of_all_weights():
    g = golden_of(f"{NAME}_train")
    given = batch(g)
    views, side = len(given[2]) // len(given[0]), given[2].shape[-1]
    loss = loss_of(len(given[0]), views, side)
    weights = loss.network.trainable_params()
    value, gradients = ms.value_and_grad(loss, None, ms.ParameterTuple(weights))(*given)
    g.agrees("out/loss", value)
    norms = {p.name: np.linalg.norm(x.asnumpy()) for p, x in zip(weights, gradients)}
    g.agrees("out/grad_norms", [norms[name] for name in json.loads(g.metadata["param_order"])])


@pytest.mark.slow
def test_compiled_gradients_with_all_terms():
    """The compiled step's, value by value, are those of the operators one by one: all weights on, targets half transparent.

    The loss is that of its parts, and each of the three has a gradient of its own.
    """
    given = list(batch(golden_of(f"{NAME}_train")))
    scenes, (views, _, side, _) = len(given[0]), given[2].shape
    views //= scenes
    target, rng = given[2].asnumpy().copy(), np.random.default_rng(0)
    target[:, 3] = rng.random(target[:, 3].shape, np.float32)
    target[:, :3] *= target[:, 3:]
    given[2], given[4] = ms.Tensor(target), ms.Tensor(np.float32(1))

    def found(weights, is_compiled):
        loss = loss_of(scenes, views, side, weights)
        trained = ms.ParameterTuple(loss.network.trainable_params())
        both = ms.value_and_grad(loss, None, trained)

        def step(*arguments):
            return both(*arguments)

        value, gradients = (ms.jit(step) if is_compiled else step)(*given)
        return float(value), {p.name: x.asnumpy().astype(np.float64) for p, x in zip(trained, gradients)}

    value, ours = found((1.0, 0.02, 5e-4), True)
    expected, theirs = found((1.0, 0.02, 5e-4), False)
    assert value == pytest.approx(expected, rel=1e-5)
    largest = max(np.abs(x).max() for x in theirs.values())
    for name, x in theirs.items():
        assert np.abs(ours[name] - x).max() <= 2e-5 * max(np.abs(x).max(), 1e-3 * largest), name
    # linear in the weights: the terms without one another add up to all
    parts = [found(weights, False) for weights in ((0, 0, 0), (1.0, 0, 0), (0, 0.02, 0), (0, 0, 5e-4))]
    assert parts[0][0] + sum(part[0] - parts[0][0] for part in parts[1:]) == pytest.approx(expected, rel=1e-5)
    assert all(part[0] > parts[0][0] for part in parts[1:])
    for name, x in theirs.items():
        total = parts[0][1][name] + sum(part[1][name] - parts[0][1][name] for part in parts[1:])
        assert np.abs(total - x).max() <= 2e-5 * max(np.abs(x).max(), 1e-3 * largest), name


@pytest.mark.slow
def test_a_training_step_fits_ascend():
    g = golden_of(f"{NAME}_train")
    given = batch(g)
    loss = loss_of(len(given[0]), len(given[2]) // len(given[0]), given[2].shape[-1])
    arguments = {str(i): floats(*x.shape) for i, x in enumerate(given)}
    row = examined(GraphBuilder("training", lambda: TrainStep(loss, loss.network.trainable_params(), clip_norm=1.0),
                                {"rates": floats(8), **arguments}))
    assert not {"UnsortedSegmentSum", "SoftplusGrad", "CumProdGrad"} & set(row["primitives"])
