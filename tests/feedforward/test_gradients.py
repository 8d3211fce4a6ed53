"""Gradients of every weight, through encoder, triplanes and both passes of samples, against the public PyTorch code."""
import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from support.auditing import examined
from support.feedforward_goldens import SPECS, golden_of, network, tensors

from sgm.audit.diffusion_graphs import GraphBuilder, floats
from sgm.feedforward import rays
from sgm.feedforward.marching import TwoPasses
from sgm.feedforward.triplanes import PROJECTIONS, PlaneReader
from sgm.train.optimizer import TrainStep

NAME = "openlrm_kvdiff"


class Loss(nn.Cell):
    """OpenLRM's without its perceptual term: of pixels, and the total variation of the planes."""

    def __init__(self, scenes):
        super().__init__(auto_prefix=False)
        self.net = network(NAME)
        self.march = TwoPasses(self.net.points, PlaneReader(8, PROJECTIONS["openlrm"]), SPECS[NAME].volume.samples // 2, scenes)

    def construct(self, image, camera, target, background, *given):
        planes = self.net.triplane(self.net.encode(image), camera)
        color, opacity, _, _, _ = self.march(self.net.points.project(planes), *given)
        error = color + (1 - opacity) * background - target
        right, down = planes[:, :, :, :, 1:] - planes[:, :, :, :, :-1], planes[:, :, :, 1:] - planes[:, :, :, :-1]
        return (error * error).mean() + 5e-4 * ((right * right).mean() + (down * down).mean())


def batch(g):
    """The arguments of the loss, of three crops of views."""
    cameras, side = g["in/render_cameras"], int(g.metadata["region_size"])
    found = []
    for camera, (row, column), size in zip(cameras.reshape(-1, 25), np.int64(g["in/render_anchors"]).reshape(-1, 2),
                                           np.int64(g["in/render_resolutions"]).reshape(-1)):
        whole = rays.pixel_rays(camera[None, :16].reshape(1, 4, 4), camera[[16, 20, 18, 21]], size, size)
        found.append([x.reshape(size, size, 3)[row:row + side, column:column + side].reshape(-1, 3) for x in whole])
    box = rays.through_box(*[np.concatenate(x) for x in zip(*found)], "openlrm", 1.0)
    samples, count = SPECS[NAME].volume.samples // 2, len(box.origins)
    target = g["in/render_image"].reshape(-1, 3, side * side).transpose(0, 2, 1).reshape(-1, 3)
    background = np.repeat(g["in/render_bg_colors"].reshape(-1), side * side)[:, None]
    return tensors(g["in/image"], g["in/source_camera"], target, background, *box[:4], np.full((count, samples), 0.5),
                   np.tile(np.linspace(0, 1, samples), (count, 1)))


def test_gradients_of_all_weights():
    g = golden_of(f"{NAME}_train")
    given = batch(g)
    loss = Loss(len(g["in/image"]))
    weights = loss.net.trainable_params()
    value, gradients = ms.value_and_grad(loss, None, ms.ParameterTuple(weights))(*given)
    g.agrees("out/loss", value)
    norms = {p.name: np.linalg.norm(x.asnumpy()) for p, x in zip(weights, gradients)}
    g.agrees("out/grad_norms", [norms[name] for name in json.loads(g.metadata["param_order"])])


@pytest.mark.slow
def test_a_training_step_fits_ascend():
    g = golden_of(f"{NAME}_train")
    arguments = {str(i): floats(*x.shape) for i, x in enumerate(batch(g))}
    row = examined(GraphBuilder("training", lambda: TrainStep(Loss(1), network(NAME).trainable_params(), clip_norm=1.0),
                                {"rates": floats(8), **arguments}))
    assert not {"UnsortedSegmentSum", "SoftplusGrad", "CumProdGrad"} & set(row["primitives"])
