"""A training step of the radiance field twice, ours on MindSpore and the same one on PyTorch.

Views, rays, samples and weights are the same. The host's work is the same numba code for both:
rays, positions of the samples, table entries and their weights. PyTorch's own way to read the
table, autograd of an embedding, takes 415 ms (dense) and 1824 ms (hash) on one thread at the
default sizes; so here it has the quickest of the seven forms that were tried, with its gradient
written out as ours has it: 173 and 598 ms.
"""
from typing import NamedTuple

import numpy as np

from sgm.config.reconstruction import NerfSpec
from sgm.views.cameras import Orbit

RADIUS, DISTANCE = 0.4, 2.0
VIEWS = 21


class Case(NamedTuple):
    """What both sides compute. settings: {task: NerfSpec}."""
    settings: dict


def tasks(rays, samples):
    """Return {task: NerfSpec}: both encodings at their default sizes."""
    return {f"step, {name}": NerfSpec(encoding=name, rays=rays, samples=samples)
            for name in ("dense", "hash")}


def ball(side):
    """Return views of a ball whose color is its normal, and its signed distance on a grid.

    The views are `sgm.reconstruct.posed_views.PosedViews` from all around.
    """
    from sgm.reconstruct.hull import sdf_grid
    from sgm.reconstruct.posed_views import HALF, PosedViews

    focal = side / (2 * np.tan(np.radians(33.8 / 2)))
    rgb = np.zeros((VIEWS, side, side, 3), np.float32)
    mask = np.zeros((VIEWS, side, side), np.float32)
    poses = Orbit.dynamic(1, 10, VIEWS).poses(DISTANCE)
    blank = PosedViews(rgb, mask, poses, focal, focal, side / 2, side / 2)
    rows, columns = np.divmod(np.arange(side * side), side)
    for k in range(VIEWS):
        o, d = blank.rays(np.full(len(rows), k), rows, columns)
        b = (o * d).sum(-1)
        inside = b * b - (o * o).sum(-1) + RADIUS ** 2
        normal = (o - (b + np.sqrt(np.maximum(inside, 0)))[:, None] * d) / RADIUS
        blank.mask[k] = (inside > 0).reshape(side, side)
        blank.rgb[k] = np.where(inside[:, None] > 0, 0.5 + 0.4 * normal, 0).reshape(side, side, 3)
    axis = sdf_grid.vertices(64, HALF)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    return blank, (np.sqrt(x * x + y * y + z * z) - RADIUS).astype(np.float32)


def draw_weights(case, path):
    """Write the fields' weights; return {}, the tasks of a `sides.Side` that has none."""
    from sgm.reconstruct.nerf.training import make_field

    with open(path, "wb") as file:
        np.savez(file, **{f"{task}/{parameter.name}": parameter.asnumpy()
                          for task, settings in case.settings.items()
                          for parameter in make_field(settings).trainable_params()})
    return {}


def ours(case, weights):
    """Return {task: function} on MindSpore; each call is the next step.

    It returns loss and mean squared error.
    """
    from mindspore import Tensor

    from sgm import ops
    from sgm.reconstruct.nerf.training import NerfTrainer

    ops.set_device("CPU")
    trainers = {}
    for task, settings in case.settings.items():
        trainers[task] = NerfTrainer(*ball(settings.side), settings)
        with np.load(weights) as file:
            for parameter in trainers[task].field.trainable_params():
                parameter.set_data(Tensor(file[f"{task}/{parameter.name}"]))

    def step(task):
        def run():
            loss, psnr = trainers[task].step()
            return np.array([loss, 10 ** (-psnr / 10)])
        return run

    return {task: step(task) for task in case.settings}


def theirs(case, weights):
    """Return the same on PyTorch, with its own Adam."""
    steps = {}
    for task, settings in case.settings.items():
        with np.load(weights) as file:
            given = {key.rpartition("/")[2]: file[key]
                     for key in file.files if key.startswith(task + "/")}
        steps[task] = _their_step(settings, given)
    return steps


