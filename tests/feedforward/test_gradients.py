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


def loss_of(scenes, views, side):
    """OpenLRM's without its perceptual term: of pixels, and the total variation of the planes."""
    spec = SPECS[NAME]
    return ReconstructionLoss(network(NAME), spec, MultiScaleGradients(side), scenes, views, side, spec.volume.samples,
                              (0.0, 0.0, 5e-4))


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
def test_a_training_step_fits_ascend():
    g = golden_of(f"{NAME}_train")
    given = batch(g)
    loss = loss_of(len(given[0]), len(given[2]) // len(given[0]), given[2].shape[-1])
    arguments = {str(i): floats(*x.shape) for i, x in enumerate(given)}
    row = examined(GraphBuilder("training", lambda: TrainStep(loss, loss.network.trainable_params(), clip_norm=1.0),
                                {"rates": floats(8), **arguments}))
    assert not {"UnsortedSegmentSum", "SoftplusGrad", "CumProdGrad"} & set(row["primitives"])