def _their_step(settings, given):
    import torch

    from sgm.ops import adam as our_adam
    from sgm.reconstruct.nerf import training, volume_rendering
    from sgm.reconstruct.posed_views import HALF

    views, sdf = ball(settings.side)
    rays = training.Rays(views, patches=False)
    occupied = volume_rendering.occupancy(sdf, HALF, training.CELLS, training.MARGIN)
    density = np.zeros(occupied.shape, np.float32)
    levels = training.make_levels(settings)
    p = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in given.items()}
    adam = torch.optim.Adam(p.values(), betas=our_adam.BETAS, eps=our_adam.EPS, fused=True)
    read, exponential = _their_functions()
    entries = settings.rays * settings.samples * len(levels)
    indices, shares = np.empty((entries, 8), np.int32), np.empty((entries, 8, 1), np.float32)
    done = 0

    def loss_of(batch, t, delta, rgb, alpha, background):
        features = read(p["table"], *batch).reshape(settings.rays * settings.samples, -1)
        hidden = torch.relu(torch.addmm(p["hidden_bias"], features, p["hidden"]))
        sigma = exponential(torch.addmm(p["density_bias"], hidden, p["density"])).reshape(t.shape)
        hidden = torch.relu(torch.addmm(p["second_bias"], hidden, p["second"]))
        colors = torch.sigmoid(torch.addmm(p["colour_bias"], hidden, p["colour"]))
        colors = colors.reshape(*t.shape, 3)
        tau = sigma * delta
        weight = torch.exp(tau - torch.cumsum(tau, 1)) * (1 - torch.exp(-tau))
        opacity = weight.sum(-1)
        color = (weight[..., None] * colors).sum(1) + (1 - opacity)[:, None] * background
        difference = color - (rgb + (1 - alpha)[:, None] * background)
        loss = torch.sqrt((difference * difference).sum(-1) + volume_rendering.EPS).mean()
        loss = loss + settings.mask * ((opacity - alpha) ** 2).mean()
        before, moment = torch.cumsum(weight, 1) - weight, torch.cumsum(weight * t, 1) - weight * t
        pairs = (2 * weight * (t * before - moment) + weight * weight * delta / 3).sum(-1)
        return loss + settings.distortion * pairs.mean(), (difference.detach() ** 2).mean()

    def step():
        nonlocal done
        rng = np.random.RandomState([0, done])
        origins, directions, rgb, alpha, _ = rays.draw(settings.rays, rng)
        t, delta = volume_rendering.sampled(origins, directions, occupied, density, HALF,
                                            settings.samples, rng, settings.uniform)
        points = (origins[:, None] + t[..., None] * directions[:, None]).reshape(-1, 3)
        _encode(points, HALF, levels, indices, shares)
        background = rng.random_sample((settings.rays, 3)).astype(np.float32)
        batch = [torch.from_numpy(array)
                 for array in (indices, shares[..., 0], t, delta, rgb, alpha, background)]
        adam.param_groups[0]["lr"] = settings.lr * 0.1 ** (done / settings.steps)
        adam.zero_grad()
        loss, error = loss_of(batch[:2], *batch[2:])
        loss.backward()
        adam.step()
        done += 1
        return np.array([loss.item(), error.item()])

    return step


def _encode(points, half, levels, indices, shares):
    """Encode with the eight corners last, as embedding_bag wants them, and each weight once."""
    from sgm.reconstruct.nerf.encoding import _encode

    points = np.ascontiguousarray(points, np.float32)
    _encode(points, half, levels.resolution, levels.first, levels.hashed, levels.size,
            1, indices.T, shares.transpose(1, 0, 2))


def _their_functions():
    """Return the reading of the table and the truncated exponential, with their gradients."""
    import torch

    from sgm.reconstruct.nerf.field import DENSITY_BOUNDS

    class Read(torch.autograd.Function):
        @staticmethod
        def forward(ctx, table, indices, shares):
            ctx.save_for_backward(indices, shares)
            ctx.shape = table.shape
            return torch.nn.functional.embedding_bag(indices, table, per_sample_weights=shares,
                                                     mode="sum")

        @staticmethod
        def backward(ctx, gradient):
            indices, shares = ctx.saved_tensors
            parts = (gradient[:, None] * shares[..., None]).reshape(-1, ctx.shape[1])
            rows = indices.reshape(-1, 1).long().expand(-1, ctx.shape[1])
            return gradient.new_zeros(ctx.shape).scatter_add_(0, rows, parts), None, None

    class Exponential(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = torch.exp(torch.clamp(x, *DENSITY_BOUNDS))
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, gradient):
            return gradient * ctx.saved_tensors[0]

    return Read.apply, Exponential.apply
